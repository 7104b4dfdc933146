#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include "kernels/isa.h"
#include "picture/preprocess.h"
#include "picture/resample.h"

namespace densepose {
namespace {

// Rows are dealt out to the threads in this many strips, each with working memory of its own.
constexpr std::int64_t kStrips = 16;

// ---- passes --------------------------------------------------------------------------------------------------------

// body(strip, begin, end) for disjoint ranges [begin, end) that cover [0, count); `strip` < kStrips tells which working
// memory is free to use.
template <class Body>
void for_strips(const Parallel& parallel, std::int64_t count, const Body& body) {
  const std::int64_t strips = std::min(kStrips, count);
  parallel(strips, 1,
           [&](std::int64_t begin, std::int64_t end) { body(begin, begin * count / strips, end * count / strips); });
}

// Pillow 13 starts with the columns where the height loses more than twice as many pixels as the width: with one scale
// for both axes, for pictures more than twice as tall as wide. Earlier versions start with the rows even then; for all
// other shapes the versions agree.
bool vertical_first(const RgbImage& image, std::int64_t height, std::int64_t width) {
  return height < image.height && image.height - height > 2 * (image.width - width);
}

// The vertical pass of a picture as it comes.
RgbImage resample_height(const RgbImage& image, std::int64_t height, Scratch& scratch) {
  const std::int64_t bytes = 3 * image.width;
  const ResampledAxis axis = make_axis(image.height, height, scratch);
  auto* out = scratch.take<std::uint8_t>(height * bytes);
  for_strips(scratch.parallel, height, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    for (std::int64_t y = begin; y < end; ++y)
      kernels().resample_row(image.pixels + axis.first[y] * image.row_stride, image.row_stride, bytes,
                             axis.weights + y * axis.taps, axis.taps, out + y * bytes);
  });
  return {out, height, image.width, bytes};
}

void check_side(std::int64_t side, const char* what) {
  if (side < 1 || side > kMaxSide)
    throw std::invalid_argument(std::string(what) + " is " + std::to_string(side) + ", it must be from 1 to " +
                                std::to_string(kMaxSide));
}

void check_fits(std::int64_t resized_height, std::int64_t resized_width, std::int64_t height, std::int64_t width) {
  if (resized_height > height || resized_width > width)
    throw std::invalid_argument("a picture of " + std::to_string(resized_height) + " x " +
                                std::to_string(resized_width) + " does not fit into an input of " +
                                std::to_string(height) + " x " + std::to_string(width));
}

// emit(y, row) for every row of the resized picture, possibly at the same time. A strip resamples horizontally the rows
// that it reads, also those few that its neighbors read too: threads need not meet in between, and rows are still in
// the cache when the vertical pass comes for them.
template <class Emit>
void resample(const RgbImage& image, std::int64_t height, std::int64_t width, Scratch& scratch, const Emit& emit) {
  check_side(image.height, "the picture's height");
  check_side(image.width, "the picture's width");
  check_side(height, "the resized height");
  check_side(width, "the resized width");
  const RgbImage source = vertical_first(image, height, width) ? resample_height(image, height, scratch) : image;
  std::optional<WidthPass> across;
  if (width != source.width) across.emplace(source.width, width, scratch);
  std::optional<ResampledAxis> down;
  if (height != source.height) down = make_axis(source.height, height, scratch);
  const auto first_row = [&](std::int64_t y) { return down ? down->first[y] : y; };
  const auto end_row = [&](std::int64_t y) { return down ? down->first[y] + down->taps : y + 1; };

  // Working memory of a strip: what the horizontal pass needs and gives, and a row of what the vertical pass gives.
  constexpr std::int64_t kAlign = 64;
  const auto aligned = [](std::int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; };
  const std::int64_t strips = std::min(kStrips, height);
  std::int64_t rows = 0;
  for (std::int64_t s = 0; s < strips; ++s)
    rows = std::max(rows, end_row((s + 1) * height / strips - 1) - first_row(s * height / strips));
  const std::int64_t stride = aligned(3 * width + WidthPass::kSlack);
  const std::int64_t work_bytes = across ? aligned(across->workspace()) : 0;
  auto* const work = scratch.take<std::uint8_t>(strips * work_bytes);
  auto* const narrowed = scratch.take<std::uint8_t>(across ? strips * rows * stride : 0);
  auto* const lines = scratch.take<std::uint8_t>(strips * stride);

  for_strips(scratch.parallel, height, [&](std::int64_t strip, std::int64_t begin, std::int64_t end) {
    RgbImage from = source;  // whose row `origin` comes first
    std::int64_t origin = 0;
    std::uint8_t* const to = narrowed + strip * rows * stride;  // ranges of several strips have the room of all of them
    if (across) {
      origin = first_row(begin);
      from.pixels = to;
      from.row_stride = stride;
    }
    for (std::int64_t y = begin, done = origin; y < end; ++y) {
      for (; across && done < end_row(y); done = std::min(done + WidthPass::kRows, end_row(end - 1)))
        across->run(source.pixels + done * source.row_stride, source.row_stride,
                    std::min(WidthPass::kRows, end_row(end - 1) - done), to + (done - origin) * stride, stride,
                    work + strip * work_bytes);
      const std::uint8_t* row = from.pixels + (first_row(y) - origin) * from.row_stride;
      if (down) {
        std::uint8_t* const line = lines + strip * stride;
        kernels().resample_row(row, from.row_stride, 3 * width, down->weights + y * down->taps, down->taps, line);
        row = line;
      }
      emit(y, row);
    }
  });
}

}  // namespace

