/* Preloaded into sanitized processes: TBB opens libraries with RTLD_DEEPBIND, by which they would miss the sanitizer's
 * own malloc, and so AddressSanitizer ends a process that asks for it. Without the flag nothing changes here. */
#define _GNU_SOURCE
#include <dlfcn.h>

void* dlopen(const char* name, int flags) {
  static void* (*next)(const char*, int);
  if (!next) next = (void* (*)(const char*, int))dlsym(RTLD_NEXT, "dlopen");
  return next(name, flags & ~RTLD_DEEPBIND);
}
