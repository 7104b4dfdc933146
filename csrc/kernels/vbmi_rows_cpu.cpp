#include "kernels/isa.h"
#include "kernels/vbmi_rows.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own _mm512_undefined_ps() (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#define DENSEPOSE_VBMI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))

namespace densepose {

bool has_vbmi() {
  static const bool has =
      &kernels() == &avx512::kTable && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  return has;
}

DENSEPOSE_VBMI void convolve_blocks(const std::uint8_t* row, const RowBlocks& blocks, int bits, std::uint8_t* out) {
  const RowBlock* block = blocks.blocks;
  const RowBlock* const end = block + blocks.count;
  const std::int32_t* first = blocks.first;
  const std::int64_t groups = blocks.groups, step = blocks.step;
  const __m512i half = _mm512_set1_epi32(1 << (bits - 1));
  const __m128i shift = _mm_cvtsi32_si128(bits);
  for (; block < end; out += step) {
    __m512i low = half, middle = _mm512_setzero_si512(), high = _mm512_setzero_si512();
    const RowBlock* const next = block + groups;
    do {
      const __m512i taps = _mm512_permutexvar_epi8(_mm512_load_si512(block->index), _mm512_loadu_si512(row + *first++));
      low = _mm512_dpbusd_epi32(low, taps, _mm512_load_si512(block->digits[0]));
      middle = _mm512_dpbusd_epi32(middle, taps, _mm512_load_si512(block->digits[1]));
      high = _mm512_dpbusd_epi32(high, taps, _mm512_load_si512(block->digits[2]));
    } while (++block < next);
    middle = _mm512_add_epi32(middle, _mm512_slli_epi32(high, 8));
    const __m512i sum = _mm512_srl_epi32(_mm512_add_epi32(low, _mm512_slli_epi32(middle, 8)), shift);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtusepi32_epi8(sum));
  }
}

DENSEPOSE_VBMI void look_up_pixels(const std::uint8_t* in, std::int64_t bytes, const std::uint8_t table[3][256],
                                   std::uint8_t* out) {
  __m512i tables[3][4];
  for (int c = 0; c < 3; ++c)
    for (int q = 0; q < 4; ++q) tables[c][q] = _mm512_loadu_si512(table[c] + 64 * q);
  constexpr __mmask64 kGreen = 0x2492492492492492u, kBlue = kGreen << 1;
  for (std::int64_t i = 0; i < bytes; i += 63) {  // whole pixels
    const __mmask64 valid = ~__mmask64{0} >> (bytes - i < 63 ? 64 - (bytes - i) : 1);
    const __m512i byte = _mm512_maskz_loadu_epi8(valid, in + i);
    const __mmask64 upper = _mm512_movepi8_mask(byte);
    __m512i found[3];
    for (int c = 0; c < 3; ++c)
      found[c] = _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(tables[c][0], byte, tables[c][1]),
                                        _mm512_permutex2var_epi8(tables[c][2], byte, tables[c][3]));
    const __m512i pixels = _mm512_mask_blend_epi8(kBlue, _mm512_mask_blend_epi8(kGreen, found[0], found[1]), found[2]);
    _mm512_mask_storeu_epi8(out + i, valid, pixels);
  }
}

}  // namespace densepose

#else

namespace densepose {

bool has_vbmi() { return false; }
void convolve_blocks(const std::uint8_t*, const RowBlocks&, int, std::uint8_t*) {}
void look_up_pixels(const std::uint8_t*, std::int64_t, const std::uint8_t[3][256], std::uint8_t*) {}

}  // namespace densepose

#endif
