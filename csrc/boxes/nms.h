// Greedy non-maximum suppression, the candidates taken from the best down: the boxes kept so far decide. No matrix of
// all pairs, and whoever has enough boxes stops asking.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "boxes/boxes.h"
#include "core/scratch.h"
#include "kernels/isa.h"

namespace densepose {

class KeptBoxes {
 public:
  // Room for `capacity` boxes that suppress others at an IoU above `threshold`.
  KeptBoxes(std::int64_t capacity, float threshold, Scratch& scratch)
      : capacity_(capacity),
        threshold_(threshold),
        bound_(threshold - 1e-4f * std::fabs(threshold)),
        columns_{scratch.take<float>(static_cast<std::size_t>(5 * capacity)), capacity} {}

  std::int64_t count() const { return count_; }
  bool full() const { return count_ == capacity_; }
  Box at(std::int64_t i) const { return columns_.at(i); }

  // The next kBoxBlock candidates, best first; only those with a bit in `valid` count. Keeps what no box kept before
  // suppresses, as long as there is room, and returns the bits of what it kept.
  std::uint64_t keep_best(const Box* candidates, std::uint64_t valid) {
    alignas(64) float memory[5 * kBoxBlock] = {};
    const Columns block{memory, kBoxBlock};
    for (std::uint64_t rest = valid; rest; rest &= rest - 1) block.write(lowest(rest), candidates[lowest(rest)]);
    std::uint64_t kept = 0, left = not_suppressed(block, valid, 0);
    while (left && !full()) {
      columns_.write(count_++, candidates[lowest(left)]);
      kept |= left & -left;
      left = not_suppressed(block, left & (left - 1), count_ - 1);
    }
    return kept;
  }

 private:
  struct Columns {
    float* data;  // [5, rows]: x0, y0, x1, y1, area
    std::int64_t rows;

    void write(std::int64_t i, const Box& box) const {
      const float values[5] = {box.x0, box.y0, box.x1, box.y1, area(box)};
      for (int c = 0; c < 5; ++c) data[c * rows + i] = values[c];
    }
    Box at(std::int64_t i) const { return {data[i], data[rows + i], data[2 * rows + i], data[3 * rows + i]}; }
    BoxColumns first(std::int64_t count) const {
      return {data, data + rows, data + 2 * rows, data + 3 * rows, data + 4 * rows, count};
    }
  };

  static int lowest(std::uint64_t bits) { return __builtin_ctzll(bits); }

  // What the kept boxes from `begin` on leave of a block's candidates. Most pairs are told apart by a vector loop that
  // needs no division; pairs near the threshold are decided by iou(), as torchvision rounds it.
  std::uint64_t not_suppressed(const Columns& block, std::uint64_t left, std::int64_t begin) const {
    const BoxColumns kept = columns_.first(count_), candidates = block.first(kBoxBlock);
    for (; left; ++begin) {
      std::uint64_t found = left;
      begin = find_overlap_(kept, begin, candidates, bound_, &found);
      if (begin == count_) break;
      for (; found; found &= found - 1)
        if (iou(at(begin), block.at(lowest(found))) > threshold_) left &= ~(found & -found);
    }
    return left;
  }

  std::int64_t capacity_, count_ = 0;
  float threshold_;
  float bound_;
  Columns columns_;
  decltype(Kernels::find_overlap) find_overlap_ = kernels().find_overlap;
};

}  // namespace densepose
