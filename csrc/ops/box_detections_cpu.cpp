// Candidates are ranked and suppressed class by class; what is left of all classes is then put into one order.
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

// Keys of candidates, by class: [classes, rows], of which the first counts[c] of each class are used. Their index is
// row * classes + class.
struct CandidateKeys {
  RankKey* keys;
  std::int64_t* counts;
};

CandidateKeys find_candidates(const HeadRows& in, std::int64_t rows, float threshold, const float* weights,
                              Scratch& scratch) {
  const std::int64_t classes = in.classes;
  const CandidateKeys found{scratch.take<RankKey>(static_cast<std::size_t>(classes * rows)),
                            scratch.take<std::int64_t>(static_cast<std::size_t>(classes))};
  if (classes == 1) {
    std::int64_t count = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      const float score = in.only_score(row);
      if (score > threshold) found.keys[count++] = rank_key(score, static_cast<std::uint32_t>(row));
    }
    found.counts[0] = count;
    return found;
  }
  float* const scores = scratch.take<float>(static_cast<std::size_t>(classes));
  std::fill(found.counts, found.counts + classes, 0);
  for (std::int64_t row = 0; row < rows; ++row) {
    in.score(row, scores);
    bool any = false;
    for (std::int64_t c = 0; c < classes; ++c) any |= scores[c] > threshold;
    if (!any) continue;
    // A box that serves all classes is judged when its turn comes, which for most never does.
    if (in.moves > 1 && !in.finite_boxes(row, weights)) continue;
    for (std::int64_t c = 0; c < classes; ++c)
      if (scores[c] > threshold)
        found.keys[c * rows + found.counts[c]++] = rank_key(scores[c], static_cast<std::uint32_t>(row * classes + c));
  }
  return found;
}

struct Detection {
  RankKey key;
  Box box;
};

// What NMS leaves of the candidates of class `c`, best first, as long as there is room: the end of what is written.
Detection* suppress(const HeadRows& in, std::int64_t c, const RankKey* keys, std::int64_t candidates,
                    const float* weights, const PictureSizes& sizes, KeptBoxes& kept, Detection* out) {
  const auto classes = static_cast<std::uint32_t>(in.classes);
  for (std::int64_t begin = 0; begin < candidates && !kept.full(); begin += kBoxBlock) {
    std::array<Box, kBoxBlock> boxes;
    std::uint64_t valid = 0;
    for (std::int64_t i = 0; i < std::min(kBoxBlock, candidates - begin); ++i) {
      const Box box = in.decode(rank_index(keys[begin + i]) / classes, c, weights);
      boxes[i] = clip(box, sizes.height, sizes.width);
      valid |= std::uint64_t{finite(box)} << i;
    }
    for (std::uint64_t bits = kept.keep_best(boxes.data(), valid); bits; bits &= bits - 1) {
      const int i = __builtin_ctzll(bits);
      *out++ = {keys[begin + i], boxes[i]};
    }
  }
  return out;
}

}  // namespace

void BoxDetections::validate() const {
  check(bbox_weights.size() == 4, kName, "bbox_weights must be four numbers");
  for (float w : bbox_weights) check(w != 0 && finite(w), kName, "bbox_weights must be finite and not zero");
  check(capacity > 0 && capacity <= kMaxCapacity, kName, "capacity must be from 1 to 16777216");
}

void BoxDetections::infer(Span<const Tensor> inputs, Span<Tensor> outputs) const {
  check(inputs.size() == 8, kName, std::to_string(inputs.size()) + " inputs; it takes 8");
  check_tensor(inputs[0], DataType::kFloat32, {kUnknown, kUnknown}, kName, "class_logits");
  const bool ranked = inputs[0].shape.rank() == 2;
  const std::int64_t rows = ranked ? inputs[0].shape[0] : kUnknown;
  const std::int64_t columns = ranked ? inputs[0].shape[1] : kUnknown;
  if (columns != kUnknown)
    check(columns >= 2 && columns <= kMaxClasses + 1, kName,
          "input class_logits has " + std::to_string(columns) +
              " columns, it must have one for each class, at most 1024, and one for the background");
  check(rows == kUnknown || columns == kUnknown || rows * (columns - 1) <= kMaxCandidates, kName,
        "input class_logits has more than 16777216 rows times classes");
  const std::int64_t moves = inputs[1].shape.rank() == 2 ? inputs[1].shape[1] : kUnknown;
  const std::int64_t classes = columns != kUnknown ? columns - 1 : moves > 0 && moves % 4 == 0 ? moves / 4 : 1;
  const bool shared = moves == kUnknown || moves == 4;  // or one for each class
  check_tensor(inputs[1], DataType::kFloat32, {rows, shared ? moves : 4 * classes}, kName, "deltas");
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
  outputs[4] = {DataType::kInt32, {capacity}};
}

void BoxDetections::run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const {
  const HeadRows in = head_rows(inputs);
  const std::int64_t rows = std::clamp<std::int64_t>(*inputs[3].as<const std::int32_t>(), 0, inputs[0].shape[0]);
  const PictureSizes sizes = read_sizes(inputs[4]);
  const float score_threshold = *inputs[5].as<const float>(), nms_threshold = *inputs[6].as<const float>();
  const std::int64_t limit = std::clamp<std::int64_t>(*inputs[7].as<const std::int32_t>(), 0, capacity);

  const CandidateKeys found = find_candidates(in, rows, score_threshold, bbox_weights.data(), scratch);
  std::int64_t most = 0;
  for (std::int64_t c = 0; c < in.classes; ++c) most += std::min(limit, found.counts[c]);
  Detection* const detections = scratch.take<Detection>(static_cast<std::size_t>(most));
  Detection* end = detections;
  RankKey* const other = scratch.take<RankKey>(static_cast<std::size_t>(rows));
  for (std::int64_t c = 0; c < in.classes; ++c) {
    const std::int64_t candidates = found.counts[c];
    const RankKey* const keys = sort_keys(found.keys + c * rows, other, candidates, 4);
    KeptBoxes kept(std::min(limit, candidates), nms_threshold, scratch);
    end = suppress(in, c, keys, candidates, bbox_weights.data(), sizes, kept, end);
  }
  const std::int64_t best = std::min<std::int64_t>(limit, end - detections);
  if (in.classes > 1)
    std::partial_sort(detections, detections + best, end,
                      [](const Detection& a, const Detection& b) { return a.key < b.key; });

  float *const boxes_network = outputs[0].as<float>(), *const boxes_original = outputs[1].as<float>();
  float* const scores = outputs[2].as<float>();
  auto* const classes = outputs[4].as<std::int32_t>();
  std::int64_t count = 0;
  for (const Detection* found_one = detections; found_one < detections + best; ++found_one) {
    // One that is empty in the original picture takes a place and is dropped.
    const Box original = to_original(found_one->box, sizes);
    if (!sides_exceed(original, 0)) continue;
    store_box(found_one->box, boxes_network + 4 * count);
    store_box(original, boxes_original + 4 * count);
    scores[count] = rank_score(found_one->key);
    classes[count++] = static_cast<std::int32_t>(rank_index(found_one->key) % in.classes);
  }
  std::fill(boxes_network + 4 * count, boxes_network + 4 * capacity, 0.0f);
  std::fill(boxes_original + 4 * count, boxes_original + 4 * capacity, 0.0f);
  std::fill(scores + count, scores + capacity, 0.0f);
  std::fill(classes + count, classes + capacity, 0);
  *outputs[3].as<std::int32_t>() = static_cast<std::int32_t>(count);
}

}  // namespace densepose
