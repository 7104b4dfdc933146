// How a grid of threads finds a value in a map of the DensePose head, and whose pixel is whose (see grid.h).
#pragma once

#include "core/grid.h"
#include "ops/patches.h"

namespace densepose {

// All people's share of a map, whatever the layout: in cells of block x block pixels.
struct GridMap {
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

// The last person whose pixels begin at or before i; `people` where none has it.
DENSEPOSE_HD std::int64_t person_of(std::int64_t i, const std::int64_t* offsets, std::int64_t people) {
  std::int64_t person = 0;
  for (std::int64_t end = people; person < end;) {
    const std::int64_t middle = (person + end) / 2;
    if (offsets[middle + 1] <= i)
      person = middle + 1;
    else
      end = middle;
  }
  return person;
}

// Channels [first, first + channels) of a tensor [N, depth * block^2, S / block, S / block].
inline GridMap grid_map(const Tensor& source, bool nhwc, std::int64_t block, std::int64_t first,
                        std::int64_t channels) {
  const std::int64_t all = source.shape[nhwc ? 3 : 1], cells = source.shape[2];
  const std::int64_t plane = nhwc ? 1 : cells * cells, cell = nhwc ? all : 1, channel = block * block * plane;
  return {source.as<const float>() + first * channel,
          channels,
          all * cells * cells,
          channel,
          block,
          cells * cell,
          cell,
          block * plane,
          plane};
}

}  // namespace densepose
