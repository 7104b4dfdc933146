// Vertices are halved along the axis for which the bounding boxes of both halves are smallest, until the halves are
// blocks. What a search cannot pass over depends on the sum of a box's sides: on real surfaces this leaves a sixth fewer
// boxes than halving along the direction in which vertices are spread widest.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include "ops/vertex_tree.h"

namespace densepose {
namespace {

constexpr float kLargest = 1e6f;       // of a coordinate; normalized embeddings are far below, and products stay finite
constexpr std::size_t kMostAxes = 16;  // that are tried

class Splitter {
 public:
  Splitter(const float* embeddings, std::int64_t count, std::int64_t dimensions)
      : embeddings_(embeddings),
        dimensions_(dimensions),
        order_(static_cast<std::size_t>(count)),
        low_(static_cast<std::size_t>(dimensions)),
        high_(static_cast<std::size_t>(dimensions)) {
    std::iota(order_.begin(), order_.end(), 0);
    split(0, count);
  }

  const std::vector<std::int32_t>& order() const { return order_; }

 private:
  // The first half is filled up with whole sheets, groups or blocks: only the last ones of a mesh are not full.
  void split(std::int64_t begin, std::int64_t end) {
    const std::int64_t count = end - begin;
    if (count <= kFan) return;
    std::int64_t unit = kFan;
    while (unit < kSheetVertices && count > unit * kFan) unit *= kFan;
    const std::int64_t middle = begin + (count / 2 + unit - 1) / unit * unit;
    if (middle >= end) return;  // at most one unit: cannot happen, as count > unit
    std::int64_t axis = 0, last = -1;
    double smallest = std::numeric_limits<double>::infinity();
    for (const std::int64_t k : widest_axes(begin, end)) {
      halve(begin, middle, end, last = k);
      const double size = static_cast<double>(middle - begin) * sides(begin, middle) +
                          static_cast<double>(end - middle) * sides(middle, end);
      if (size < smallest) {
        smallest = size;
        axis = k;
      }
    }
    if (axis != last) halve(begin, middle, end, axis);
    split(begin, middle);
    split(middle, end);
  }

  // Those along which vertices are spread widest; one of the others would hardly be chosen.
  std::vector<std::int64_t> widest_axes(std::int64_t begin, std::int64_t end) {
    sides(begin, end);
    std::vector<std::int64_t> axes(low_.size());
    std::iota(axes.begin(), axes.end(), 0);
    const auto side = [this](std::int64_t k) {
      return high_[static_cast<std::size_t>(k)] - low_[static_cast<std::size_t>(k)];
    };
    std::stable_sort(axes.begin(), axes.end(), [&](std::int64_t a, std::int64_t b) { return side(a) > side(b); });
    axes.resize(std::min(axes.size(), kMostAxes));
    return axes;
  }

  void halve(std::int64_t begin, std::int64_t middle, std::int64_t end, std::int64_t axis) {
    std::nth_element(order_.begin() + begin, order_.begin() + middle, order_.begin() + end,
                     [=](std::int32_t a, std::int32_t b) {
                       const float x = embeddings_[a * dimensions_ + axis], y = embeddings_[b * dimensions_ + axis];
                       return x != y ? x < y : a < b;
                     });
  }

  // The sum of the sides of a bounding box.
  double sides(std::int64_t begin, std::int64_t end) {
    std::fill(low_.begin(), low_.end(), std::numeric_limits<float>::infinity());
    std::fill(high_.begin(), high_.end(), -std::numeric_limits<float>::infinity());
    for (std::int64_t i = begin; i < end; ++i) {
      const float* const v = vertex(i);
      for (std::size_t k = 0; k < low_.size(); ++k) {
        low_[k] = std::min(low_[k], v[k]);
        high_[k] = std::max(high_[k], v[k]);
      }
    }
    double sum = 0;
    for (std::size_t k = 0; k < low_.size(); ++k) sum += static_cast<double>(high_[k]) - low_[k];
    return sum;
  }

