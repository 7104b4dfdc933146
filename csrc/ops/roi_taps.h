// An axis of a RoI, reduced to the source pixels that its bins average and their weights.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/scratch.h"
#include "kernels/kernels.h"
#include "ops/multilevel_roi_align.h"

namespace densepose {

// Source pixels [begin, end) of an axis; empty where begin >= end.
struct PixelRange {
  std::int32_t begin, end;
};

// A source pixel that several samples touch becomes one tap. Returns which pixels are read. `weights`: [size] zeros,
// left as zeros.
inline PixelRange find_taps(const RoiAxis& axis, std::int32_t bins, std::int32_t size, float* weights, AxisTaps taps) {
  const float samples = static_cast<float>(axis.samples);
  PixelRange read{size, 0};
  std::int32_t count = 0;
  taps.first[0] = 0;
  constexpr std::int32_t kOffsets = 16;  // more samples than this have their divisions again in every bin
  float offsets[kOffsets];
  for (std::int32_t i = 0; i < std::min(kOffsets, axis.samples); ++i) offsets[i] = sample_offset(axis, i);
  for (std::int32_t bin = 0; bin < bins; ++bin) {
    const SampleRange range = samples_to_visit(axis, bin, size);
    PixelRange bin_read{size, 0};
    const float origin = axis.start + static_cast<float>(bin) * axis.bin;
    for (std::int32_t i = range.begin; i < range.end; ++i) {
      BilinearTap tap;
      if (!bilinear_tap(origin + (i < kOffsets ? offsets[i] : sample_offset(axis, i)), size, &tap)) continue;
      weights[tap.low] += tap.low_weight;
      weights[tap.high] += tap.high_weight;
      bin_read = {std::min(bin_read.begin, tap.low), std::max(bin_read.end, tap.high + 1)};
    }
    for (std::int32_t i = bin_read.begin; i < bin_read.end; ++i) {
      taps.index[count] = i;
      taps.weight[count] = weights[i] / samples;
      count += weights[i] != 0.0f;  // in place of a branch that no processor could predict
      weights[i] = 0.0f;
    }
    taps.first[bin + 1] = count;
    read = {std::min(read.begin, bin_read.begin), std::max(read.end, bin_read.end)};
  }
  return read;
}

// How many taps a bin can have: no more than there are pixels, or two per sample.
inline std::int64_t max_taps_per_bin(std::int64_t sampling_ratio, std::int64_t size) {
  return sampling_ratio > 0 ? std::min(size, 2 * sampling_ratio) : size;
}

inline AxisTaps take_axis_taps(std::int64_t bins, std::int64_t taps_per_bin, Scratch& scratch) {
  const auto taps = static_cast<std::size_t>(bins * taps_per_bin + 1);  // find_taps() may write one in vain
  return {scratch.take<std::int32_t>(static_cast<std::size_t>(bins + 1)), scratch.take<std::int32_t>(taps),
          scratch.take<float>(taps)};
}

inline RowTaps taps_of_bin(AxisTaps taps, std::int32_t bin) {
  const std::int32_t first = taps.first[bin];
  return {taps.index + first, taps.weight + first, taps.first[bin + 1] - first};
}

inline float weight_sum(AxisTaps taps, std::int32_t bin) {
  float sum = 0;
  for (std::int32_t t = taps.first[bin]; t < taps.first[bin + 1]; ++t) sum += taps.weight[t];
  return sum;
}

inline InterleavedTaps take_interleaved_taps(std::int64_t bins, std::int64_t taps_per_bin, Scratch& scratch) {
  const std::int64_t stride = (bins + kBinPadding - 1) / kBinPadding * kBinPadding;
  const auto taps = static_cast<std::size_t>(stride * taps_per_bin);
  return {scratch.take<std::int32_t>(taps), scratch.take<float>(taps), 0, static_cast<std::int32_t>(stride)};
}

inline void interleave(AxisTaps taps, std::int32_t bins, InterleavedTaps* out) {
  out->depth = 0;
  for (std::int32_t bin = 0; bin < bins; ++bin)
    out->depth = std::max(out->depth, taps.first[bin + 1] - taps.first[bin]);
  std::fill_n(out->index, out->depth * out->stride, -1);
  std::fill_n(out->weight, out->depth * out->stride, 0.0f);
  for (std::int32_t bin = 0; bin < bins; ++bin)
    for (std::int32_t t = taps.first[bin]; t < taps.first[bin + 1]; ++t) {
      const std::int32_t at = (t - taps.first[bin]) * out->stride + bin;
      out->index[at] = taps.index[t];
      out->weight[at] = taps.weight[t];
    }
}

}  // namespace densepose
