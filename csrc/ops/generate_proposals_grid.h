// GenerateProposals for a grid of threads (see grid.h).
#pragma once

#include <algorithm>

#include "boxes/nms_grid.h"
#include "boxes/picture_sizes.h"
#include "boxes/ranking.h"
#include "boxes/top_keys_grid.h"
#include "ops/generate_proposals.h"
#include "ops/rpn_level.h"

namespace densepose {

inline constexpr std::size_t kMaxGridAnchors = 512;  // numbers in `anchors` that fit into a kernel's parameters

struct ProposalLevels {
  RpnLevel level[kMaxGridLevels];
  SetOffsets sets;
};

struct RankAnchors {
  ProposalLevels in;
  RankKey* keys;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int32_t set = in.sets.set_of(i);
    const RpnLevel& level = in.level[set];
    const std::int64_t index = i - in.sets.first[set];
    keys[i] =
        rank_key(level.objectness(index / level.anchors, index % level.anchors), static_cast<std::uint32_t>(index));
  }
};

// What a level's best anchors become, in order: [levels, wanted].
struct SortedProposals {
  float* boxes;  // of 4
  float* scores;
  RankKey* keys;  // among all levels; kNoKey for what is no proposal
  std::uint64_t *valid, *kept;
  std::int64_t wanted, words;
};

struct DecodeBest {
  ProposalLevels in;
  TopKeys top;
  SortedProposals out;
  const std::int32_t* sizes;
  float anchors[kMaxGridAnchors];
  float weights[4];
  float anchor_offset, min_size;

  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int64_t set = i / out.wanted, chosen = top.wanted_of(set);
    if (i % out.wanted >= chosen) {
      out.keys[i] = kNoKey;
      return;
    }
    const RankKey key = top.selected[i];
    const std::int64_t rank = set * out.wanted + count_smaller(top.selected + set * out.wanted, chosen, key);
    Proposal p = decode(in.level[set], anchors + in.level[set].first_anchor, rank_index(key), anchor_offset, weights);
    const PictureSizes picture = read_sizes(sizes);
    bool valid = usable(p);
    p.box = clip(p.box, picture.height, picture.width);
    valid = valid && sides_exceed(p.box, min_size);
    store_box(p.box, out.boxes + 4 * rank);
    out.scores[rank] = p.score;
    out.keys[rank] = valid ? rank_key(p.score, static_cast<std::uint32_t>(rank)) : kNoKey;
  }
};

struct MarkValid {
  SortedProposals out;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int64_t set = i / out.words, first = i % out.words * 64;
    std::uint64_t bits = 0;
    for (std::int64_t row = first; row < first + 64 && row < out.wanted; ++row)
      if (out.keys[set * out.wanted + row] != kNoKey) bits |= std::uint64_t{1} << (row - first);
    out.valid[i] = bits;
  }
};

struct DropSuppressed {
  SortedProposals out;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    if (!test_bit(out.kept + i / out.wanted * out.words, i % out.wanted)) out.keys[i] = kNoKey;
  }
};

struct ProposalOutputs {
  float *boxes, *scores;
  std::int32_t* count;
  std::int64_t capacity;
  const std::int32_t* max_proposals;
};

struct ClearProposals {
  ProposalOutputs out;
  float nothing;  // minus infinity
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    for (int side = 0; side < 4; ++side) out.boxes[4 * i + side] = 0;
    out.scores[i] = nothing;
    if (i == 0) *out.count = 0;
  }
};

// detectron2 suppresses within each level and then takes the best of all levels.
struct MergeLevels {
  SortedProposals in;
  std::int64_t rows;  // of all levels
  ProposalOutputs out;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const RankKey key = in.keys[i];
    if (key == kNoKey) return;
    const std::int64_t rank = count_smaller(in.keys, rows, key);
    if (rank >= clamp_count(*out.max_proposals, out.capacity)) return;
    store_box(load_box(in.boxes + 4 * i), out.boxes + 4 * rank);
    out.scores[rank] = in.scores[i];
    atomic_add(reinterpret_cast<std::uint32_t*>(out.count), 1);
  }
};