  const float* vertex(std::int64_t i) const { return embeddings_ + order_[static_cast<std::size_t>(i)] * dimensions_; }

  const float* embeddings_;
  const std::int64_t dimensions_;
  std::vector<std::int32_t> order_;
  std::vector<float> low_, high_;  // of a box
};

// Bounding boxes of `count` x 16 lanes of `points` (lowest and highest coordinates, which may be the same array), as
// lanes of out: float32 [count / 16, 2, depth, 16].
void bound(const float* low, const float* high, std::int64_t stride, std::int64_t count, std::int64_t depth,
           float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    float* const lowest = out + i / kFan * 2 * depth * kFan + i % kFan;
    float* const highest = lowest + depth * kFan;
    for (std::int64_t k = 0; k < depth; ++k) {
      float least = std::numeric_limits<float>::infinity(), most = -least;
      for (std::int64_t lane = 0; lane < kFan; ++lane) {
        const std::int64_t last = (depth - 1) * kFan + lane;
        if (high[i * stride + last] == -std::numeric_limits<float>::infinity()) continue;  // nobody there
        least = std::min(least, low[i * stride + k * kFan + lane]);
        most = std::max(most, high[i * stride + k * kFan + lane]);
      }
      const bool empty = least > most;
      lowest[k * kFan] = empty ? (k + 1 < depth ? 0.0f : most) : least;
      highest[k * kFan] = empty ? (k + 1 < depth ? 0.0f : most) : most;
    }
  }
}

}  // namespace

VertexTree make_vertex_tree(const float* embeddings, std::int64_t count, std::int64_t dimensions) {
  if (count < 1 || dimensions < 1)
    throw std::invalid_argument("a mesh without vertices, or embeddings of no dimension");
  if (count >= kNoVertex) throw std::invalid_argument("a mesh with more vertices than 31 bits can count");
  for (std::int64_t i = 0; i < count * dimensions; ++i)
    if (!(std::abs(embeddings[i]) <= kLargest))
      throw std::invalid_argument("the embedding of vertex " + std::to_string(i / dimensions) +
                                  " is not a finite number of ordinary size");
  VertexTree tree;
  tree.depth = dimensions + 1;
  tree.sheets = (count + kSheetVertices - 1) / kSheetVertices;
  const std::int64_t blocks = tree.sheets * kFan * kFan, block = tree.depth * kFan;
  tree.vertices.assign(static_cast<std::size_t>(blocks * block), 0.0f);
  tree.numbers.assign(static_cast<std::size_t>(blocks * kFan), kNoVertex);
  for (std::int64_t i = 0; i < blocks * kFan; ++i)
    tree.vertices[static_cast<std::size_t>(i / kFan * block + dimensions * kFan + i % kFan)] =
        -std::numeric_limits<float>::infinity();

  const Splitter splitter(embeddings, count, dimensions);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t number = splitter.order()[static_cast<std::size_t>(i)];
    const float* const from = embeddings + number * dimensions;
    float* const to = tree.vertices.data() + i / kFan * block + i % kFan;
    double square = 0;
    for (std::int64_t k = 0; k < dimensions; ++k) {
      to[k * kFan] = from[k];
      square += static_cast<double>(from[k]) * from[k];
    }
    to[dimensions * kFan] = static_cast<float>(-square / 2);
    tree.numbers[static_cast<std::size_t>(i)] = number;
  }
  tree.blocks.resize(static_cast<std::size_t>(tree.sheets * kFan * 2 * block));
  tree.groups.resize(static_cast<std::size_t>(tree.sheets * 2 * block));
  bound(tree.vertices.data(), tree.vertices.data(), block, blocks, tree.depth, tree.blocks.data());
  bound(tree.blocks.data(), tree.blocks.data() + block, 2 * block, tree.sheets * kFan, tree.depth, tree.groups.data());
  return tree;
}

}  // namespace densepose
