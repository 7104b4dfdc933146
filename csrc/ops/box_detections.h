// Objects from the box head's output: softmax, box decoding, clipping, score threshold, NMS within each class, best D,
// and the boxes in the original picture. Source: detectron2 modeling/roi_heads/fast_rcnn.py,
// modeling/postprocessing.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "boxes/boxes.h"
#include "core/op.h"

namespace densepose {

inline constexpr std::int64_t kMaxClasses = 1024;             // far beyond any detector, and a row's scores stay small
inline constexpr std::int64_t kMaxCandidates = kMaxCapacity;  // rows times classes

// What the box head says of its rows: a candidate is a row and a class.
struct HeadRows {
  const float *logits, *deltas, *proposals;
  std::int64_t classes;  // without the background
  std::int64_t moves;    // deltas of a row: one for each class, or one for all of them

  // The softmax of a row's logits, for all classes but the background. NaN where torch has a NaN in any column: for a
  // NaN or a positive infinity, and where all are negative infinities.
  DENSEPOSE_HD void score(std::int64_t row, float* scores) const {
    const float* of_row = logits + row * (classes + 1);
    float largest = of_row[0];
    for (std::int64_t c = 1; c <= classes; ++c) largest = larger(largest, of_row[c]);
    float sum = 0;
    for (std::int64_t c = 0; c < classes; ++c) sum += scores[c] = expf(of_row[c] - largest);
    sum += expf(of_row[classes] - largest);
    for (std::int64_t c = 0; c < classes; ++c) scores[c] /= sum;
  }

  // The same for the only class, in registers.
  DENSEPOSE_HD float only_score(std::int64_t row) const {
    const float* of_row = logits + 2 * row;
    const float largest = larger(of_row[0], of_row[1]);
    const float object = expf(of_row[0] - largest);
    return object / (object + expf(of_row[1] - largest));
  }

  DENSEPOSE_HD Box decode(std::int64_t row, std::int64_t of_class, const float weights[4]) const {
    const std::int64_t move = row * moves + (moves == 1 ? 0 : of_class);
    return apply_deltas(load_box(proposals + 4 * row), deltas + 4 * move, weights);
  }

  // detectron2 drops a row from which any class would get a box that is not finite.
  DENSEPOSE_HD bool finite_boxes(std::int64_t row, const float weights[4]) const {
    for (std::int64_t c = 0; c < moves; ++c)
      if (!finite(decode(row, c, weights))) return false;
    return true;
  }
};

inline HeadRows head_rows(Span<const Tensor> inputs) {
  return {inputs[0].as<const float>(), inputs[1].as<const float>(), inputs[2].as<const float>(), inputs[0].shape[1] - 1,
          inputs[1].shape[1] / 4};
}

// Inputs: class_logits, deltas, boxes, count, sizes, score_threshold, nms_threshold, max_detections
//   class_logits     float32 [K, C + 1]: C classes (one: person), then the background
//   deltas           float32 [K, 4 C], those of each class, or [K, 4], the same for all
//   boxes            float32 [K, 4] xyxy, proposals in the resized picture
//   count            int32 [1]: rows that are valid; clamped to [0, K]
//   sizes            int32 [4]: height and width of the resized picture, height and width of the original
//   score_threshold  float32 [1]: a row and a class are a candidate where score > threshold
//   nms_threshold    float32 [1]: dropped where IoU with a better one of the same class > threshold
//   max_detections   int32 [1], of all classes together: clamped to [0, capacity]
// Outputs, best first (of equal scores the lower row, then the lower class), zero beyond count:
//   boxes_network    float32 [capacity, 4] in the resized picture
//   boxes_original   float32 [capacity, 4] in the original one: scaled and clipped; boxes that are empty there are
//                    dropped after the best max_detections were taken, as detectron2 does
//   scores           float32 [capacity]
//   count            int32 [1]
//   classes          int32 [capacity], from 0
struct BoxDetections {
  static constexpr const char* kName = "BoxDetections";
  static constexpr std::size_t kOutputs = 5;
  static constexpr Trim kTrim = {3, 5};

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
