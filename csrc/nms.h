// Greedy non-maximum suppression, one candidate after another from the best
// down: the boxes kept so far decide. No matrix of all pairs, and whoever has
// enough boxes stops asking.
#pragma once

#include <algorithm>
#include <cstdint>

#include "boxes.h"
#include "isa.h"
#include "scratch.h"

namespace densepose {

class KeptBoxes {
 public:
  // Room for `capacity` boxes that suppress others at an IoU above `threshold`.
  KeptBoxes(std::int64_t capacity, float threshold, Scratch& scratch)
      : threshold_(threshold), bound_(threshold - 1e-4f * std::fabs(threshold)) {
    const std::int64_t rows = (capacity + kBoxPadding - 1) / kBoxPadding * kBoxPadding;
    for (float*& column : columns_) {
      column = scratch.take<float>(static_cast<std::size_t>(rows));
      std::fill_n(column, rows, 0.0f);
    }
  }

  // Whether a kept box suppresses this one. Most pairs are told apart by a
  // vector loop that needs no division; pairs near the threshold are decided by
  // iou(), as torchvision rounds it.
  bool suppress(const Box& box) const {
    const float corners[4] = {box.x0, box.y0, box.x1, box.y1};
    const BoxColumns boxes{columns_[0], columns_[1], columns_[2], columns_[3], columns_[4], count_};
    for (std::int64_t i = 0;; ++i) {
      i = find_overlap_(boxes, i, corners, bound_);
      if (i == count_) return false;
      if (iou(at(i), box) > threshold_) return true;
    }
  }

  void keep(const Box& box) {
    const float values[5] = {box.x0, box.y0, box.x1, box.y1, area(box)};
    for (int i = 0; i < 5; ++i) columns_[i][count_] = values[i];
    ++count_;
  }

  Box at(std::int64_t i) const { return {columns_[0][i], columns_[1][i], columns_[2][i], columns_[3][i]}; }
  std::int64_t count() const { return count_; }

 private:
  float threshold_;
  float bound_;
  std::int64_t count_ = 0;
  float* columns_[5];  // x0, y0, x1, y1, area
  decltype(Kernels::find_overlap) find_overlap_ = kernels().find_overlap;
};

}  // namespace densepose
