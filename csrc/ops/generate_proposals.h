// Region proposals from the RPN's raw output: per-level top-k, box decoding, clipping, NMS within each level, and the
// best of all levels. Source: detectron2 modeling/proposal_generator/{rpn,proposal_utils}.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/op.h"

namespace densepose {

// Inputs: rpn_0 .. rpn_{L-1}, sizes, max_proposals
//   rpn_i          float32 [1, 5A, H_i, W_i], or [1, H_i, W_i, 5A] with layout NHWC: A objectness logits, then 4A
//                  deltas, anchor-major (dx, dy, dw, dh per anchor). The two 1x1 heads of the RPN are one convolution here.
//   sizes          int32 [4]: height and width of the resized picture (boxes are clipped to it), and of the original
//   max_proposals  int32 [1]: how many to keep at most; clamped to [0, capacity]
// Outputs, best first:
//   boxes          float32 [capacity, 4] xyxy in pixels of the resized picture, zero beyond count
//   scores         float32 [capacity] objectness logits, -inf beyond count
//   count          int32 [1]
struct GenerateProposals {
  static constexpr const char* kName = "GenerateProposals";
  static constexpr std::size_t kOutputs = 3;
  static constexpr Trim kTrim = {2, 2};  // outputs: boxes, scores, count

  std::vector<std::int64_t> strides;  // [L]
  std::vector<float> anchors;         // [L * A * 4]: xyxy around the origin, level by level
  std::vector<float> bbox_weights{1, 1, 1, 1};
  float anchor_offset = 0;  // of a stride
  float nms_threshold = 0.7f;
  float min_size = 0;                // boxes with a side <= min_size are dropped
  std::int64_t pre_nms_topk = 1000;  // per level
  std::int64_t capacity = 1000;      // rows of the output
  std::string layout = "NCHW";

  template <class Visitor>
  void visit(Visitor&& v) {
    v("strides", strides);
    v("anchors", anchors);
    v("bbox_weights", bbox_weights);
    v("anchor_offset", anchor_offset);
    v("nms_threshold", nms_threshold);
    v("min_size", min_size);
    v("pre_nms_topk", pre_nms_topk);
    v("capacity", capacity);
    v("layout", layout);
  }

  void validate() const;
  void infer(Span<const Tensor> inputs, Span<Tensor> outputs) const;
  void run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const;
  std::size_t workspace_bytes(Span<const Tensor> inputs) const;
  void launch(Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace, CudaStream stream) const;
};

}  // namespace densepose
