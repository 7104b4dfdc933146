// ChartResult for a grid of threads (see grid.h): a thread per pixel.
#pragma once

#include "chart_result.h"
#include "grid.h"

namespace densepose {

inline constexpr std::size_t kMaxConfidences = 8;

// All people's share of an input.
struct ChartMap {
  const float* data;
  std::int64_t channels;
  std::int64_t person_stride, channel_stride, row_stride, pixel_stride;

  DENSEPOSE_HD float sample(std::int64_t person, std::int64_t channel, const MapTap& y, const MapTap& x) const {
    return sample_map(data + person * person_stride + channel * channel_stride, row_stride, pixel_stride, y, x);
  }

  // The first channel with the largest value; a NaN is larger than any number.
  DENSEPOSE_HD std::int64_t argmax(std::int64_t person, const MapTap& y, const MapTap& x) const {
    float best = sample(person, 0, y, x);
    std::int64_t label = 0;
    for (std::int64_t c = 1; c < channels && best == best; ++c) {
      const float value = sample(person, c, y, x);
      if (!(value <= best)) {
        best = value;
        label = c;
      }
    }
    return label;
  }
};

// Where each person's pixels begin. Boxes that the CPU refuses, and people whose pixels exceed the outputs' capacity,
// get none: a kernel can refuse nothing.
struct FindOffsets {
  const float* boxes;
  std::int64_t* offsets;  // [people + 1]
  std::int64_t people, capacity;
  DENSEPOSE_HD void operator()(std::int64_t) const {
    std::int64_t end = 0;
    offsets[0] = 0;
    for (std::int64_t person = 0; person < people; ++person) {
      const float* box = boxes + 4 * person;
      const std::int64_t height = patch_side(box[1], box[3]), width = patch_side(box[0], box[2]);
      if (height > 0 && width > 0 && width <= (capacity - end) / height) end += height * width;
      offsets[person + 1] = end;
    }
  }
};

struct PaintPixel {
  ChartMap coarse, fine, u, v;
  ChartMap confidences[kMaxConfidences];
  std::int64_t confidence_count;
  std::int32_t map_size;
  const float* boxes;
  const std::int64_t* offsets;
  std::int64_t people;
  std::uint8_t* labels;
  float *uv, *values;

  DENSEPOSE_HD void operator()(std::int64_t i) const {
    std::int64_t person = 0;
    for (std::int64_t end = people; person < end;) {  // the last person whose pixels begin at or before i
      const std::int64_t middle = (person + end) / 2;
      if (offsets[middle + 1] <= i)
        person = middle + 1;
      else
        end = middle;
    }
    if (person == people) return;  // room that nobody needs
    const float* box = boxes + 4 * person;
    const std::int64_t height = patch_side(box[1], box[3]), width = patch_side(box[0], box[2]);
    const std::int64_t begin = offsets[person], pixel = i - begin, pixels = height * width;
    const MapTap y = map_tap(pixel / width, height, map_size), x = map_tap(pixel % width, width, map_size);
    const std::int64_t label = coarse.argmax(person, y, x) > 0 ? fine.argmax(person, y, x) : 0;
    labels[i] = static_cast<std::uint8_t>(label);
    uv[2 * begin + pixel] = at_label(u, person, label, y, x);
    uv[2 * begin + pixels + pixel] = at_label(v, person, label, y, x);
    for (std::int64_t c = 0; c < confidence_count; ++c)
      values[confidence_count * begin + c * pixels + pixel] = at_label(confidences[c], person, label, y, x);
  }

  // The label's channel, 0 on background; of a map with one channel for all parts, that one.
  DENSEPOSE_HD float at_label(const ChartMap& map, std::int64_t person, std::int64_t label, const MapTap& y,
                              const MapTap& x) const {
    if (map.channels != fine.channels) return map.sample(person, 0, y, x);
    return label ? map.sample(person, label, y, x) : 0.0f;
  }
};

inline ChartMap read_chart_map(const Tensor& maps, bool nhwc) {
  const std::int64_t channels = maps.shape[nhwc ? 3 : 1], size = maps.shape[2];
  const std::int64_t person = channels * size * size;
  const float* data = maps.as<const float>();
  return nhwc ? ChartMap{data, channels, person, 1, size * channels, channels}
              : ChartMap{data, channels, person, size * size, size, 1};
}

inline std::size_t grid_workspace(const ChartResult&, Span<const Tensor> inputs) {
  check(inputs.size() <= 5 + kMaxConfidences, ChartResult::kName, "the CUDA kernels take at most 8 confidences");
  return 0;
}

// Outputs may be longer than what the boxes need: `labels` says how many pixels there is room for.
template <class Grid>
void run_on(Grid& grid, const ChartResult& op, Span<const Tensor> inputs, Span<Tensor> outputs, void*) {
  const bool nhwc = op.layout == "NHWC";
  const std::int64_t people = inputs[4].shape[0], capacity = outputs[0].shape[0];
  PaintPixel paint{};
  paint.coarse = read_chart_map(inputs[0], nhwc);
  paint.fine = read_chart_map(inputs[1], nhwc);
  paint.u = read_chart_map(inputs[2], nhwc);
  paint.v = read_chart_map(inputs[3], nhwc);
  paint.confidence_count = static_cast<std::int64_t>(inputs.size()) - 5;
  for (std::size_t i = 5; i < inputs.size(); ++i) paint.confidences[i - 5] = read_chart_map(inputs[i], nhwc);
  paint.map_size = static_cast<std::int32_t>(inputs[1].shape[2]);
  paint.boxes = inputs[4].as<const float>();
  paint.offsets = outputs[2].as<const std::int64_t>();
  paint.people = people;
  paint.labels = outputs[0].as<std::uint8_t>();
  paint.uv = outputs[1].as<float>();
  paint.values = outputs[3].as<float>();
  grid.each(1, FindOffsets{paint.boxes, outputs[2].as<std::int64_t>(), people, capacity});
  grid.each(capacity, paint);
}

}  // namespace densepose
