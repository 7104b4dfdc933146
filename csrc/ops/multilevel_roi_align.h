// RoIAlign over a feature pyramid: each box reads the one level that fits its size. Source: detectron2
// modeling/poolers.py (level rule: FPN paper, eq. 1) and layers/roi_align.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "boxes/boxes.h"
#include "core/op.h"

namespace densepose {

// One axis of one RoI, in pixels of its level.
struct RoiAxis {
  float start;           // of the first bin
  float bin;             // side of a bin; negative for an inverted box
  std::int32_t samples;  // per bin, evenly spaced; 0: the RoI reads nothing
};

// More samples than this cannot come from a picture: a finite level has a vanishing share in their average, and
// detectron2 overflows. A box that asks for more, or that is not finite, reads nothing.
inline constexpr float kMaxSamples = 1 << 30;

DENSEPOSE_HD RoiAxis roi_axis(float low, float high, float scale, bool aligned, std::int32_t bins,
                              std::int32_t sampling_ratio) {
  const float offset = aligned ? 0.5f : 0.0f;
  const float start = low * scale - offset;
  float length = (high * scale - offset) - start;
  if (!aligned && length < 1.0f) length = 1.0f;
  const float bin = length / static_cast<float>(bins);
  const float samples = sampling_ratio > 0 ? static_cast<float>(sampling_ratio) : ceilf(bin);
  const bool readable = finite(start) && finite(bin) && samples > 0 && samples <= kMaxSamples;
  return {start, bin, readable ? static_cast<std::int32_t>(samples) : 0};
}

// Where a sample lies in its bin, and in the level.
DENSEPOSE_HD float sample_offset(const RoiAxis& axis, std::int32_t sample) {
  return (static_cast<float>(sample) + 0.5f) * axis.bin / static_cast<float>(axis.samples);
}

DENSEPOSE_HD float sample_position(const RoiAxis& axis, std::int32_t bin, std::int32_t sample) {
  return axis.start + static_cast<float>(bin) * axis.bin + sample_offset(axis, sample);
}

struct SampleRange {
  std::int32_t begin, end;
};

// All of a bin's samples that can lie in a level of `size` pixels, and perhaps some that do not. Only bins of a size
// that no ordinary box has are cut short, so that a box much larger than the picture costs no more than the picture.
DENSEPOSE_HD SampleRange samples_to_visit(const RoiAxis& axis, std::int32_t bin, std::int32_t size) {
  if (!(axis.bin > 64)) return {0, axis.samples};
  const double step = static_cast<double>(axis.bin) / axis.samples;
  const double origin = static_cast<double>(axis.start) + static_cast<double>(bin) * axis.bin;
  // What sample_position() may be off by in float32, and one to spare.
  const double extent = fabs(static_cast<double>(axis.start)) + (bin + 1.0) * axis.bin;
  const double margin = 1 + extent * (1.0 / (1 << 21)) / step;
  const double begin = (-1 - origin) / step - 1 - margin;
  const double end = (size - origin) / step + 1 + margin;
  const double last = axis.samples;
  return {static_cast<std::int32_t>(fmin(fmax(begin, 0.0), last)),
          static_cast<std::int32_t>(fmin(fmax(end, 0.0), last))};
}

// The two pixels that a sample lies between, and their weights.
struct BilinearTap {
  std::int32_t low, high;
  float low_weight, high_weight;
};

// False, and no tap, more than a pixel outside of a level of `size` pixels, where features are zero (or zero_point).
DENSEPOSE_HD bool bilinear_tap(float position, std::int32_t size, BilinearTap* tap) {
  if (!(position >= -1.0f && position <= static_cast<float>(size))) return false;
  position = larger(position, 0.0f);
  const std::int32_t low = static_cast<std::int32_t>(position);
  if (low >= size - 1) {
    *tap = {size - 1, size - 1, 1.0f, 0.0f};
  } else {
    const float high_weight = position - static_cast<float>(low);
    *tap = {low, low + 1, 1.0f - high_weight, high_weight};
  }
  return true;
}

// Which of `levels` levels a box is pooled from, the first being number `first_level` (log2 of its stride); -1: none. A
// box whose area is not a number (one inverted side) goes nowhere, as in detectron2, unless there is only one level.
DENSEPOSE_HD std::int32_t roi_level(const Box& box, std::int32_t levels, std::int32_t first_level,
                                    std::int32_t canonical_level, float canonical_box_size) {
  if (levels == 1) return 0;
  const float size = sqrtf(area(box));
  const float level = floorf(static_cast<float>(canonical_level) + log2f(size / canonical_box_size + 1e-8f));
  if (!(level == level)) return -1;
  const float first = static_cast<float>(first_level), last = static_cast<float>(first_level + levels - 1);
  return static_cast<std::int32_t>(clamp_to(level, first, last)) - first_level;
}

// Inputs: level_0 .. level_{L-1}, boxes, count
//   level_i  [1, C, H_i, W_i], or [1, H_i, W_i, C] with layout NHWC; float32, float16, uint8 or int8, all of one type
//   boxes    float32 [N, 4] xyxy in pixels of the network's input
//   count    int32 [1]: rows of boxes that are valid; clamped to [0, N]
// Output: the levels' type, [N, C, P, P] or [N, P, P, C]; zero_point (0 for floats) beyond count.
// Quantized features: all levels share one scale and zero point and the output keeps them; a sample outside the picture
// reads zero_point; taps are summed wide and rounded once (half to even).
struct MultilevelRoiAlign {
  static constexpr const char* kName = "MultilevelRoiAlign";
  static constexpr std::size_t kOutputs = 1;
  static constexpr Trim kTrim = {};

  std::vector<std::int64_t> strides;  // [L], powers of two, each twice the last
  std::int64_t pooled_size = 7;       // P
  std::int64_t sampling_ratio = 0;    // samples per bin and axis; 0: ceil(box side / P), as detectron2
  std::int64_t aligned = 1;           // 1: ROIAlignV2 (half-pixel shift), 0: ROIAlign (no shift, boxes at least 1x1)
  std::int64_t canonical_box_size = 224;
  std::int64_t canonical_level = 4;
  std::int64_t zero_point = 0;
  std::string layout = "NCHW";

  template <class Visitor>
  void visit(Visitor&& v) {
    v("strides", strides);
    v("pooled_size", pooled_size);
    v("sampling_ratio", sampling_ratio);
    v("aligned", aligned);
    v("canonical_box_size", canonical_box_size);
    v("canonical_level", canonical_level);
    v("zero_point", zero_point);
    v("layout", layout);
  }

  void validate() const;
  void infer(Span<const Tensor> inputs, Span<Tensor> outputs) const;
  void run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const;
  std::size_t workspace_bytes(Span<const Tensor> inputs) const;
  void launch(Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace, CudaStream stream) const;
};

}  // namespace densepose
