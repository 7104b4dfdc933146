// BoxDetections for a grid of threads (see grid.h). Classes are sets that do not suppress each other.
#pragma once

#include <algorithm>

#include "boxes/nms_grid.h"
#include "boxes/picture_sizes.h"
#include "boxes/ranking.h"
#include "boxes/top_keys_grid.h"
#include "ops/box_detections.h"

namespace densepose {

struct DetectionInputs {
  HeadRows head;
  const std::int32_t *count, *sizes;
  const float *score_threshold, *nms_threshold;
  const std::int32_t* max_detections;
  std::int64_t rows;

  std::int64_t candidates() const { return head.classes * rows; }
};

// Candidates before and after they are ranked within their class: [classes, rows]. A key's index is row * classes +
// class.
struct Candidates {
  float* boxes;   // of 4
  float* scores;  // [rows, classes]
  RankKey* keys;
  float* sorted_boxes;
  RankKey* sorted_keys;
  std::uint64_t *valid, *taken;  // bit sets of the sorted ones: [classes, words]
  std::uint32_t* found;          // [classes]
  std::uint32_t* ranks;          // of the sorted ones that NMS kept, among all of these
  std::int64_t classes, rows, words;

  // How many of the candidates with a bit in `bits` rank before number i of class c, of all classes.
  DENSEPOSE_HD std::int64_t count_before(const std::uint64_t* bits, std::int64_t c, std::int64_t i) const {
    const RankKey key = sorted_keys[c * rows + i];
    std::int64_t count = 0;
    for (std::int64_t other = 0; other < classes; ++other) {
      std::int64_t begin = i, end = other == c ? i : found[other];
      if (other != c) begin = 0;
      while (begin < end) {
        const std::int64_t middle = (begin + end) / 2;
        if (sorted_keys[other * rows + middle] < key)
          begin = middle + 1;
        else
          end = middle;
      }
      count += count_bits_before(bits + other * words, begin);
    }
    return count;
  }
};

struct DecodeCandidates {
  DetectionInputs in;
  Candidates out;
  float weights[4];
  DENSEPOSE_HD void operator()(std::int64_t row) const {
    const std::int64_t classes = out.classes;
    for (std::int64_t c = 0; c < classes; ++c) {
      out.keys[c * out.rows + row] = kNoKey;
      if (row == 0) out.found[c] = 0;
    }
    if (row >= clamp_count(*in.count, in.rows)) return;
    float* scores = out.scores + row * classes;
    in.head.score(row, scores);
    bool any = false;
    for (std::int64_t c = 0; c < classes; ++c) any = any || scores[c] > *in.score_threshold;
    if (!any || !in.head.finite_boxes(row, weights)) return;
    const PictureSizes sizes = read_sizes(in.sizes);
    for (std::int64_t c = 0; c < classes; ++c) {
      if (!(scores[c] > *in.score_threshold)) continue;
      const std::int64_t i = c * out.rows + row;
      store_box(clip(in.head.decode(row, c, weights), sizes.height, sizes.width), out.boxes + 4 * i);
      out.keys[i] = rank_key(scores[c], static_cast<std::uint32_t>(row * classes + c));
    }
  }
};

struct SortCandidates {
  Candidates out;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const RankKey key = out.keys[i];
    if (key == kNoKey) return;
    const std::int64_t set = i / out.rows;
    const std::int64_t place = set * out.rows + count_smaller(out.keys + set * out.rows, out.rows, key);
    store_box(load_box(out.boxes + 4 * i), out.sorted_boxes + 4 * place);
    out.sorted_keys[place] = key;
    atomic_add(out.found + set, 1);
  }
};

struct MarkFound {
  Candidates out;
  DENSEPOSE_HD void operator()(std::int64_t word) const {
    const std::int64_t rest = static_cast<std::int64_t>(out.found[word / out.words]) - 64 * (word % out.words);
    out.valid[word] = rest <= 0 ? 0 : rest >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << rest) - 1;
  }
};

struct RankKept {
  Candidates out;
  const std::uint64_t* kept;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int64_t set = i / out.rows, place = i % out.rows;
    if (!test_bit(kept + set * out.words, place)) return;
    out.ranks[i] = static_cast<std::uint32_t>(out.count_before(kept, set, place));
  }
};

