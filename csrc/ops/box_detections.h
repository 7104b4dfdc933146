// People from the box head's output: softmax, box decoding, clipping, score threshold, NMS, best D, and the boxes in
// the original picture. Source: detectron2 modeling/roi_heads/fast_rcnn.py, modeling/postprocessing.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "boxes/boxes.h"
#include "core/op.h"

namespace densepose {

// The softmax of (person, background), for person. NaN where torch has a NaN in either column: for a NaN or a positive
// infinity, and for two negative infinities.
DENSEPOSE_HD float person_score(const float logits[2]) {
  const float largest = larger(logits[0], logits[1]);
  const float person = expf(logits[0] - largest);
  const float background = expf(logits[1] - largest);
  return person / (person + background);
}

// Inputs: class_logits, deltas, boxes, count, sizes, score_threshold, nms_threshold, max_detections
//   class_logits     float32 [K, 2]: person, background
//   deltas           float32 [K, 4]
//   boxes            float32 [K, 4] xyxy, proposals in the resized picture
//   count            int32 [1]: rows that are valid; clamped to [0, K]
//   sizes            int32 [4]: height and width of the resized picture, height and width of the original
//   score_threshold  float32 [1]: kept where score > threshold
//   nms_threshold    float32 [1]: dropped where IoU > threshold
//   max_detections   int32 [1]: clamped to [0, capacity]
// Outputs, best first, zero beyond count:
//   boxes_network    float32 [capacity, 4] in the resized picture
//   boxes_original   float32 [capacity, 4] in the original one: scaled and clipped; boxes that are empty there are
//                    dropped after the best max_detections were taken, as detectron2 does
//   scores           float32 [capacity]
//   count            int32 [1]
struct BoxDetections {
  static constexpr const char* kName = "BoxDetections";
  static constexpr std::size_t kOutputs = 4;
  static constexpr Trim kTrim = {3, 3};

  std::vector<float> bbox_weights{10, 10, 5, 5};
  std::int64_t capacity = 100;

  template <class Visitor>
  void visit(Visitor&& v) {
    v("bbox_weights", bbox_weights);
    v("capacity", capacity);
  }

  void validate() const;
  void infer(Span<const Tensor> inputs, Span<Tensor> outputs) const;
  void run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const;
  std::size_t workspace_bytes(Span<const Tensor> inputs) const;
  void launch(Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace, CudaStream stream) const;
};

}  // namespace densepose
