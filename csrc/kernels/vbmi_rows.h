// What AVX-512 with VBMI and VNNI does to a row of bytes many times faster than plain code: one instruction puts 64
// bytes in any order or looks them up, and one multiplies bytes and adds up the products. Only where has_vbmi().
#pragma once

#include <cstdint>

namespace densepose {

bool has_vbmi();

// Up to 16 neighboring bytes of output, four taps of each: lane l is what the weights of taps 4 l .. 4 l + 3 give for
// the bytes at those indices, which count from the block's first byte. A weight is three digits to the base 256, each
// from -128 to 127, the lowest first: the products' sum is exact.
struct RowBlock {
  static constexpr std::int64_t kTaps = 4;
  alignas(64) std::uint8_t index[64];
  std::int8_t digits[3][64];
};

struct RowBlocks {
  const RowBlock* blocks;     // [count], `groups` adjacent ones for the taps of the same output
  const std::int32_t* first;  // [count]; 64 bytes are readable from there
  std::int64_t count, groups;
  std::int64_t step;  // bytes of output from one group to the next
};

// Sums, as integers with `bits` bits after the point, rounded and cut off at 255. Every block writes 16 bytes, of which
// the next overwrites those beyond `step`.
void convolve_blocks(const std::uint8_t* row, const RowBlocks& blocks, int bits, std::uint8_t* out);

// out[i] = table[i % 3][in[i]]
void look_up_pixels(const std::uint8_t* in, std::int64_t bytes, const std::uint8_t table[3][256], std::uint8_t* out);

}  // namespace densepose
