// How the CPU's ops find a value in a map of the DensePose head, whatever its layout.
#pragma once

#include <string>

#include "kernels/kernels.h"
#include "ops/patches.h"

namespace densepose {

// One person's share of a map, and how to find a value in it, whatever the layout: in cells of block x block pixels.
struct Map {
  const float* data;
  std::int64_t channels, channel_stride;
  std::int64_t block;
  std::int64_t row_stride, column_stride;              // of cells
  std::int64_t block_row_stride, block_column_stride;  // within one

  const float* row(std::int64_t y) const { return data + y / block * row_stride + y % block * block_row_stride; }
  std::int64_t column(std::int64_t x) const { return x / block * column_stride + x % block * block_column_stride; }
  RowPair rows(const MapTap& y) const {
    return {row(y.low), row(y.high), y.low_weight, y.high_weight, channels, channel_stride};
  }
};

// The attributes that say how maps lie; `packed`: in one tensor, which `channels` cuts.
inline void check_map_attributes(const std::string& layout, std::int64_t block, bool packed, const char* op) {
  check(layout == "NCHW" || layout == "NHWC", op, "layout must be NCHW or NHWC, not " + layout);
  check(block >= 1 && block <= 16 && (block == 1 || packed), op,
        "block must be from 1 to 16, and 1 where maps come one by one");
}

inline Shape map_shape(bool nhwc, std::int64_t people, std::int64_t depth, std::int64_t size) {
  return nhwc ? Shape{people, size, size, depth} : Shape{people, depth, size, size};
}

inline void check_map_size(std::int64_t depth, std::int64_t size, const char* map, const char* op) {
  check(size != 0, op, std::string(map) + " has no pixels");
  check(size == kUnknown || depth == kUnknown || (size < 1 << 15 && depth * size * size <= kMaxPatchPixels), op,
        std::string(map) + " has more pixels than 32 bits can count");
}

// Channels [first, first + channels) of person `person`, in a tensor [N, depth * block^2, S / block, S / block].
inline Map map_of(const Tensor& source, bool nhwc, std::int64_t block, std::int64_t first, std::int64_t channels,
                  std::int64_t person) {
  const std::int64_t all = source.shape[nhwc ? 3 : 1], cells = source.shape[2];
  const std::int64_t plane = nhwc ? 1 : cells * cells, cell = nhwc ? all : 1;
  const float* data = source.as<const float>() + person * all * cells * cells + first * block * block * plane;
  return {data, channels, block * block * plane, block, cells * cell, cell, block * plane, plane};
}

}  // namespace densepose
