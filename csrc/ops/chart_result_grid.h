// ChartResult for a grid of threads (see grid.h): a thread per pixel.
#pragma once

#include "core/grid.h"
#include "ops/chart_result.h"

namespace densepose {

inline constexpr std::size_t kMaxConfidences = 8;

// All people's share of a map, whatever the layout: in cells of block x block pixels.
struct ChartMap {
  const float* data;
  std::int64_t channels;
  std::int64_t person_stride, channel_stride;
  std::int64_t block;
  std::int64_t row_stride, column_stride;              // of cells
  std::int64_t block_row_stride, block_column_stride;  // within one

  DENSEPOSE_HD std::int64_t row(std::int64_t y) const { return y / block * row_stride + y % block * block_row_stride; }
  DENSEPOSE_HD std::int64_t column(std::int64_t x) const {
    return x / block * column_stride + x % block * block_column_stride;
  }
  // One channel at one output pixel; horizontally first, as torch sums.
  DENSEPOSE_HD float sample(std::int64_t person, std::int64_t channel, const MapTap& y, const MapTap& x) const {
    const float* map = data + person * person_stride + channel * channel_stride;
    const float *low = map + row(y.low), *high = map + row(y.high);
    const std::int64_t left = column(x.low), right = column(x.high);
    const float top = low[left] * x.low_weight + low[right] * x.high_weight;
    const float bottom = high[left] * x.low_weight + high[right] * x.high_weight;
    return top * y.low_weight + bottom * y.high_weight;
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

// Map number `map` of a call: coarse_segm, fine_segm, u, v, confidences, each a tensor or some channels of one.
inline ChartMap read_chart_map(const ChartResult& op, Span<const Tensor> inputs, std::size_t map) {
  const bool nhwc = op.layout == "NHWC", packed = !op.channels.empty();
  const Tensor& source = inputs[packed ? 0 : map + (map >= 4)];
  const std::int64_t all = source.shape[nhwc ? 3 : 1], cells = source.shape[2];
  const std::int64_t plane = nhwc ? 1 : cells * cells, cell = nhwc ? all : 1;
  const std::int64_t block = op.block, channel = block * block * plane;
  std::int64_t before = 0;
  for (std::size_t i = 0; packed && i < map; ++i) before += op.channels[i];
  return {source.as<const float>() + before * channel,
          packed ? op.channels[map] : all,
          all * cells * cells,
          channel,
          block,
          cells * cell,
          cell,
          block * plane,
          plane};
}

inline std::size_t chart_maps(const ChartResult& op, Span<const Tensor> inputs) {
  return op.channels.empty() ? inputs.size() - 1 : op.channels.size();
}

inline std::size_t grid_workspace(const ChartResult& op, Span<const Tensor> inputs) {
  check(chart_maps(op, inputs) <= 4 + kMaxConfidences, ChartResult::kName,
        "the CUDA kernels take at most 8 confidences");
  return 0;
}

// Outputs may be longer than what the boxes need: `labels` says how many pixels there is room for.
template <class Grid>
void run_on(Grid& grid, const ChartResult& op, Span<const Tensor> inputs, Span<Tensor> outputs, void*) {
  const Tensor& boxes = inputs[op.channels.empty() ? 4 : 1];
  const std::int64_t people = boxes.shape[0], capacity = outputs[0].shape[0];
  const std::size_t maps = chart_maps(op, inputs);
  PaintPixel paint{};
  paint.coarse = read_chart_map(op, inputs, 0);
  paint.fine = read_chart_map(op, inputs, 1);
  paint.u = read_chart_map(op, inputs, 2);
  paint.v = read_chart_map(op, inputs, 3);
  paint.confidence_count = static_cast<std::int64_t>(maps) - 4;
  for (std::size_t i = 4; i < maps; ++i) paint.confidences[i - 4] = read_chart_map(op, inputs, i);
  paint.map_size = static_cast<std::int32_t>(inputs[0].shape[2] * op.block);
  paint.boxes = boxes.as<const float>();
  paint.offsets = outputs[2].as<const std::int64_t>();
  paint.people = people;
  paint.labels = outputs[0].as<std::uint8_t>();
  paint.uv = outputs[1].as<float>();
  paint.values = outputs[3].as<float>();
  grid.each(1, FindOffsets{paint.boxes, outputs[2].as<std::int64_t>(), people, capacity});
  grid.each(capacity, paint);
}

}  // namespace densepose
