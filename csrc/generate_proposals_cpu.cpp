#include <algorithm>
#include <functional>
#include <limits>
#include <new>

#include "boxes.h"
#include "generate_proposals.h"
#include "nms.h"
#include "picture_sizes.h"
#include "ranking.h"
#include "rpn_level.h"

namespace densepose {
namespace {

constexpr const char* kName = GenerateProposals::kName;

constexpr std::int64_t kSample = 1024;  // scores looked at to guess a threshold
constexpr std::int64_t kChunk = 256;    // anchors ranked at a time: often a few hundred give all proposals

// The best anchors of a level, to be taken one by one, and those of its boxes
// that NMS has kept. An anchor's index counts pixels, then the anchors of a
// pixel. Only the keys up to `sorted` are in order; none of the others ranks
// before them.
struct Queue {
  RpnLevel level;
  KeptBoxes kept;
  RankKey* keys;
  std::int64_t count = 0, sorted = 0, next = 0;

  bool empty() const { return next == count; }
  RankKey front() const { return keys[next]; }

  void sort_more() {
    RankKey* const begin = keys + sorted;
    const std::int64_t chunk = std::min(kChunk, count - sorted);
    if (sorted + chunk < count) std::nth_element(begin, begin + chunk, keys + count);
    std::sort(begin, begin + chunk);
    sorted += chunk;
  }
  void pop() {
    if (++next == sorted) sort_more();
  }
};

// A score that about half again as many anchors exceed as are wanted, guessed
// from a regular sample.
float guess_threshold(const RpnLevel& level, std::int64_t wanted, float* sample) {
  const std::int64_t per_anchor = kSample / level.anchors;
  if (level.size() < 4 * wanted || level.pixels() < 2 * per_anchor || per_anchor == 0)
    return -std::numeric_limits<float>::infinity();
  std::int64_t n = 0;
  for (std::int64_t a = 0; a < level.anchors; ++a)
    for (std::int64_t i = 0; i < per_anchor; ++i) {
      const float score = level.objectness(i * level.pixels() / per_anchor, a);
      sample[n++] = score == score ? score : std::numeric_limits<float>::infinity();
    }
  const std::int64_t rank = std::min(n - 1, n * wanted * 3 / (2 * level.size()) + 8);
  std::nth_element(sample, sample + rank, sample + n, std::greater<float>());
  return sample[rank];
}

// Keys of all anchors whose score is not below a threshold, in any order.
std::int64_t collect(const RpnLevel& level, float threshold, std::uint32_t* positions, RankKey* keys) {
  const std::int64_t a = level.anchors, pixels = level.pixels();
  const ScoreRows scores =
      level.planar() ? ScoreRows{level.data, a, pixels, pixels} : ScoreRows{level.data, pixels, a, level.pixel_stride};
  const std::int64_t found = kernels().find_not_below(scores, threshold, positions);
  for (std::int64_t i = 0; i < found; ++i) {
    const std::int64_t row = positions[i] / scores.width, column = positions[i] % scores.width;
    const std::int64_t index = level.planar() ? column * a + row : positions[i];
    keys[i] = rank_key(scores.data[row * scores.stride + column], static_cast<std::uint32_t>(index));
  }
  return found;
}

// Working memory to find the best anchors of a level.
struct Selection {
  float* sample;             // [kSample]
  std::uint32_t* positions;  // [level.size()]
};

void select_best(Queue& queue, std::int64_t wanted, const Selection& work) {
  const RpnLevel& level = queue.level;
  queue.count = std::min(wanted, level.size());
  std::int64_t found = collect(level, guess_threshold(level, queue.count, work.sample), work.positions, queue.keys);
  if (found < queue.count) found = collect(level, -std::numeric_limits<float>::infinity(), work.positions, queue.keys);
  if (queue.count < found) std::nth_element(queue.keys, queue.keys + queue.count, queue.keys + found);
  queue.sort_more();
}

// The level whose next anchor has the largest score; the first of equals. Null
// when all are empty.
Queue* best_queue(Span<Queue> queues) {
  Queue* best = nullptr;
  for (Queue& q : queues)
    if (!q.empty() && (!best || q.front() >> 32 < best->front() >> 32)) best = &q;
  return best;
}

}  // namespace

void GenerateProposals::validate() const {
  check(!strides.empty(), kName, "strides must name at least one level");
  for (std::int64_t s : strides) check(s > 0, kName, "strides must be positive");
  check(!anchors.empty() && anchors.size() % (4 * strides.size()) == 0, kName,
        "anchors must hold four numbers per anchor, and equally many anchors "
        "for each of the levels");
  check(bbox_weights.size() == 4, kName, "bbox_weights must be four numbers");
  for (float w : bbox_weights) check(w != 0 && finite(w), kName, "bbox_weights must be finite and not zero");
  check(pre_nms_topk > 0, kName, "pre_nms_topk must be positive");
  check(capacity > 0, kName, "capacity must be positive");
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

  const Span<Queue> queues(scratch.take<Queue>(levels), levels);
  const Span<Selection> work(scratch.take<Selection>(levels), levels);
  for (std::size_t i = 0; i < levels; ++i) {
    const RpnLevel level = read_level(inputs[i], *this, i);
    const auto size = static_cast<std::size_t>(level.size());
    const std::int64_t most = std::min({limit, pre_nms_topk, level.size()});
    new (&queues[i]) Queue{level, {most, nms_threshold, scratch}, scratch.take<RankKey>(size)};
    work[i] = {scratch.take<float>(kSample), scratch.take<std::uint32_t>(size)};
  }
  scratch.parallel(static_cast<std::int64_t>(levels), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      select_best(queues[i], pre_nms_topk, work[i]);
  });

  // detectron2 suppresses within each level and then takes the best of all
  // levels. Visiting the levels' anchors in the order of their scores gives the
  // same boxes, and stops as soon as there are enough.
  float* boxes = outputs[0].as<float>();
  float* scores = outputs[1].as<float>();
  std::int64_t count = 0;
  while (count < limit) {
    Queue* const queue = best_queue(queues);
    if (!queue) break;
    Proposal p = decode(queue->level, anchors.data() + queue->level.first_anchor, rank_index(queue->front()),
                        anchor_offset, bbox_weights.data());
    queue->pop();
    if (!usable(p)) continue;
    p.box = clip(p.box, sizes.height, sizes.width);
    if (!sides_exceed(p.box, min_size) || queue->kept.suppress(p.box)) continue;
    queue->kept.keep(p.box);
    store_box(p.box, boxes + 4 * count);
    scores[count++] = p.score;
  }
  std::fill(boxes + 4 * count, boxes + 4 * capacity, 0.0f);
  std::fill(scores + count, scores + capacity, -std::numeric_limits<float>::infinity());
  *outputs[2].as<std::int32_t>() = static_cast<std::int32_t>(count);
}

}  // namespace densepose
