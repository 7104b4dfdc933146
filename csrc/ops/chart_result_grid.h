// ChartResult for a grid of threads (see grid.h): a thread per pixel.
#pragma once

#include "core/grid.h"
#include "ops/chart_result.h"
#include "ops/maps_grid.h"

namespace densepose {

inline constexpr std::size_t kMaxConfidences = 8;

struct PaintPixel {
  GridMap coarse, fine, u, v;
  GridMap confidences[kMaxConfidences];
  std::int64_t confidence_count;
  std::int32_t map_size;
  const float* boxes;
  const std::int64_t* offsets;
  std::int64_t people;
  std::uint8_t* labels;
  float *uv, *values;

  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int64_t person = person_of(i, offsets, people);
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
  DENSEPOSE_HD float at_label(const GridMap& map, std::int64_t person, std::int64_t label, const MapTap& y,
                              const MapTap& x) const {
    if (map.channels != fine.channels) return map.sample(person, 0, y, x);
    return label ? map.sample(person, label, y, x) : 0.0f;
  }
};

// Map number `map` of a call: coarse_segm, fine_segm, u, v, confidences, each a tensor or some channels of one.
inline GridMap read_chart_map(const ChartResult& op, Span<const Tensor> inputs, std::size_t map) {
  const bool nhwc = op.layout == "NHWC", packed = !op.channels.empty();
  const Tensor& source = inputs[packed ? 0 : map + (map >= 4)];
  std::int64_t before = 0;
  for (std::size_t i = 0; packed && i < map; ++i) before += op.channels[i];
  return grid_map(source, nhwc, op.block, before, packed ? op.channels[map] : source.shape[nhwc ? 3 : 1]);
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
