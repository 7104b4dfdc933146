// The two passes of the resize (preprocess.h says how it is defined), over rows of packed RGB.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/scratch.h"
#include "kernels/kernels.h"

namespace densepose {

ResampledAxis make_axis(std::int64_t in, std::int64_t out, Scratch& scratch);

// The horizontal pass, of at most kRows rows at a time.
class WidthPass {
 public:
  static constexpr std::int64_t kRows = kColumnRows;
  static constexpr std::int64_t kSlack = 16;  // bytes after each row of `out` that may be overwritten

  WidthPass(std::int64_t in, std::int64_t out, Scratch& scratch);

  // Bytes of working memory that run() needs.
  std::int64_t workspace() const;

  void run(const std::uint8_t* rows, std::ptrdiff_t row_stride, std::int64_t count, std::uint8_t* out,
           std::int64_t out_stride, std::uint8_t* workspace) const;

 private:
  std::int64_t in_;
  ResampledAxis axis_;
  RowBlocks blocks_{};  // none where the processor has no use for them
};

}  // namespace densepose
