#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <new>

#include "boxes/boxes.h"
#include "boxes/nms.h"
#include "boxes/picture_sizes.h"
#include "boxes/ranking.h"
#include "boxes/sort_keys.h"
#include "ops/generate_proposals.h"
#include "ops/rpn_level.h"

namespace densepose {
namespace {

constexpr const char* kName = GenerateProposals::kName;

constexpr std::int64_t kSample = 1024;  // scores looked at to guess a threshold
constexpr std::int64_t kPiece = 2048;   // pixels that a thread looks through at a time

// A level on its way to proposals. An anchor's index counts pixels, then the anchors of a pixel.
struct Candidates {
  RpnLevel level;
  const float* cell_anchors;
  std::int64_t wanted;       // so many of the best anchors compete
  KeptBoxes kept;            // those that NMS leaves, best first
  float* scores;             // of kept boxes
  float threshold;           // anchors below it are not among the best
  std::uint32_t* positions;  // [level.size()], working memory
  RankKey *keys, *other;     // [level.size()]; what a piece of the level finds stands where its own anchors would
  std::int64_t* found;       // [pieces()], keys in each
  std::int64_t next = 0;     // of kept boxes, to be taken

  std::int64_t pieces() const { return (level.pixels() + kPiece - 1) / kPiece; }
};

// A score that about half again as many anchors exceed as are wanted, guessed from a regular sample.
float guess_threshold(const RpnLevel& level, std::int64_t wanted) {
  const std::int64_t per_anchor = kSample / level.anchors;
  if (level.size() < 4 * wanted || level.pixels() < 2 * per_anchor || per_anchor == 0)
    return -std::numeric_limits<float>::infinity();
  std::array<float, kSample> sample;
  std::int64_t n = 0;
  for (std::int64_t i = 0; i < per_anchor; ++i) {
    const std::int64_t pixel = i * level.pixels() / per_anchor;
    for (std::int64_t a = 0; a < level.anchors; ++a) {
      const float score = level.objectness(pixel, a);
      sample[n++] = score == score ? score : std::numeric_limits<float>::infinity();
    }
  }
  const std::int64_t rank = std::min(n - 1, n * wanted * 3 / (2 * level.size()) + 8);
  std::nth_element(sample.begin(), sample.begin() + rank, sample.begin() + n, std::greater<float>());
  return sample[rank];
}

// Keys of a piece's anchors whose score is not below the threshold.
void collect(const Candidates& c, std::int64_t piece) {
  const RpnLevel& level = c.level;
  const std::int64_t a = level.anchors, first = piece * kPiece, pixels = std::min(kPiece, level.pixels() - first);
  const float* data = level.data + first * level.pixel_stride;
  const ScoreRows scores = level.planar() ? ScoreRows{data, a, pixels, level.channel_stride}
                                          : ScoreRows{data, pixels, a, level.pixel_stride};
  std::uint32_t* const positions = c.positions + first * a;
  RankKey* const keys = c.keys + first * a;
  const std::int64_t found = kernels().find_not_below(scores, c.threshold, positions);
  for (std::int64_t i = 0; i < found; ++i) {
    const auto width = static_cast<std::uint32_t>(scores.width);
    const std::uint32_t row = positions[i] / width, column = positions[i] % width;
    const std::int64_t index = first * a + (level.planar() ? column * a + row : positions[i]);
    keys[i] = rank_key(scores.data[row * scores.stride + column], static_cast<std::uint32_t>(index));
  }
  c.found[piece] = found;
}

// Moves what the pieces found together, and returns how much it is.
std::int64_t join_pieces(const Candidates& c) {
  std::int64_t count = 0;
  for (std::int64_t piece = 0; piece < c.pieces(); ++piece) {
    const RankKey* const keys = c.keys + piece * kPiece * c.level.anchors;
    std::copy(keys, keys + c.found[piece], c.keys + count);
    count += c.found[piece];
  }
  return count;
}

// The level's own proposals, as many as there is room for.
void propose(Candidates& c, const GenerateProposals& op, const PictureSizes& sizes) {
  std::int64_t found = join_pieces(c);
  if (found < c.wanted) {
    c.threshold = -std::numeric_limits<float>::infinity();
    for (std::int64_t piece = 0; piece < c.pieces(); ++piece) collect(c, piece);
    found = join_pieces(c);
  }
  // What find_not_below() found pixel by pixel is in the order of indices already.
  const RankKey* const keys = sort_keys(c.keys, c.other, found, c.level.planar() ? 0 : 4);
  for (std::int64_t begin = 0; begin < c.wanted && !c.kept.full(); begin += kBoxBlock) {
    std::array<Box, kBoxBlock> boxes;
    std::array<float, kBoxBlock> scores;
    std::uint64_t valid = 0;
    for (std::int64_t i = 0; i < std::min(kBoxBlock, c.wanted - begin); ++i) {
      const Proposal p =
          decode(c.level, c.cell_anchors, rank_index(keys[begin + i]), op.anchor_offset, op.bbox_weights.data());
      boxes[i] = clip(p.box, sizes.height, sizes.width);
      scores[i] = p.score;
      valid |= std::uint64_t{usable(p) && sides_exceed(boxes[i], op.min_size)} << i;
    }
    float* next_score = c.scores + c.kept.count();
    for (std::uint64_t kept = c.kept.keep_best(boxes.data(), valid); kept; kept &= kept - 1)
      *next_score++ = scores[__builtin_ctzll(kept)];
  }
}

}  // namespace

void GenerateProposals::validate() const {
  check(!strides.empty(), kName, "strides must name at least one level");
  for (std::int64_t s : strides) check(s > 0 && s <= kMaxStride, kName, "strides must be from 1 to 1048576");
  check(!anchors.empty() && anchors.size() % (4 * strides.size()) == 0, kName,
        "anchors must hold four numbers per anchor, and equally many anchors "
        "for each of the levels");
  check(bbox_weights.size() == 4, kName, "bbox_weights must be four numbers");
  for (float w : bbox_weights) check(w != 0 && finite(w), kName, "bbox_weights must be finite and not zero");
  check(pre_nms_topk > 0, kName, "pre_nms_topk must be positive");
  check(capacity > 0 && capacity <= kMaxCapacity, kName, "capacity must be from 1 to 16777216");
  check(layout == "NCHW" || layout == "NHWC", kName, "layout must be NCHW or NHWC, not " + layout);
}

void GenerateProposals::infer(Span<const Tensor> inputs, Span<Tensor> outputs) const {
  const std::size_t levels = strides.size();
  check(inputs.size() == levels + 2, kName,
        std::to_string(inputs.size()) + " inputs; it takes one for each of the " + std::to_string(levels) +
            " strides, sizes and max_proposals");
  const std::int64_t anchors_per_pixel = static_cast<std::int64_t>(anchors.size() / (4 * levels));
  const std::int64_t channels = 5 * anchors_per_pixel;
  const Shape expected =
      layout == "NHWC" ? Shape{1, kUnknown, kUnknown, channels} : Shape{1, channels, kUnknown, kUnknown};
  for (std::size_t i = 0; i < levels; ++i) {
    const std::string input = "rpn_" + std::to_string(i);
    check_tensor(inputs[i], DataType::kFloat32, expected, kName, input.c_str());
    check(!inputs[i].shape.known() || inputs[i].shape.elements() / 5 < std::int64_t{1} << 32, kName,
          input + " has more anchors than 32 bits can count");
  }
  check_sizes(inputs[levels], kName);
  check_tensor(inputs[levels + 1], DataType::kInt32, {1}, kName, "max_proposals");
  outputs[0] = {DataType::kFloat32, {capacity, 4}};
  outputs[1] = {DataType::kFloat32, {capacity}};
  outputs[2] = {DataType::kInt32, {1}};
}

void GenerateProposals::run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const {
  const std::size_t levels = strides.size();
  const PictureSizes sizes = read_sizes(inputs[levels]);
  const std::int64_t limit = std::clamp<std::int64_t>(*inputs[levels + 1].as<std::int32_t>(), 0, capacity);

  const Span<Candidates> all(scratch.take<Candidates>(levels), levels);
  std::int64_t pieces = 0;
  for (std::size_t i = 0; i < levels; ++i) {
    const RpnLevel level = read_level(inputs[i], *this, i);
    const auto size = static_cast<std::size_t>(level.size());
    const std::int64_t wanted = std::min(pre_nms_topk, level.size());
    const std::int64_t most = std::min(limit, wanted);
    new (&all[i]) Candidates{level,
                             anchors.data() + level.first_anchor,
                             wanted,
                             {most, nms_threshold, scratch},
                             scratch.take<float>(static_cast<std::size_t>(most)),
                             guess_threshold(level, wanted),
                             scratch.take<std::uint32_t>(size),
                             scratch.take<RankKey>(size),
                             scratch.take<RankKey>(size),
                             nullptr};
    all[i].found = scratch.take<std::int64_t>(static_cast<std::size_t>(all[i].pieces()));
    pieces += all[i].pieces();
  }
  scratch.parallel(pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    for (const Candidates& c : all) {
      for (std::int64_t piece = std::max<std::int64_t>(begin, 0); piece < std::min(end, c.pieces()); ++piece)
        collect(c, piece);
      begin -= c.pieces();
      end -= c.pieces();
    }
  });
  scratch.parallel(static_cast<std::int64_t>(levels), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      propose(all[i], *this, sizes);
  });

  // The best of all levels; of equals, the first level's.
  RankKey* const fronts = scratch.take<RankKey>(levels);
  const auto front = [&](std::size_t i) {
    const Candidates& c = all[i];
    return c.next < c.kept.count() ? rank_key(c.scores[c.next], static_cast<std::uint32_t>(i)) : kNoKey;
  };
  for (std::size_t i = 0; i < levels; ++i) fronts[i] = front(i);
  float* boxes = outputs[0].as<float>();
  float* scores = outputs[1].as<float>();
  std::int64_t count = 0;
  for (; count < limit; ++count) {
    RankKey best = kNoKey;
    for (std::size_t i = 0; i < levels; ++i) best = std::min(best, fronts[i]);
    if (best == kNoKey) break;
    Candidates& c = all[rank_index(best)];
    store_box(c.kept.at(c.next), boxes + 4 * count);
    scores[count] = c.scores[c.next++];
    fronts[rank_index(best)] = front(rank_index(best));
  }
  std::fill(boxes + 4 * count, boxes + 4 * capacity, 0.0f);
  std::fill(scores + count, scores + capacity, -std::numeric_limits<float>::infinity());
  *outputs[2].as<std::int32_t>() = static_cast<std::int32_t>(count);
}

}  // namespace densepose
