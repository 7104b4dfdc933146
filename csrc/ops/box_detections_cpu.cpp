#include <algorithm>
#include <array>
#include <cmath>

#include "boxes/boxes.h"
#include "boxes/nms.h"
#include "boxes/picture_sizes.h"
#include "boxes/ranking.h"
#include "boxes/sort_keys.h"
#include "ops/box_detections.h"

namespace densepose {
namespace {

constexpr const char* kName = BoxDetections::kName;

}  // namespace

void BoxDetections::validate() const {
  check(bbox_weights.size() == 4, kName, "bbox_weights must be four numbers");
  for (float w : bbox_weights) check(w != 0 && finite(w), kName, "bbox_weights must be finite and not zero");
  check(capacity > 0 && capacity <= kMaxCapacity, kName, "capacity must be from 1 to 16777216");
}

void BoxDetections::infer(Span<const Tensor> inputs, Span<Tensor> outputs) const {
  check(inputs.size() == 8, kName, std::to_string(inputs.size()) + " inputs; it takes 8");
  const std::int64_t rows = inputs[0].shape.rank() == 2 ? inputs[0].shape[0] : kUnknown;
  check_tensor(inputs[0], DataType::kFloat32, {kUnknown, 2}, kName, "class_logits");
  check_tensor(inputs[1], DataType::kFloat32, {rows, 4}, kName, "deltas");
  check_tensor(inputs[2], DataType::kFloat32, {rows, 4}, kName, "boxes");
  check_tensor(inputs[3], DataType::kInt32, {1}, kName, "count");
  check_sizes(inputs[4], kName);
  check_tensor(inputs[5], DataType::kFloat32, {1}, kName, "score_threshold");
  check_tensor(inputs[6], DataType::kFloat32, {1}, kName, "nms_threshold");
  check_tensor(inputs[7], DataType::kInt32, {1}, kName, "max_detections");
  outputs[0] = {DataType::kFloat32, {capacity, 4}};
  outputs[1] = {DataType::kFloat32, {capacity, 4}};
  outputs[2] = {DataType::kFloat32, {capacity}};
  outputs[3] = {DataType::kInt32, {1}};
}

void BoxDetections::run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const {
  const float* logits = inputs[0].as<const float>();
  const float* deltas = inputs[1].as<const float>();
  const float* proposals = inputs[2].as<const float>();
  const std::int64_t rows = std::clamp<std::int64_t>(*inputs[3].as<const std::int32_t>(), 0, inputs[0].shape[0]);
  const PictureSizes sizes = read_sizes(inputs[4]);
  const float score_threshold = *inputs[5].as<const float>();
  const float nms_threshold = *inputs[6].as<const float>();
  const std::int64_t limit = std::clamp<std::int64_t>(*inputs[7].as<const std::int32_t>(), 0, capacity);

  const auto size = static_cast<std::size_t>(rows);
  RankKey* found = scratch.take<RankKey>(size);
  std::int64_t candidates = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    const float score = person_score(logits + 2 * i);
    if (score > score_threshold) found[candidates++] = rank_key(score, static_cast<std::uint32_t>(i));
  }
  const RankKey* const keys = sort_keys(found, scratch.take<RankKey>(size), candidates, 4);

  float* boxes_network = outputs[0].as<float>();
  float* boxes_original = outputs[1].as<float>();
  float* scores = outputs[2].as<float>();
  KeptBoxes kept(std::min(limit, candidates), nms_threshold, scratch);
  std::int64_t count = 0;
  for (std::int64_t begin = 0; begin < candidates && !kept.full(); begin += kBoxBlock) {
    std::array<Box, kBoxBlock> boxes;
    std::uint64_t valid = 0;
    for (std::int64_t i = 0; i < std::min(kBoxBlock, candidates - begin); ++i) {
      const std::int64_t row = rank_index(keys[begin + i]);
      const Box box = apply_deltas(load_box(proposals + 4 * row), deltas + 4 * row, bbox_weights.data());
      boxes[i] = clip(box, sizes.height, sizes.width);
      valid |= std::uint64_t{finite(box)} << i;
    }
    // What is kept takes one of the places, even if it is empty in the original picture.
    for (std::uint64_t bits = kept.keep_best(boxes.data(), valid); bits; bits &= bits - 1) {
      const int i = __builtin_ctzll(bits);
      const Box original =
          clip(scale(boxes[i], sizes.scale_x, sizes.scale_y), sizes.original_height, sizes.original_width);
      if (!sides_exceed(original, 0)) continue;
      store_box(boxes[i], boxes_network + 4 * count);
      store_box(original, boxes_original + 4 * count);
      scores[count++] = person_score(logits + 2 * rank_index(keys[begin + i]));
    }
  }
  std::fill(boxes_network + 4 * count, boxes_network + 4 * capacity, 0.0f);
  std::fill(boxes_original + 4 * count, boxes_original + 4 * capacity, 0.0f);
  std::fill(scores + count, scores + capacity, 0.0f);
  *outputs[3].as<std::int32_t>() = static_cast<std::int32_t>(count);
}

}  // namespace densepose
