// One vector of floats, as wide as the instruction set that this translation unit is compiled for, and what the kernels
// do with it. Everything has internal linkage: see kernels.h.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own _mm512_undefined_ps() (its bug
                                                  // 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif

namespace {

using Half = std::uint16_t;  // the bits of an IEEE 754 binary16

#if defined(__AVX512F__)

constexpr int kLanes = 16;
using Floats = __m512;
using Ints = __m512i;
using Mask = __mmask16;

inline Floats splat(float x) { return _mm512_set1_ps(x); }
inline Ints splat(std::int32_t x) { return _mm512_set1_epi32(x); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }

inline __m128i load_bytes(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline Floats load_first(const float* p, std::int64_t count) {
  return _mm512_maskz_loadu_ps(static_cast<Mask>((1u << count) - 1), p);
}
inline Floats load(const Half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Floats load(const std::uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_bytes(p))); }
inline Floats load(const std::int8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_bytes(p))); }
inline Ints load(const std::int32_t* p) { return _mm512_loadu_si512(p); }

inline void store_bytes(void* p, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(p), x); }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
inline void store(Half* p, Floats x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(std::uint8_t* p, Floats x) {
  store_bytes(p, _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(min(max(x, splat(0.0f)), splat(255.0f)))));
}
inline void store(std::int8_t* p, Floats x) {
  store_bytes(p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(min(max(x, splat(-128.0f)), splat(127.0f)))));
}
// Four vectors at once: narrowing them together costs half of what it costs one by one. A NaN becomes the lowest
// integer.
inline Ints narrow(Floats a, Floats b, Floats c, Floats d, float highest, bool to_unsigned) {
  const auto round = [=](Floats x) { return _mm512_cvtps_epi32(min(splat(highest), x)); };
  const Ints low = _mm512_packs_epi32(round(a), round(b)), high = _mm512_packs_epi32(round(c), round(d));
  const Ints bytes = to_unsigned ? _mm512_packus_epi16(low, high) : _mm512_packs_epi16(low, high);
  // Packing works in quarters of a vector.
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes);
}
inline void store_four(std::uint8_t* p, Floats a, Floats b, Floats c, Floats d) {
  _mm512_storeu_si512(p, narrow(a, b, c, d, 255.0f, true));
}
inline void store_four(std::int8_t* p, Floats a, Floats b, Floats c, Floats d) {
  _mm512_storeu_si512(p, narrow(a, b, c, d, 127.0f, false));
}
inline void store_low_bytes(std::uint8_t* p, Ints x) { store_bytes(p, _mm512_cvtepi32_epi8(x)); }

inline unsigned bits(Mask m) { return m; }
inline Mask greater(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline Mask not_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }
inline Mask ordered(Floats a) { return _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q); }
inline Mask not_less_equal(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ); }
inline Mask both(Mask a, Mask b) { return a & b; }
inline Mask all() { return 0xffff; }
inline Floats select(Mask m, Floats yes, Floats no) { return _mm512_mask_blend_ps(m, no, yes); }
inline Ints select(Mask m, Ints yes, Ints no) { return _mm512_mask_blend_epi32(m, no, yes); }

