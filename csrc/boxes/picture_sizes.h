// The input `sizes` of the ops that clip boxes: int32 [4], height and width of the resized picture, then of the
// original.
#pragma once

#include "boxes/boxes.h"
#include "core/op.h"

namespace densepose {

struct PictureSizes {
  float height, width;  // resized: what the network saw
  float original_height, original_width;
  float scale_x, scale_y;  // from the resized to the original picture
};

inline void check_sizes(const Tensor& sizes, const char* op) {
  check_tensor(sizes, DataType::kInt32, {4}, op, "sizes");
  if (!sizes.data) return;
  for (int i = 0; i < 4; ++i)
    if (sizes.as<const std::int32_t>()[i] <= 0) fail(op, "input sizes must be positive");
}

DENSEPOSE_HD PictureSizes read_sizes(const std::int32_t* sizes) {
  // The ratios are taken in double and rounded once, as Python and torch do.
  return {static_cast<float>(sizes[0]),
          static_cast<float>(sizes[1]),
          static_cast<float>(sizes[2]),
          static_cast<float>(sizes[3]),
          static_cast<float>(static_cast<double>(sizes[3]) / sizes[1]),
          static_cast<float>(static_cast<double>(sizes[2]) / sizes[0])};
}

DENSEPOSE_HD Box to_original(const Box& box, const PictureSizes& sizes) {
  return clip(scale(box, sizes.scale_x, sizes.scale_y), sizes.original_height, sizes.original_width);
}

inline PictureSizes read_sizes(const Tensor& sizes) { return read_sizes(sizes.as<const std::int32_t>()); }

}  // namespace densepose
