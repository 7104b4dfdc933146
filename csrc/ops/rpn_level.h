// One level of the RPN's raw output: where a value stands in it, and what an anchor becomes.
#pragma once

#include <cstdint>

#include "boxes/boxes.h"
#include "ops/generate_proposals.h"

namespace densepose {

// How to find a value in a level, whatever the layout.
struct RpnLevel {
  const float* data;
  std::int64_t height, width;
  std::int64_t pixel_stride, channel_stride;
  std::int64_t anchors;       // per pixel
  std::int64_t first_anchor;  // where this level's cell anchors begin in the op's list
  std::int64_t stride;

  DENSEPOSE_HD std::int64_t pixels() const { return height * width; }
  DENSEPOSE_HD std::int64_t size() const { return pixels() * anchors; }
  DENSEPOSE_HD bool planar() const { return pixel_stride == 1; }
  DENSEPOSE_HD float objectness(std::int64_t pixel, std::int64_t anchor) const {
    return data[pixel * pixel_stride + anchor * channel_stride];
  }
  DENSEPOSE_HD float delta(std::int64_t pixel, std::int64_t anchor, std::int64_t i) const {
    return data[pixel * pixel_stride + (anchors + 4 * anchor + i) * channel_stride];
  }
};

inline RpnLevel read_level(const Tensor& rpn, const GenerateProposals& op, std::size_t i) {
  const bool nhwc = op.layout == "NHWC";
  const std::int64_t anchors = static_cast<std::int64_t>(op.anchors.size() / (4 * op.strides.size()));
  const std::int64_t height = rpn.shape[nhwc ? 1 : 2], width = rpn.shape[nhwc ? 2 : 3];
  return {rpn.as<const float>(),
          height,
          width,
          nhwc ? 5 * anchors : 1,
          nhwc ? 1 : height * width,
          anchors,
          static_cast<std::int64_t>(i) * 4 * anchors,
          op.strides[i]};
}

struct Proposal {
  Box box;
  float score;
};

// `index` counts pixels, then the anchors of a pixel; `cell_anchors` are this level's.
DENSEPOSE_HD Proposal decode(const RpnLevel& level, const float* cell_anchors, std::uint32_t index, float anchor_offset,
                             const float* weights) {
  const auto anchors = static_cast<std::uint32_t>(level.anchors), width = static_cast<std::uint32_t>(level.width);
  const std::uint32_t pixel = index / anchors, a = index % anchors;
  const Box anchor = anchor_at(cell_anchors + 4 * a, pixel / width, pixel % width, level.stride, anchor_offset);
  const float deltas[4] = {level.delta(pixel, a, 0), level.delta(pixel, a, 1), level.delta(pixel, a, 2),
                           level.delta(pixel, a, 3)};
  return {apply_deltas(anchor, deltas, weights), level.objectness(pixel, a)};
}

// Whether an anchor, once clipped, can be a proposal.
DENSEPOSE_HD bool usable(const Proposal& p) { return finite(p.box) && finite(p.score); }

}  // namespace densepose
