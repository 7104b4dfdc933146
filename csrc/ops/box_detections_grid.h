// BoxDetections for a grid of threads (see grid.h).
#pragma once

#include <algorithm>

#include "boxes/nms_grid.h"
#include "boxes/picture_sizes.h"
#include "boxes/ranking.h"
#include "boxes/top_keys_grid.h"
#include "ops/box_detections.h"

namespace densepose {

struct DetectionInputs {
  const float *logits, *deltas, *proposals;
  const std::int32_t *count, *sizes;
  const float *score_threshold, *nms_threshold;
  const std::int32_t* max_detections;
  std::int64_t rows;
};

// Candidates before and after they are ranked: [rows].
struct Candidates {
  float* boxes;  // of 4
  RankKey* keys;
  float *sorted_boxes, *sorted_scores;
  std::uint64_t *valid, *taken;  // bit sets of the sorted ones
  std::uint32_t* found;
  std::int64_t words;
};

struct DecodeCandidates {
  DetectionInputs in;
  Candidates out;
  float weights[4];
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    if (i == 0) *out.found = 0;
    out.keys[i] = kNoKey;
    if (i >= clamp_count(*in.count, in.rows)) return;
    const float score = person_score(in.logits + 2 * i);
    if (!(score > *in.score_threshold)) return;
    const Box box = apply_deltas(load_box(in.proposals + 4 * i), in.deltas + 4 * i, weights);
    if (!finite(box)) return;
    const PictureSizes sizes = read_sizes(in.sizes);
    store_box(clip(box, sizes.height, sizes.width), out.boxes + 4 * i);
    out.keys[i] = rank_key(score, static_cast<std::uint32_t>(i));
  }
};

struct SortCandidates {
  DetectionInputs in;
  Candidates out;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    if (out.keys[i] == kNoKey) return;
    const std::int64_t rank = count_smaller(out.keys, in.rows, out.keys[i]);
    store_box(load_box(out.boxes + 4 * i), out.sorted_boxes + 4 * rank);
    out.sorted_scores[rank] = person_score(in.logits + 2 * i);
    atomic_add(out.found, 1);
  }
};

struct MarkFound {
  Candidates out;
  DENSEPOSE_HD void operator()(std::int64_t word) const {
    const std::int64_t rest = static_cast<std::int64_t>(*out.found) - 64 * word;
    out.valid[word] = rest <= 0 ? 0 : rest >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << rest) - 1;
  }
};

DENSEPOSE_HD Box to_original(const Box& box, const PictureSizes& sizes) {
  return clip(scale(box, sizes.scale_x, sizes.scale_y), sizes.original_height, sizes.original_width);
}

// The best max_detections of what NMS kept, without those that are empty in the original picture: these take a place.
struct TakeBest {
  DetectionInputs in;
  Candidates out;
  const std::uint64_t* kept;
  std::int64_t capacity;
  DENSEPOSE_HD void operator()(std::int64_t word) const {
    std::int64_t places = clamp_count(*in.max_detections, capacity) - count_bits_before(kept, 64 * word);
    const PictureSizes sizes = read_sizes(in.sizes);
    std::uint64_t bits = 0;
    for (std::int64_t i = 64 * word; i < 64 * word + 64 && places > 0; ++i) {
      if (!test_bit(kept, i)) continue;
      --places;
      if (sides_exceed(to_original(load_box(out.sorted_boxes + 4 * i), sizes), 0))
        bits |= std::uint64_t{1} << (i - 64 * word);
    }
    out.taken[word] = bits;
  }
};

struct DetectionOutputs {
  float *boxes_network, *boxes_original, *scores;
  std::int32_t* count;
};

struct ClearDetections {
  DetectionOutputs out;
  Candidates in;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    if (i == 0) *out.count = static_cast<std::int32_t>(count_bits_before(in.taken, 64 * in.words));
    for (int side = 0; side < 4; ++side) out.boxes_network[4 * i + side] = out.boxes_original[4 * i + side] = 0;
    out.scores[i] = 0;
  }
};

struct WriteDetections {
  DetectionInputs in;
  Candidates candidates;
  DetectionOutputs out;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    if (!test_bit(candidates.taken, i)) return;
    const std::int64_t place = count_bits_before(candidates.taken, i);
    const Box box = load_box(candidates.sorted_boxes + 4 * i);
    store_box(box, out.boxes_network + 4 * place);
    store_box(to_original(box, read_sizes(in.sizes)), out.boxes_original + 4 * place);
    out.scores[place] = candidates.sorted_scores[i];
  }
};

struct DetectionsMemory {
  Candidates candidates;
  NmsMemory nms;

  DetectionsMemory(std::int64_t rows, WorkspaceCutter& memory)
      : candidates{memory.take<float>(4 * rows),
                   memory.take<RankKey>(rows),
                   memory.take<float>(4 * rows),
                   memory.take<float>(rows),
                   memory.take<std::uint64_t>(bit_words(rows)),
                   memory.take<std::uint64_t>(bit_words(rows)),
                   memory.take<std::uint32_t>(1),
                   bit_words(rows)},
        nms(1, rows, memory) {}
};

inline std::size_t grid_workspace(const BoxDetections&, Span<const Tensor> inputs) {
  WorkspaceCutter cutter(nullptr);
  DetectionsMemory(inputs[0].shape[0], cutter);
  return cutter.bytes();
}

template <class Grid>
void run_on(Grid& grid, const BoxDetections& op, Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace) {
  const DetectionInputs in{
      inputs[0].as<const float>(),        inputs[1].as<const float>(),        inputs[2].as<const float>(),
      inputs[3].as<const std::int32_t>(), inputs[4].as<const std::int32_t>(), inputs[5].as<const float>(),
      inputs[6].as<const float>(),        inputs[7].as<const std::int32_t>(), inputs[0].shape[0]};
  WorkspaceCutter cutter(workspace);
  const DetectionsMemory memory(in.rows, cutter);
  const Candidates& candidates = memory.candidates;
  const DetectionOutputs out{outputs[0].as<float>(), outputs[1].as<float>(), outputs[2].as<float>(),
                             outputs[3].as<std::int32_t>()};

  DecodeCandidates decode_candidates{in, candidates, {}};
  std::copy(op.bbox_weights.begin(), op.bbox_weights.end(), decode_candidates.weights);
  grid.each(in.rows, decode_candidates);
  grid.each(in.rows, SortCandidates{in, candidates});
  grid.each(candidates.words, MarkFound{candidates});
  suppress_on(grid, {candidates.sorted_boxes, candidates.valid, 1, in.rows, candidates.words, 0, in.nms_threshold},
              memory.nms);
  grid.each(candidates.words, TakeBest{in, candidates, memory.nms.kept, op.capacity});
  grid.each(op.capacity, ClearDetections{out, candidates});
  grid.each(in.rows, WriteDetections{in, candidates, out});
}

}  // namespace densepose