struct ProposalsMemory {
  RankKey* keys;
  TopKeys top;
  SortedProposals sorted;
  NmsMemory nms;

  ProposalsMemory(const GenerateProposals& op, const SetOffsets& sets, WorkspaceCutter& memory)
      : keys(memory.take<RankKey>(sets.first[sets.sets])),
        top(take_top_keys(sets, wanted(op, sets), keys, memory)),
        sorted(take_sorted(sets.sets, top.wanted, memory)),
        nms(sets.sets, top.wanted, memory) {
    sorted.kept = nms.kept;
  }

  static std::int64_t wanted(const GenerateProposals& op, const SetOffsets& sets) {
    std::int64_t largest = 1;
    for (std::int32_t set = 0; set < sets.sets; ++set) largest = std::max(largest, sets.size(set));
    return std::min(op.pre_nms_topk, largest);
  }
  static SortedProposals take_sorted(std::int64_t sets, std::int64_t wanted, WorkspaceCutter& memory) {
    const std::int64_t rows = sets * wanted, words = bit_words(wanted);
    return {memory.take<float>(4 * rows),
            memory.take<float>(rows),
            memory.take<RankKey>(rows),
            memory.take<std::uint64_t>(sets * words),
            nullptr,
            wanted,
            words};
  }
};

inline ProposalLevels read_levels(const GenerateProposals& op, Span<const Tensor> inputs) {
  const std::size_t levels = op.strides.size();
  check(levels <= kMaxGridLevels, GenerateProposals::kName, "the CUDA kernels take at most 8 levels");
  check(op.anchors.size() <= kMaxGridAnchors, GenerateProposals::kName, "the CUDA kernels take at most 128 anchors");
  ProposalLevels all{};
  for (std::size_t i = 0; i < levels; ++i) {
    all.level[i] = read_level(inputs[i], op, i);
    all.sets.first[i + 1] = all.sets.first[i] + all.level[i].size();
  }
  all.sets.sets = static_cast<std::int32_t>(levels);
  return all;
}

inline std::size_t grid_workspace(const GenerateProposals& op, Span<const Tensor> inputs) {
  WorkspaceCutter cutter(nullptr);
  ProposalsMemory(op, read_levels(op, inputs).sets, cutter);
  return cutter.bytes();
}

template <class Grid>
void run_on(Grid& grid, const GenerateProposals& op, Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace) {
  const ProposalLevels levels = read_levels(op, inputs);
  WorkspaceCutter cutter(workspace);
  const ProposalsMemory memory(op, levels.sets, cutter);
  const std::int64_t sets = levels.sets.sets, rows = sets * memory.sorted.wanted;
  const ProposalOutputs out{outputs[0].as<float>(), outputs[1].as<float>(), outputs[2].as<std::int32_t>(), op.capacity,
                            inputs[op.strides.size() + 1].as<const std::int32_t>()};

  grid.each(levels.sets.first[sets], RankAnchors{levels, memory.keys});
  select_on(grid, memory.top);
  DecodeBest decode_best{levels, memory.top, memory.sorted,    inputs[op.strides.size()].as<const std::int32_t>(),
                         {},     {},         op.anchor_offset, op.min_size};
  std::copy(op.anchors.begin(), op.anchors.end(), decode_best.anchors);
  std::copy(op.bbox_weights.begin(), op.bbox_weights.end(), decode_best.weights);
  grid.each(rows, decode_best);
  grid.each(sets * memory.sorted.words, MarkValid{memory.sorted});
  suppress_on(grid,
              {memory.sorted.boxes, memory.sorted.valid, sets, memory.sorted.wanted, memory.sorted.words,
               op.nms_threshold, nullptr},
              memory.nms);
  grid.each(rows, DropSuppressed{memory.sorted});
  grid.each(op.capacity, ClearProposals{out, -INFINITY});
  grid.each(rows, MergeLevels{memory.sorted, rows, out});
}

}  // namespace densepose
