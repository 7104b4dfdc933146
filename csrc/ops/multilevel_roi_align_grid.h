// MultilevelRoiAlign for a grid of threads (see grid.h): a thread per output element.
#pragma once

#include "core/grid.h"
#include "core/half.h"
#include "ops/multilevel_roi_align.h"

namespace densepose {

DENSEPOSE_HD float load_feature(const float* p) { return *p; }
DENSEPOSE_HD float load_feature(const Half* p) { return widen(*p); }
DENSEPOSE_HD float load_feature(const std::uint8_t* p) { return static_cast<float>(*p); }
DENSEPOSE_HD float load_feature(const std::int8_t* p) { return static_cast<float>(*p); }

// Integers round half to even and saturate.
DENSEPOSE_HD void store_feature(float x, float* p) { *p = x; }
DENSEPOSE_HD void store_feature(float x, Half* p) { *p = to_half(x); }
DENSEPOSE_HD void store_feature(float x, std::uint8_t* p) {
  *p = static_cast<std::uint8_t>(rintf(clamp_to(x, 0.0f, 255.0f)));
}
DENSEPOSE_HD void store_feature(float x, std::int8_t* p) {
  *p = static_cast<std::int8_t>(rintf(clamp_to(x, -128.0f, 127.0f)));
}

template <class T>
struct PoolElement {
  struct Level {
    const T* data;
    std::int32_t height, width;
    float scale;
  };
  Level levels[kMaxGridLevels];
  const float* boxes;
  const std::int32_t* count;
  T* out;
  std::int64_t rows, channels;
  std::int32_t level_count, first_level, canonical_level, bins, sampling_ratio;
  float canonical_box_size, zero_point;
  bool aligned, nhwc;

  DENSEPOSE_HD void operator()(std::int64_t i) const {
    std::int64_t rest = i, channel = 0;
    if (nhwc) {
      channel = rest % channels;
      rest /= channels;
    }
    const auto column = static_cast<std::int32_t>(rest % bins);
    const auto row = static_cast<std::int32_t>(rest / bins % bins);
    rest /= std::int64_t{bins} * bins;
    if (!nhwc) {
      channel = rest % channels;
      rest /= channels;
    }
    float value = 0;
    if (rest < clamp_count(*count, rows)) value = pool(load_box(boxes + 4 * rest), channel, row, column);
    store_feature(zero_point + value, out + i);
  }

  // The average of a bin's samples, from zero_point.
  DENSEPOSE_HD float pool(const Box& box, std::int64_t channel, std::int32_t row, std::int32_t column) const {
    const std::int32_t index = roi_level(box, level_count, first_level, canonical_level, canonical_box_size);
    if (index < 0) return 0;
    const Level& level = levels[index];
    const RoiAxis y_axis = roi_axis(box.y0, box.y1, level.scale, aligned, bins, sampling_ratio);
    const RoiAxis x_axis = roi_axis(box.x0, box.x1, level.scale, aligned, bins, sampling_ratio);
    if (y_axis.samples == 0 || x_axis.samples == 0) return 0;
    const SampleRange ys = samples_to_visit(y_axis, row, level.height);
    const SampleRange xs = samples_to_visit(x_axis, column, level.width);
    const std::int64_t pixel = nhwc ? channels : 1;
    const std::int64_t line = pixel * level.width;
    const T* plane = level.data + (nhwc ? channel : channel * level.height * level.width);
    float sum = 0;
    for (std::int32_t y = ys.begin; y < ys.end; ++y) {
      BilinearTap rows_tap;
      if (!bilinear_tap(sample_position(y_axis, row, y), level.height, &rows_tap)) continue;
      const T *low = plane + rows_tap.low * line, *high = plane + rows_tap.high * line;
      float low_sum = 0, high_sum = 0;
      for (std::int32_t x = xs.begin; x < xs.end; ++x) {
        BilinearTap tap;
        if (!bilinear_tap(sample_position(x_axis, column, x), level.width, &tap)) continue;
        low_sum += tap.low_weight * feature(low + tap.low * pixel) + tap.high_weight * feature(low + tap.high * pixel);
        high_sum +=
            tap.low_weight * feature(high + tap.low * pixel) + tap.high_weight * feature(high + tap.high * pixel);
      }
      sum += (rows_tap.low_weight * low_sum + rows_tap.high_weight * high_sum) / static_cast<float>(x_axis.samples);
    }
    return sum / static_cast<float>(y_axis.samples);
  }

  DENSEPOSE_HD float feature(const T* p) const { return load_feature(p) - zero_point; }
};

inline std::size_t grid_workspace(const MultilevelRoiAlign& op, Span<const Tensor>) {
  check(op.strides.size() <= kMaxGridLevels, MultilevelRoiAlign::kName, "the CUDA kernels take at most 8 levels");
  return 0;
}

template <class T, class Grid>
void pool_on(Grid& grid, const MultilevelRoiAlign& op, Span<const Tensor> inputs, const Tensor& output) {
  const std::size_t count = op.strides.size();
  const bool nhwc = op.layout == "NHWC";
  PoolElement<T> pool{};
  std::int32_t first_level = 0;
  while (op.strides[0] >> (first_level + 1)) ++first_level;
  for (std::size_t i = 0; i < count; ++i)
    pool.levels[i] = {inputs[i].as<const T>(), static_cast<std::int32_t>(inputs[i].shape[nhwc ? 1 : 2]),
                      static_cast<std::int32_t>(inputs[i].shape[nhwc ? 2 : 3]),
                      1.0f / static_cast<float>(op.strides[i])};
  pool.boxes = inputs[count].as<const float>();
  pool.count = inputs[count + 1].as<const std::int32_t>();
  pool.out = output.as<T>();
  pool.rows = inputs[count].shape[0];
  pool.channels = inputs[0].shape[nhwc ? 3 : 1];
  pool.level_count = static_cast<std::int32_t>(count);
  pool.first_level = first_level;
  pool.canonical_level = static_cast<std::int32_t>(op.canonical_level);
  pool.bins = static_cast<std::int32_t>(op.pooled_size);
  pool.sampling_ratio = static_cast<std::int32_t>(op.sampling_ratio);
  pool.canonical_box_size = static_cast<float>(op.canonical_box_size);
  pool.zero_point = static_cast<float>(op.zero_point);
  pool.aligned = op.aligned != 0;
  pool.nhwc = nhwc;
  grid.each(output.shape.elements(), pool);
}

template <class Grid>
void run_on(Grid& grid, const MultilevelRoiAlign& op, Span<const Tensor> inputs, Span<Tensor> outputs, void*) {
  switch (inputs[0].type) {
    case DataType::kFloat32: return pool_on<float>(grid, op, inputs, outputs[0]);
    case DataType::kFloat16: return pool_on<Half>(grid, op, inputs, outputs[0]);
    case DataType::kUint8: return pool_on<std::uint8_t>(grid, op, inputs, outputs[0]);
    case DataType::kInt8: return pool_on<std::int8_t>(grid, op, inputs, outputs[0]);
    default: fail(MultilevelRoiAlign::kName, std::string("no kernel for ") + name(inputs[0].type));
  }
}

}  // namespace densepose
