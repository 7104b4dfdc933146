// Plain loops that the compiler vectorizes are compiled once per instruction set, and the loader picks. They compute
// with integers, or with single float32 operations that nothing may fuse, so that every copy gives the same bits.
#pragma once

#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_THREAD__)  // ThreadSanitizer is not up yet when the loader picks
#define DENSEPOSE_SIMD_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#define DENSEPOSE_INLINE inline __attribute__((always_inline))
#else
#define DENSEPOSE_SIMD_CLONES
#define DENSEPOSE_INLINE inline
#endif
