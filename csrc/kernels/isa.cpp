#include "kernels/isa.h"

#include <cstdlib>
#include <cstring>

namespace densepose {
namespace {

#if defined(__x86_64__)
const Kernels* const kBestFirst[] = {&avx512vbmi::kTable, &avx512::kTable, &avx2::kTable, &baseline::kTable};

bool supported(const Kernels* k) {
  if (k == &baseline::kTable) return true;
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (k == &avx2::kTable) return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (k == &avx512::kTable) return avx512;
  return avx512 && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
}
#else
const Kernels* const kBestFirst[] = {&baseline::kTable};

bool supported(const Kernels*) { return true; }
#endif

const Kernels& choose() {
  const char* wanted = std::getenv("DENSEPOSE_ISA");
  const Kernels* best = nullptr;
  for (const Kernels* k : kBestFirst) {
    if (!supported(k)) continue;
    if (!best) best = k;
    if (wanted && std::strcmp(wanted, k->isa) == 0) return *k;
  }
  return *best;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const char* isa_name() { return kernels().isa; }

}  // namespace densepose
