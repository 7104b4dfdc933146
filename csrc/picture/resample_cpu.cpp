#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/isa.h"
#include "picture/resample.h"

namespace densepose {
namespace {

using Pixel = std::uint32_t;
constexpr std::int64_t kRows = WidthPass::kRows;

// RGB -> every kRows-th pixel of `out`. The byte that comes along with three is the next pixel's; the last pixel may
// have no next.
void unpack(const std::uint8_t* rgb, std::int64_t width, Pixel* out) {
  const std::int64_t last = width - 1;
  for (std::int64_t x = 0; x < last; ++x) std::memcpy(out + x * kRows, rgb + 3 * x, sizeof(Pixel));
  Pixel pixel = 0;
  std::memcpy(&pixel, rgb + 3 * last, 3);
  out[last * kRows] = pixel;
}

}  // namespace

// ---- weights -------------------------------------------------------------------------------------------------------

ResampledAxis make_axis(std::int64_t in, std::int64_t out, Scratch& scratch) {
  // The order of the floating-point operations is Pillow's: another one would round differently.
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double support = std::max(scale, 1.0);
  const double steepness = 1.0 / support;
  const auto center = [&](std::int64_t i) { return (static_cast<double>(i) + 0.5) * scale; };
  const auto begin = [&](std::int64_t i) {
    return std::max(static_cast<std::int64_t>(center(i) - support + 0.5), std::int64_t{0});
  };
  const auto end = [&](std::int64_t i) { return std::min(static_cast<std::int64_t>(center(i) + support + 0.5), in); };

  std::int64_t taps = 1;
  for (std::int64_t i = 0; i < out; ++i) taps = std::max(taps, end(i) - begin(i));
  auto* first = scratch.take<std::int32_t>(out);
  auto* weights = scratch.take<std::int32_t>(out * taps);
  auto* triangle = scratch.take<double>(taps);
  std::fill_n(weights, out * taps, 0);
  for (std::int64_t i = 0; i < out; ++i) {
    const std::int64_t a = begin(i), b = end(i);
    double sum = 0;
    for (std::int64_t j = a; j < b; ++j) {
      const double distance = std::abs((static_cast<double>(j) - center(i) + 0.5) * steepness);
      sum += triangle[j - a] = std::max(1.0 - distance, 0.0);
    }
    first[i] = static_cast<std::int32_t>(std::min(a, in - taps));
    for (std::int64_t j = a; j < b; ++j)
      weights[i * taps + j - first[i]] = static_cast<std::int32_t>(0.5 + triangle[j - a] / sum * (1 << kWeightBits));
  }
  return {out, taps, first, weights};
}

// ---- the horizontal pass -------------------------------------------------------------------------------------------

WidthPass::WidthPass(std::int64_t in, std::int64_t out, Scratch& scratch)
    : in_(in), axis_(make_axis(in, out, scratch)) {
  constexpr std::int64_t kWindow = sizeof(RowBlock::index), kTaps = RowBlock::kTaps;
  if (kernels().convolve_blocks == nullptr || 3 * in < kWindow) return;
  // As many pixels as there are lanes for, and fewer where what they read would not fit into the window.
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const std::int64_t pixels = std::clamp<std::int64_t>(1 + static_cast<std::int64_t>(15 / scale), 1, 5);
  const std::int64_t groups = (axis_.taps + kTaps - 1) / kTaps;
  const std::int64_t count = (out + pixels - 1) / pixels * groups;
  auto* const blocks = scratch.take<RowBlock>(static_cast<std::size_t>(count));
  std::memset(blocks, 0, static_cast<std::size_t>(count) * sizeof(RowBlock));
  auto* const first = scratch.take<std::int32_t>(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = i / groups * pixels, tap = i % groups * kTaps;
    const std::int64_t start = std::min(3 * (axis_.first[begin] + tap), 3 * in - kWindow);
    first[i] = static_cast<std::int32_t>(start);
    for (std::int64_t x = begin; x < std::min(begin + pixels, out); ++x) {
      std::uint32_t index = 0, digits[3] = {};  // four bytes each, one per tap
      for (std::int64_t t = 0; t < std::min(kTaps, axis_.taps - tap); ++t) {
        index |= static_cast<std::uint32_t>(3 * (axis_.first[x] + tap + t) - start) << 8 * t;
        std::int32_t rest = axis_.weights[x * axis_.taps + tap + t];
        for (std::uint32_t& digit : digits) {
          const auto low = static_cast<std::int8_t>(rest);
          digit |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(low)) << 8 * t;
          rest = (rest - low) / 256;
        }
      }
      for (std::int64_t c = 0; c < 3; ++c, index += 0x01010101u) {
        const std::int64_t lane = 4 * (3 * (x - begin) + c);
        std::memcpy(blocks[i].index + lane, &index, sizeof index);
        for (int d = 0; d < 3; ++d) std::memcpy(blocks[i].digits[d] + lane, &digits[d], sizeof digits[d]);
      }
    }
  }
  blocks_ = {blocks, first, count, groups, 3 * pixels};
}

std::int64_t WidthPass::workspace() const { return blocks_.count ? 0 : (in_ + axis_.samples) * kColumnBytes; }

void WidthPass::run(const std::uint8_t* rows, std::ptrdiff_t row_stride, std::int64_t count, std::uint8_t* out,
                    std::int64_t out_stride, std::uint8_t* workspace) const {
  if (blocks_.count) {
    for (std::int64_t r = 0; r < count; ++r)
      kernels().convolve_blocks(rows + r * row_stride, blocks_, out + r * out_stride);
    return;
  }
  auto* const columns = reinterpret_cast<Pixel*>(workspace);
  auto* const resampled = columns + in_ * kRows;
  for (std::int64_t r = 0; r < kRows; ++r)  // where there are fewer rows, the last is repeated
    unpack(rows + std::min(r, count - 1) * row_stride, in_, columns + r);
  kernels().resample_columns(workspace, axis_, reinterpret_cast<std::uint8_t*>(resampled));
  for (std::int64_t r = 0; r < count; ++r) {
    std::uint8_t* const row = out + r * out_stride;  // every store spills a byte into the next pixel
    for (std::int64_t x = 0; x < axis_.samples; ++x) std::memcpy(row + 3 * x, resampled + x * kRows + r, sizeof(Pixel));
  }
}

}  // namespace densepose