// The best max_detections of what NMS kept, without those that are empty in the original picture: these take a place.
struct TakeBest {
  DetectionInputs in;
  Candidates out;
  const std::uint64_t* kept;
  std::int64_t capacity;
  DENSEPOSE_HD void operator()(std::int64_t word) const {
    const std::int64_t places = clamp_count(*in.max_detections, capacity);
    const PictureSizes sizes = read_sizes(in.sizes);
    const std::int64_t first = word / out.words * out.rows + 64 * (word % out.words);
    std::uint64_t bits = 0;
    for (std::int64_t bit = 0; bit < 64; ++bit) {
      if (!(kept[word] >> bit & 1) || out.ranks[first + bit] >= places) continue;
      if (sides_exceed(to_original(load_box(out.sorted_boxes + 4 * (first + bit)), sizes), 0))
        bits |= std::uint64_t{1} << bit;
    }
    out.taken[word] = bits;
  }
};

struct DetectionOutputs {
  float *boxes_network, *boxes_original, *scores;
  std::int32_t *count, *classes;
};

struct ClearDetections {
  DetectionOutputs out;
  Candidates in;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    if (i == 0) *out.count = static_cast<std::int32_t>(count_bits_before(in.taken, 64 * in.classes * in.words));
    for (int side = 0; side < 4; ++side) out.boxes_network[4 * i + side] = out.boxes_original[4 * i + side] = 0;
    out.scores[i] = 0;
    out.classes[i] = 0;
  }
};

struct WriteDetections {
  DetectionInputs in;
  Candidates candidates;
  DetectionOutputs out;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int64_t set = i / candidates.rows, place = i % candidates.rows;
    if (!test_bit(candidates.taken + set * candidates.words, place)) return;
    const std::int64_t row = candidates.count_before(candidates.taken, set, place);
    const Box box = load_box(candidates.sorted_boxes + 4 * i);
    store_box(box, out.boxes_network + 4 * row);
    store_box(to_original(box, read_sizes(in.sizes)), out.boxes_original + 4 * row);
    out.scores[row] = rank_score(candidates.sorted_keys[i]);
    out.classes[row] = static_cast<std::int32_t>(set);
  }
};

struct DetectionsMemory {
  Candidates candidates;
  NmsMemory nms;

  DetectionsMemory(std::int64_t classes, std::int64_t rows, WorkspaceCutter& memory)
      : candidates{memory.take<float>(4 * classes * rows),
                   memory.take<float>(classes * rows),
                   memory.take<RankKey>(classes * rows),
                   memory.take<float>(4 * classes * rows),
                   memory.take<RankKey>(classes * rows),
                   memory.take<std::uint64_t>(classes * bit_words(rows)),
                   memory.take<std::uint64_t>(classes * bit_words(rows)),
                   memory.take<std::uint32_t>(classes),
                   memory.take<std::uint32_t>(classes * rows),
                   classes,
                   rows,
                   bit_words(rows)},
        nms(classes, rows, memory) {}
};

inline std::size_t grid_workspace(const BoxDetections&, Span<const Tensor> inputs) {
  WorkspaceCutter cutter(nullptr);
  DetectionsMemory(inputs[0].shape[1] - 1, inputs[0].shape[0], cutter);
  return cutter.bytes();
}

template <class Grid>
void run_on(Grid& grid, const BoxDetections& op, Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace) {
  const DetectionInputs in{
      head_rows(inputs),           inputs[3].as<const std::int32_t>(), inputs[4].as<const std::int32_t>(),
      inputs[5].as<const float>(), inputs[6].as<const float>(),        inputs[7].as<const std::int32_t>(),
      inputs[0].shape[0]};
  WorkspaceCutter cutter(workspace);
  const DetectionsMemory memory(in.head.classes, in.rows, cutter);
  const Candidates& candidates = memory.candidates;
  const std::int64_t count = in.candidates(), words = candidates.classes * candidates.words;
  const DetectionOutputs out{outputs[0].as<float>(), outputs[1].as<float>(), outputs[2].as<float>(),
                             outputs[3].as<std::int32_t>(), outputs[4].as<std::int32_t>()};

  DecodeCandidates decode_candidates{in, candidates, {}};
  std::copy(op.bbox_weights.begin(), op.bbox_weights.end(), decode_candidates.weights);
  grid.each(in.rows, decode_candidates);
  grid.each(count, SortCandidates{candidates});
  grid.each(words, MarkFound{candidates});
  suppress_on(
      grid,
      {candidates.sorted_boxes, candidates.valid, candidates.classes, in.rows, candidates.words, 0, in.nms_threshold},
      memory.nms);
  grid.each(count, RankKept{candidates, memory.nms.kept});
  grid.each(words, TakeBest{in, candidates, memory.nms.kept, op.capacity});
  grid.each(op.capacity, ClearDetections{out, candidates});
  grid.each(count, WriteDetections{in, candidates, out});
}

}  // namespace densepose
