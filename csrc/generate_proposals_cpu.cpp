#include <algorithm>
#include <functional>
#include <limits>
#include <new>

#include "boxes.h"
#include "generate_proposals.h"
#include "nms.h"
#include "picture_sizes.h"
#include "ranking.h"

namespace densepose {
namespace {

constexpr const char* kName = GenerateProposals::kName;

constexpr std::int64_t kSample = 1024;  // scores looked at to guess a threshold

// One level of the RPN's output and how to find a value in it, whatever the layout.
struct Level {
  const float* data;
  std::int64_t height, width;
  std::int64_t pixel_stride, channel_stride;
  std::int64_t anchors;       // per pixel
  const float* cell_anchors;  // [anchors, 4]
  std::int64_t stride;

  std::int64_t size() const { return height * width * anchors; }
  float objectness(std::int64_t pixel, std::int64_t anchor) const {
    return data[pixel * pixel_stride + anchor * channel_stride];
  }
  float delta(std::int64_t pixel, std::int64_t anchor, std::int64_t i) const {
    return data[pixel * pixel_stride + (anchors + 4 * anchor + i) * channel_stride];
  }
};

Level read_level(const Tensor& rpn, const GenerateProposals& op, std::size_t i) {
  const bool nhwc = op.layout == "NHWC";
  const std::int64_t anchors = static_cast<std::int64_t>(op.anchors.size() / (4 * op.strides.size()));
  const std::int64_t height = rpn.shape[nhwc ? 1 : 2], width = rpn.shape[nhwc ? 2 : 3];
  return {rpn.as<const float>(),
          height,
          width,
          nhwc ? 5 * anchors : 1,
          nhwc ? 1 : height * width,
          anchors,
          op.anchors.data() + i * 4 * static_cast<std::size_t>(anchors),
          op.strides[i]};
}

// The best anchors of a level, best first. Their indices count pixels, then the anchors of a pixel.
struct Candidates {
  RankKey* keys;
  std::int64_t count;
};

// A score that about half again as many anchors exceed as are wanted, guessed from a regular sample.
float guess_threshold(const Level& level, std::int64_t wanted, float* sample) {
  const std::int64_t pixels = level.height * level.width;
  const std::int64_t per_anchor = kSample / level.anchors;
  if (level.size() < 4 * wanted || pixels < 2 * per_anchor) return -std::numeric_limits<float>::infinity();
  std::int64_t n = 0;
  for (std::int64_t a = 0; a < level.anchors; ++a)
    for (std::int64_t i = 0; i < per_anchor; ++i) {
      const float score = level.objectness(i * pixels / per_anchor, a);
      sample[n++] = score == score ? score : std::numeric_limits<float>::infinity();
    }
  const std::int64_t rank = std::min(n - 1, n * wanted * 3 / (2 * level.size()) + 8);
  std::nth_element(sample, sample + rank, sample + n, std::greater<float>());
  return sample[rank];
}

std::int64_t collect(const Level& level, float threshold, RankKey* keys) {
  std::int64_t n = 0;
  for (std::int64_t a = 0; a < level.anchors; ++a)
    for (std::int64_t pixel = 0; pixel < level.height * level.width; ++pixel) {
      const float score = level.objectness(pixel, a);
      if (!(score < threshold)) keys[n++] = rank_key(score, static_cast<std::uint32_t>(pixel * level.anchors + a));
    }
  return n;
}

Candidates select_best(const Level& level, std::int64_t wanted, RankKey* keys, float* sample) {
  wanted = std::min(wanted, level.size());
  std::int64_t found = collect(level, guess_threshold(level, wanted, sample), keys);
  if (found < wanted) found = collect(level, -std::numeric_limits<float>::infinity(), keys);
  if (wanted < found) std::nth_element(keys, keys + wanted, keys + found);
  std::sort(keys, keys + wanted);
  return {keys, wanted};
}

// A level's ranked anchors, and those of its boxes that NMS has kept so far.
struct Queue {
  Level level;
  Candidates candidates;
  std::int64_t next;
  KeptBoxes kept;

  bool empty() const { return next == candidates.count; }
  RankKey score_key() const { return candidates.keys[next] >> 32; }
};

struct Proposal {
  Box box;
  float score;
};

Proposal decode(const Level& level, std::uint32_t index, float anchor_offset, const float* weights) {
  const std::int64_t pixel = index / level.anchors, a = index % level.anchors;
  const Box anchor =
      anchor_at(level.cell_anchors + 4 * a, pixel / level.width, pixel % level.width, level.stride, anchor_offset);
  const float deltas[4] = {level.delta(pixel, a, 0), level.delta(pixel, a, 1), level.delta(pixel, a, 2),
                           level.delta(pixel, a, 3)};
  return {apply_deltas(anchor, deltas, weights), level.objectness(pixel, a)};
}

// The level whose next anchor has the largest score; the first of equals. Null when all are empty.
Queue* best_queue(Span<Queue> queues) {
  Queue* best = nullptr;
  for (Queue& q : queues)
    if (!q.empty() && (!best || q.score_key() < best->score_key())) best = &q;
  return best;
}

}  // namespace

void GenerateProposals::validate() const {
  check(!strides.empty(), kName, "strides must name at least one level");
  for (std::int64_t s : strides) check(s > 0, kName, "strides must be positive");
  check(!anchors.empty() && anchors.size() % (4 * strides.size()) == 0, kName,
        "anchors must hold four numbers per anchor, and equally many anchors for each of the levels");
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
  for (std::size_t i = 0; i < levels; ++i) {
    const Level level = read_level(inputs[i], *this, i);
    const std::int64_t most = std::min({limit, pre_nms_topk, level.size()});
    new (&queues[i]) Queue{level, {scratch.take<RankKey>(level.size()), 0}, 0, {most, nms_threshold, scratch}};
  }
  float* samples = scratch.take<float>(levels * kSample);
  scratch.parallel(static_cast<std::int64_t>(levels), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      queues[i].candidates =
          select_best(queues[i].level, pre_nms_topk, queues[i].candidates.keys, samples + i * kSample);
  });

  // detectron2 suppresses within each level and then takes the best of all levels. Visiting the levels' anchors in the
  // order of their scores gives the same boxes, and stops as soon as there are enough.
  float* boxes = outputs[0].as<float>();
  float* scores = outputs[1].as<float>();
  std::int64_t count = 0;
  while (count < limit) {
    Queue* const queue = best_queue(queues);
    if (!queue) break;
    Proposal p =
        decode(queue->level, rank_index(queue->candidates.keys[queue->next++]), anchor_offset, bbox_weights.data());
    if (!finite(p.box) || !finite(p.score)) continue;
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