void resize(const RgbImage& image, std::uint8_t* out, std::int64_t height, std::int64_t width, Scratch& scratch) {
  const std::int64_t bytes = 3 * width;
  resample(image, height, width, scratch, [=](std::int64_t y, const std::uint8_t* row) {
    std::memcpy(out + y * bytes, row, static_cast<std::size_t>(bytes));
  });
}

void preprocess(const RgbImage& image, std::int64_t resized_height, std::int64_t resized_width, const float mean[3],
                const InputTensor& out, Scratch& scratch) {
  check_fits(resized_height, resized_width, out.height, out.width);
  const bool planar = out.layout == InputLayout::kNCHW;
  const std::int64_t planes = planar ? 3 : 1;
  const std::int64_t plane = out.height * out.width;
  const std::int64_t values = planar ? 1 : 3;  // of a pixel, side by side
  resample(image, resized_height, resized_width, scratch, [&](std::int64_t y, const std::uint8_t* row) {
    float* line = out.data + y * out.width * values;
    if (planar)
      kernels().normalize_planar(row, resized_width, mean, plane, line);
    else
      kernels().normalize_interleaved(row, resized_width, mean, line);
    for (std::int64_t p = 0; p < planes; ++p)
      std::fill(line + p * plane + resized_width * values, line + p * plane + out.width * values, 0.0f);
  });
  for (std::int64_t p = 0; p < planes; ++p)
    std::fill(out.data + p * plane + resized_height * out.width * values,
              out.data + p * plane + out.height * out.width * values, 0.0f);
}

void set_quantization(QuantizedInputTensor& input, const float mean[3], float scale, int zero_point) {
  const auto quantize = [=](float value) {
    return static_cast<std::uint8_t>(
        std::clamp(std::nearbyint(value / scale) + static_cast<float>(zero_point), 0.0f, 255.0f));
  };
  for (int c = 0; c < 3; ++c)
    for (int byte = 0; byte < 256; ++byte) input.table[c][byte] = quantize(static_cast<float>(byte) - mean[c]);
  input.padding = quantize(0.0f);
}

void preprocess(const RgbImage& image, std::int64_t resized_height, std::int64_t resized_width,
                const QuantizedInputTensor& out, Scratch& scratch) {
  check_fits(resized_height, resized_width, out.height, out.width);
  resample(image, resized_height, resized_width, scratch, [&](std::int64_t y, const std::uint8_t* row) {
    std::uint8_t* line = out.data + y * out.width * 3;
    kernels().look_up_pixels(row, 3 * resized_width, out.table, line);
    std::fill(line + 3 * resized_width, line + 3 * out.width, out.padding);
  });
  std::fill(out.data + resized_height * out.width * 3, out.data + out.height * out.width * 3, out.padding);
}

}  // namespace densepose
