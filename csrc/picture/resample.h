// The two passes of the resize (preprocess.h says how it is defined), over rows of packed RGB.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/scratch.h"
#include "kernels/vbmi_rows.h"

namespace densepose {

inline constexpr int kWeightBits = 32 - 8 - 2;

// How one axis is resampled: sample i is the weighted sum of `taps` neighbors, of which the first is first[i]. Windows
// at the borders are shorter; they are filled up with zero weights, on the side where there still is a picture.
struct Axis {
  std::int64_t samples;
  std::int64_t taps;
  const std::int32_t* first;    // [samples], ascending
  const std::int32_t* weights;  // [samples][taps], fixed point
};

Axis make_axis(std::int64_t in, std::int64_t out, Scratch& scratch);

// One sample of the vertical pass: a row of `bytes` bytes from `taps` rows that lie `stride` bytes apart.
void resample_row(const std::uint8_t* rows, std::ptrdiff_t stride, std::int64_t bytes, const std::int32_t* weights,
                  std::int64_t taps, std::uint8_t* out);

// The horizontal pass, of at most kRows rows at a time.
class WidthPass {
 public:
  static constexpr std::int64_t kRows = 16;
  static constexpr std::int64_t kSlack = 16;  // bytes after each row of `out` that may be overwritten

  WidthPass(std::int64_t in, std::int64_t out, Scratch& scratch);

  // Bytes of working memory that run() needs.
  std::int64_t workspace() const;

  void run(const std::uint8_t* rows, std::ptrdiff_t row_stride, std::int64_t count, std::uint8_t* out,
           std::int64_t out_stride, std::uint8_t* workspace) const;

 private:
  std::int64_t in_;
  Axis axis_;
  RowBlocks blocks_{};  // none where the processor has no use for them
};

}  // namespace densepose