// table[index] for indices in [0, 2 * kLanes).
inline Floats look_up(const float* table, Ints index) {
  return _mm512_permutex2var_ps(load(table), index, load(table + kLanes));
}
inline void store(std::uint32_t* p, Ints x) { _mm512_storeu_si512(p, x); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints either(Ints a, Ints b) { return _mm512_or_si512(a, b); }
inline Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
inline Ints load_as_ints(const std::uint8_t* p) { return _mm512_cvtepu8_epi32(load_bytes(p)); }
inline Mask nonzero(Ints x) { return _mm512_test_epi32_mask(x, x); }

// The units of `unit` floats of a and b in turn: those of their lower halves, those of their upper ones.
template <int unit>
inline void interleave(Floats a, Floats b, Floats* lower, Floats* upper) {
  const Ints from = unit == 1 ? _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
                              : _mm512_setr_epi32(0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
  *lower = _mm512_permutex2var_ps(a, from, b);
  *upper = _mm512_permutex2var_ps(a, add(from, splat(kLanes / 2)), b);
}

// table[index] where the mask is set, else 0.
inline Floats gather(const float* table, Ints index, Mask m) {
  return _mm512_mask_i32gather_ps(splat(0.0f), m, index, table, sizeof(float));
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;
using Floats = __m256;
using Ints = __m256i;
using Mask = __m256;

inline Floats splat(float x) { return _mm256_set1_ps(x); }
inline Ints splat(std::int32_t x) { return _mm256_set1_epi32(x); }
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }

inline __m128i load_bytes(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline Floats load_first(const float* p, std::int64_t count) {
  const Ints lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(splat(static_cast<std::int32_t>(count)), lane));
}
inline Floats load(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Floats load(const std::uint8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_bytes(p))); }
inline Floats load(const std::int8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_bytes(p))); }
inline Ints load(const std::int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

inline __m128i narrow(Ints x) {  // eight int32 to eight int16, in order
  return _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
inline void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
inline void store(Half* p, Floats x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(std::uint8_t* p, Floats x) {
  const __m128i words = narrow(_mm256_cvtps_epi32(min(max(x, splat(0.0f)), splat(255.0f))));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
inline void store(std::int8_t* p, Floats x) {
  const __m128i words = narrow(_mm256_cvtps_epi32(min(max(x, splat(-128.0f)), splat(127.0f))));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
inline void store_low_bytes(std::uint8_t* p, Ints x) {
  const __m128i words = narrow(x);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}

inline unsigned bits(Mask m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
inline Mask greater(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
inline Mask not_less(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_NLT_UQ); }
inline Mask ordered(Floats a) { return _mm256_cmp_ps(a, a, _CMP_ORD_Q); }
inline Mask not_less_equal(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_NLE_UQ); }
inline Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
inline Mask all() { return _mm256_castsi256_ps(splat(-1)); }
inline Floats select(Mask m, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, m); }
inline Ints select(Mask m, Ints yes, Ints no) {
  return _mm256_castps_si256(select(m, _mm256_castsi256_ps(yes), _mm256_castsi256_ps(no)));
}

inline Floats look_up(const float* table, Ints index) {
  const Floats first = _mm256_permutevar8x32_ps(load(table), index);
  const Floats second = _mm256_permutevar8x32_ps(load(table + kLanes), index);
  return select(_mm256_castsi256_ps(_mm256_slli_epi32(index, 28)), second,
                first);  // bit 3 is the sign now
}
inline void store(std::uint32_t* p, Ints x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Ints either(Ints a, Ints b) { return _mm256_or_si256(a, b); }
inline Ints subtract(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
inline Ints multiply(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
inline Ints load_as_ints(const std::uint8_t* p) { return _mm256_cvtepu8_epi32(load_bytes(p)); }
inline Mask nonzero(Ints x) {
  return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_cmpeq_epi32(x, splat(0)), splat(-1)));
}

template <int unit>
inline void interleave(Floats a, Floats b, Floats* lower, Floats* upper) {
  Floats even, odd;  // quarters of the result
  if (unit == 1) {
    even = _mm256_unpacklo_ps(a, b);
    odd = _mm256_unpackhi_ps(a, b);
  } else {
    even = _mm256_shuffle_ps(a, b, 0x44);
    odd = _mm256_shuffle_ps(a, b, 0xee);
  }
  *lower = _mm256_permute2f128_ps(even, odd, 0x20);
  *upper = _mm256_permute2f128_ps(even, odd, 0x31);
}

inline Floats gather(const float* table, Ints index, Mask m) {
  return _mm256_mask_i32gather_ps(splat(0.0f), table, index, m, sizeof(float));
}

#else  // the vector extensions of GCC and Clang, for any processor

constexpr int kLanes = 4;
typedef float Floats __attribute__((vector_size(16)));
typedef std::int32_t Ints __attribute__((vector_size(16)));
using Mask = Ints;

inline Floats splat(float x) { return Floats{x, x, x, x}; }
inline Ints splat(std::int32_t x) { return Ints{x, x, x, x}; }
inline Floats max(Floats a, Floats b) { return a > b ? a : b; }
inline Floats min(Floats a, Floats b) { return a < b ? a : b; }

inline float widen(std::uint8_t x) { return x; }
inline float widen(std::int8_t x) { return x; }
inline float widen(Half h) {
  // The exponent is rebiased by a multiplication, which takes care of subnormal numbers.
  const std::uint32_t magnitude = (h & 0x7fffu) << 13;
  const std::uint32_t scale_bits = 0x77800000u;  // 2^112
  float x, scale;
  std::memcpy(&x, &magnitude, sizeof x);
  std::memcpy(&scale, &scale_bits, sizeof scale);
  x *= scale;
  std::uint32_t b;
  std::memcpy(&b, &x, sizeof b);
  if ((h & 0x7c00u) == 0x7c00u) b |= 0x7f800000u;  // infinity and NaN keep an exponent of ones
  b |= (h & 0x8000u) << 16;
  std::memcpy(&x, &b, sizeof x);
  return x;
}
inline Half to_half(float x) {  // rounds half to even
  std::uint32_t b;
  std::memcpy(&b, &x, sizeof b);
  const Half sign = static_cast<Half>((b >> 16) & 0x8000u);
  b &= 0x7fffffffu;
  if (b > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (b >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above round to infinity
  if (b < 0x38800000u) {                        // subnormal: adding 0.5 puts the last bit of the
                                                // result at the last bit of the sum
    float y;
    std::memcpy(&y, &b, sizeof y);
    y += 0.5f;
    std::memcpy(&b, &y, sizeof b);
    return sign | static_cast<Half>(b - 0x3f000000u);
  }
  const std::uint32_t odd = (b >> 13) & 1;
  return sign | static_cast<Half>((b - 0x38000000u + 0xfffu + odd) >> 13);
}

template <class T>
inline Floats load(const T* p) {
  return Floats{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])};
}
inline Floats load(const float* p) {
  Floats x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline Ints load(const std::int32_t* p) {
  Ints x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// Adding and subtracting 1.5 * 2^23 rounds to an integer, half to even.
inline Floats round_to_even(Floats x) { return (x + splat(12582912.0f)) - splat(12582912.0f); }
inline void store(float* p, Floats x) { std::memcpy(p, &x, sizeof x); }
inline void store(Half* p, Floats x) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_half(x[i]);
}
inline void store(std::uint8_t* p, Floats x) {
  x = round_to_even(min(max(x, splat(0.0f)), splat(255.0f)));
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<std::uint8_t>(x[i]);
}
inline void store(std::int8_t* p, Floats x) {
  x = round_to_even(min(max(x, splat(-128.0f)), splat(127.0f)));
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<std::int8_t>(x[i]);
}
inline void store_low_bytes(std::uint8_t* p, Ints x) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<std::uint8_t>(x[i]);
}

inline unsigned bits(Mask m) {
  unsigned b = 0;
  for (int i = 0; i < kLanes; ++i) b |= (m[i] ? 1u : 0u) << i;
  return b;
}
inline Mask greater(Floats a, Floats b) { return a > b; }
inline Mask not_less(Floats a, Floats b) { return ~(a < b); }
inline Mask ordered(Floats a) { return a == a; }
inline Mask not_less_equal(Floats a, Floats b) { return ~(a <= b); }
inline Mask both(Mask a, Mask b) { return a & b; }
inline Mask all() { return splat(-1); }
inline Floats select(Mask m, Floats yes, Floats no) { return m ? yes : no; }
inline Ints select(Mask m, Ints yes, Ints no) { return m ? yes : no; }

inline Floats look_up(const float* table, Ints index) {
  return Floats{table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
}
inline void store(std::uint32_t* p, Ints x) { std::memcpy(p, &x, sizeof x); }
inline Ints add(Ints a, Ints b) { return a + b; }
inline Ints either(Ints a, Ints b) { return a | b; }
inline Ints subtract(Ints a, Ints b) { return a - b; }
inline Ints multiply(Ints a, Ints b) { return a * b; }
inline Ints load_as_ints(const std::uint8_t* p) { return Ints{p[0], p[1], p[2], p[3]}; }
inline Mask nonzero(Ints x) { return x != 0; }

template <int unit>
inline void interleave(Floats a, Floats b, Floats* lower, Floats* upper) {
  *lower = unit == 1 ? Floats{a[0], b[0], a[1], b[1]} : Floats{a[0], a[1], b[0], b[1]};
  *upper = unit == 1 ? Floats{a[2], b[2], a[3], b[3]} : Floats{a[2], a[3], b[2], b[3]};
}

inline Floats gather(const float* table, Ints index, Mask m) {
  Floats x = splat(0.0f);
  for (int i = 0; i < kLanes; ++i)
    if (m[i]) x[i] = table[index[i]];
  return x;
}

#endif

template <class T>
inline void store_four(T* p, Floats a, Floats b, Floats c, Floats d) {
  store(p, a);
  store(p + kLanes, b);
  store(p + 2 * kLanes, c);
  store(p + 3 * kLanes, d);
}

// The first `count` < kLanes elements.
template <class T>
inline Floats load_first(const T* p, std::int64_t count) {
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, static_cast<std::size_t>(count) * sizeof(T));
  return load(buffer);
}
template <class T>
inline void store_first(T* p, Floats x, std::int64_t count) {
  T buffer[kLanes];
  store(buffer, x);
  std::memcpy(p, buffer, static_cast<std::size_t>(count) * sizeof(T));
}

}  // namespace
