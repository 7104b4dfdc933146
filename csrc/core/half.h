// IEEE 754 binary16 as its bits, so that host compilers need no such type.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/op.h"

namespace densepose {

struct Half {
  std::uint16_t bits;
};

DENSEPOSE_HD float widen(Half half) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half.bits));
  return value;
#else
  const std::uint32_t sign = static_cast<std::uint32_t>(half.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = half.bits & 0x7fffu;
  std::uint32_t bits = magnitude << 13;
  float value;
  if (magnitude >= 0x7c00u) {  // infinity and NaN
    bits += 0x70000000u;
  } else {
    std::memcpy(&value, &bits, sizeof value);
    value *= 5.192296858534828e33f;  // 2^112, the difference of the exponents' biases; exact for subnormals too
    std::memcpy(&bits, &value, sizeof bits);
  }
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

// Rounds half to even.
DENSEPOSE_HD Half to_half(float value) {
#if defined(__CUDA_ARCH__)
  Half half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
  return half;
#else
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  bits &= 0x7fffffffu;
  std::uint32_t rounded;
  if (bits > 0x7f800000u) {
    rounded = 0x7fffu;  // NaN
  } else if (bits >= 0x477ff000u) {
    rounded = 0x7c00u;              // rounds to infinity
  } else if (bits < 0x38800000u) {  // subnormal: adding 0.5 lets the processor round to a multiple of 2^-24
    float magnitude;
    std::memcpy(&magnitude, &bits, sizeof magnitude);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, sizeof bits);
    rounded = bits - 0x3f000000u;
  } else {
    rounded = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | rounded)};
#endif
}

}  // namespace densepose
