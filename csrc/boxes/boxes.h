// Boxes as detectron2 computes with them (structures/boxes.py, modeling/box_regression.py), in float32 and in the same
// order of operations, so that a comparison against a threshold falls the same way.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/op.h"

namespace densepose {

// Of attributes: far beyond any network, and small enough that what is computed from them fits into 64 bits.
inline constexpr std::int64_t kMaxStride = 1 << 20;    // of a feature map, in pixels
inline constexpr std::int64_t kMaxCapacity = 1 << 24;  // rows of boxes

struct Box {
  float x0, y0, x1, y1;
};

DENSEPOSE_HD Box load_box(const float* p) { return {p[0], p[1], p[2], p[3]}; }

DENSEPOSE_HD void store_box(const Box& b, float* p) {
  p[0] = b.x0;
  p[1] = b.y0;
  p[2] = b.x1;
  p[3] = b.y1;
}

// Not fmaxf() and fminf(), which pay for a promise about NaN with a function call. Of a NaN and a number, the second.
DENSEPOSE_HD float larger(float a, float b) { return a > b ? a : b; }
DENSEPOSE_HD float smaller(float a, float b) { return a < b ? a : b; }

// Not isfinite(): its spelling differs between the host and CUDA.
DENSEPOSE_HD bool finite(float x) { return fabsf(x) <= 3.402823466e+38f; }

DENSEPOSE_HD bool finite(const Box& b) { return finite(b.x0) && finite(b.y0) && finite(b.x1) && finite(b.y1); }

DENSEPOSE_HD float area(const Box& b) { return (b.x1 - b.x0) * (b.y1 - b.y0); }

// False also for boxes with a NaN.
DENSEPOSE_HD bool sides_exceed(const Box& b, float side) { return b.x1 - b.x0 > side && b.y1 - b.y0 > side; }

DENSEPOSE_HD float clamp_to(float x, float low, float high) { return smaller(larger(x, low), high); }

DENSEPOSE_HD Box clip(const Box& b, float height, float width) {
  return {clamp_to(b.x0, 0, width), clamp_to(b.y0, 0, height), clamp_to(b.x1, 0, width), clamp_to(b.y1, 0, height)};
}

DENSEPOSE_HD Box scale(const Box& b, float scale_x, float scale_y) {
  return {b.x0 * scale_x, b.y0 * scale_y, b.x1 * scale_x, b.y1 * scale_y};
}

// NaN for two boxes without area, which is above no threshold.
DENSEPOSE_HD float iou(const Box& a, const Box& b) {
  const float width = larger(smaller(a.x1, b.x1) - larger(a.x0, b.x0), 0.0f);
  const float height = larger(smaller(a.y1, b.y1) - larger(a.y0, b.y0), 0.0f);
  const float intersection = width * height;
  return intersection / (area(a) + area(b) - intersection);
}

// A log-scale delta above this is clamped: log(1000 / 16), a 16-pixel anchor grown to 1000 pixels.
inline constexpr float kMaxLogScale = 4.135166556742356f;

// Applies regression deltas (dx, dy, dw, dh) to a box; a NaN delta gives a box with NaNs.
DENSEPOSE_HD Box apply_deltas(const Box& b, const float deltas[4], const float weights[4]) {
  const float width = b.x1 - b.x0;
  const float height = b.y1 - b.y0;
  const float center_x = b.x0 + 0.5f * width;
  const float center_y = b.y0 + 0.5f * height;

  const float log_w = deltas[2] / weights[2];
  const float log_h = deltas[3] / weights[3];
  const float new_center_x = deltas[0] / weights[0] * width + center_x;
  const float new_center_y = deltas[1] / weights[1] * height + center_y;
  const float new_width = expf(log_w > kMaxLogScale ? kMaxLogScale : log_w) * width;
  const float new_height = expf(log_h > kMaxLogScale ? kMaxLogScale : log_h) * height;

  return {new_center_x - 0.5f * new_width, new_center_y - 0.5f * new_height, new_center_x + 0.5f * new_width,
          new_center_y + 0.5f * new_height};
}

// The anchor at grid position (row, column): a cell anchor shifted by whole strides from the first position.
DENSEPOSE_HD Box anchor_at(const float cell_anchor[4], std::int64_t row, std::int64_t column, std::int64_t stride,
                           float offset) {
  const float first = offset * static_cast<float>(stride);
  const float x = first + static_cast<float>(column * stride);
  const float y = first + static_cast<float>(row * stride);
  return {x + cell_anchor[0], y + cell_anchor[1], x + cell_anchor[2], y + cell_anchor[3]};
}

}  // namespace densepose
