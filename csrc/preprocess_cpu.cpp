#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "preprocess.h"

// The hot loops below are compiled once per instruction set and the loader picks. They compute with integers, and with
// a single float32 operation per value where the mean is subtracted, so that every copy gives the same bits.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_THREAD__)  // ThreadSanitizer is not up yet when the loader picks
#define DENSEPOSE_SIMD_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#define DENSEPOSE_INLINE inline __attribute__((always_inline))
#else
#define DENSEPOSE_SIMD_CLONES
#define DENSEPOSE_INLINE inline
#endif

namespace densepose {
namespace {

constexpr int kWeightBits = 32 - 8 - 2;
constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

// Inside, a pixel is four bytes: R, G, B and one that means nothing. It moves as one integer, and vectors divide into
// whole pixels. The horizontal pass takes kRows rows at a time: vectors then run down a column of all of them, and one
// weight serves it.
using Pixel = std::uint32_t;
constexpr std::int64_t kRows = 16;
constexpr std::int64_t kPixelBytes = sizeof(Pixel);
constexpr std::int64_t kColumnBytes = kRows * kPixelBytes;

// Rows are dealt out to the threads in this many strips, each with working memory of its own.
constexpr std::int64_t kStrips = 16;

// ---- weights -------------------------------------------------------------------------------------------------------

// How one axis is resampled: sample i is the weighted sum of `taps` neighbours, of which the first is first[i]. Windows
// at the borders are shorter; they are filled up with zero weights, on the side where there still is a picture.
struct Axis {
  std::int64_t samples;
  std::int64_t taps;
  const std::int32_t* first;    // [samples]
  const std::int32_t* weights;  // [samples][taps], fixed point
};

Axis make_axis(std::int64_t in, std::int64_t out, Scratch& scratch) {
  // The order of the floating-point operations is Pillow's: another one would round differently.
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double support = std::max(scale, 1.0);
  const double steepness = 1.0 / support;
  const auto center = [&](std::int64_t i) { return (static_cast<double>(i) + 0.5) * scale; };
  const auto begin = [&](std::int64_t i) {
    return std::max(static_cast<std::int64_t>(center(i) - support + 0.5), std::int64_t{0});
  };
  const auto end = [&](std::int64_t i) { return std::min(static_cast<std::int64_t>(center(i) + support + 0.5), in); };

  std::int64_t taps = 1;
  for (std::int64_t i = 0; i < out; ++i) taps = std::max(taps, end(i) - begin(i));
  auto* first = scratch.take<std::int32_t>(out);
  auto* weights = scratch.take<std::int32_t>(out * taps);
  auto* triangle = scratch.take<double>(taps);
  std::fill_n(weights, out * taps, 0);
  for (std::int64_t i = 0; i < out; ++i) {
    const std::int64_t a = begin(i), b = end(i);
    double sum = 0;
    for (std::int64_t j = a; j < b; ++j) {
      const double distance = std::abs((static_cast<double>(j) - center(i) + 0.5) * steepness);
      sum += triangle[j - a] = std::max(1.0 - distance, 0.0);
    }
    first[i] = static_cast<std::int32_t>(std::min(a, in - taps));
    for (std::int64_t j = a; j < b; ++j)
      weights[i * taps + j - first[i]] = static_cast<std::int32_t>(0.5 + triangle[j - a] / sum * (1 << kWeightBits));
  }
  return {out, taps, first, weights};
}

// ---- convolution ---------------------------------------------------------------------------------------------------

DENSEPOSE_INLINE std::uint8_t to_uint8(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::min(sum >> kWeightBits, 255));
}

// out[i] = sum over t of weights[t] * in[t * step + i], rounded. A number of taps known at compile time keeps the sums
// in registers; Taps = 0 takes any number.
template <int Taps>
DENSEPOSE_INLINE void convolve(const std::uint8_t* in, std::int64_t step, const std::int32_t* weights,
                               std::int64_t taps, std::int64_t count, std::uint8_t* __restrict out) {
  if constexpr (Taps > 0) {
    for (std::int64_t i = 0; i < count; ++i) {
      std::int32_t sum = kHalf;
      for (int t = 0; t < Taps; ++t) sum += weights[t] * in[t * step + i];
      out[i] = to_uint8(sum);
    }
  } else {
    std::int64_t i = 0;
    for (; i + kColumnBytes <= count; i += kColumnBytes) {
      std::int32_t sum[kColumnBytes];
      for (std::int64_t k = 0; k < kColumnBytes; ++k) sum[k] = kHalf;
      for (std::int64_t t = 0; t < taps; ++t)
        for (std::int64_t k = 0; k < kColumnBytes; ++k) sum[k] += weights[t] * in[t * step + i + k];
      for (std::int64_t k = 0; k < kColumnBytes; ++k) out[i + k] = to_uint8(sum[k]);
    }
    for (; i < count; ++i) {
      std::int32_t sum = kHalf;
      for (std::int64_t t = 0; t < taps; ++t) sum += weights[t] * in[t * step + i];
      out[i] = to_uint8(sum);
    }
  }
}

// columns: uint8 [in][kRows][4] -> out: uint8 [axis.samples][kRows][4]
template <int Taps>
DENSEPOSE_INLINE void convolve_columns(const std::uint8_t* columns, const Axis& axis, std::uint8_t* __restrict out) {
  for (std::int64_t x = 0; x < axis.samples; ++x)
    convolve<Taps>(columns + axis.first[x] * kColumnBytes, kColumnBytes, axis.weights + x * axis.taps, axis.taps,
                   kColumnBytes, out + x * kColumnBytes);
}

DENSEPOSE_SIMD_CLONES
void resample_columns(const std::uint8_t* columns, const Axis& axis, std::uint8_t* out) {
  switch (axis.taps) {
    case 1: return convolve_columns<1>(columns, axis, out);
    case 2: return convolve_columns<2>(columns, axis, out);
    case 3: return convolve_columns<3>(columns, axis, out);
    case 4: return convolve_columns<4>(columns, axis, out);
    case 5: return convolve_columns<5>(columns, axis, out);
    case 6: return convolve_columns<6>(columns, axis, out);
    case 7: return convolve_columns<7>(columns, axis, out);
    case 8: return convolve_columns<8>(columns, axis, out);
    default: return convolve_columns<0>(columns, axis, out);
  }
}

// Sample y of the vertical pass: a row of `bytes` bytes from neighbouring rows that lie `stride` bytes apart.
DENSEPOSE_SIMD_CLONES
void resample_row(const std::uint8_t* rows, std::ptrdiff_t stride, std::int64_t bytes, const Axis& axis, std::int64_t y,
                  std::uint8_t* out) {
  const std::uint8_t* in = rows + axis.first[y] * stride;
  const std::int32_t* weights = axis.weights + y * axis.taps;
  switch (axis.taps) {
    case 1: return convolve<1>(in, stride, weights, 1, bytes, out);
    case 2: return convolve<2>(in, stride, weights, 2, bytes, out);
    case 3: return convolve<3>(in, stride, weights, 3, bytes, out);
    case 4: return convolve<4>(in, stride, weights, 4, bytes, out);
    case 5: return convolve<5>(in, stride, weights, 5, bytes, out);
    case 6: return convolve<6>(in, stride, weights, 6, bytes, out);
    case 7: return convolve<7>(in, stride, weights, 7, bytes, out);
    case 8: return convolve<8>(in, stride, weights, 8, bytes, out);
    default: return convolve<0>(in, stride, weights, axis.taps, bytes, out);
  }
}

// ---- pixels in and out ---------------------------------------------------------------------------------------------

// RGB -> every `step`-th pixel of `out`. The byte that comes along with three is the next pixel's; the last pixel may
// have no next.
void unpack(const std::uint8_t* rgb, std::int64_t width, Pixel* out, std::int64_t step) {
  const std::int64_t last = width - 1;
  for (std::int64_t x = 0; x < last; ++x) std::memcpy(out + x * step, rgb + 3 * x, sizeof(Pixel));
  Pixel pixel = 0;
  std::memcpy(&pixel, rgb + 3 * last, 3);
  out[last * step] = pixel;
}

// convert(pixel) of each pixel. Every store spills a byte into the next pixel, and the next store puts it right.
template <class Convert>
void pack(const Pixel* in, std::int64_t width, std::uint8_t* rgb, const Convert& convert) {
  const std::int64_t last = width - 1;
  for (std::int64_t x = 0; x < last; ++x) {
    const Pixel pixel = convert(in[x]);
    std::memcpy(rgb + 3 * x, &pixel, sizeof(Pixel));
  }
  const Pixel pixel = convert(in[last]);
  std::memcpy(rgb + 3 * last, &pixel, 3);
}

DENSEPOSE_INLINE float channel(Pixel pixel, int c) {
  return static_cast<float>(static_cast<int>(pixel >> 8 * c & 255));
}

DENSEPOSE_SIMD_CLONES
void normalize_planar(const Pixel* in, std::int64_t width, const float* mean, std::int64_t plane, float* out) {
  float* __restrict r = out;
  float* __restrict g = out + plane;
  float* __restrict b = out + 2 * plane;
  for (std::int64_t x = 0; x < width; ++x) {
    r[x] = channel(in[x], 0) - mean[0];
    g[x] = channel(in[x], 1) - mean[1];
    b[x] = channel(in[x], 2) - mean[2];
  }
}

DENSEPOSE_SIMD_CLONES
void normalize_interleaved(const Pixel* in, std::int64_t width, const float* mean, float* __restrict out) {
  for (std::int64_t x = 0; x < width; ++x)
    for (int c = 0; c < 3; ++c) out[3 * x + c] = channel(in[x], c) - mean[c];
}

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
  const Axis axis = make_axis(image.height, height, scratch);
  auto* out = scratch.take<std::uint8_t>(height * bytes);
  for_strips(scratch.parallel, height, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    for (std::int64_t y = begin; y < end; ++y)
      resample_row(image.pixels, image.row_stride, bytes, axis, y, out + y * bytes);
  });
  return {out, height, image.width, bytes};
}

// The horizontal pass: image.height rows of `width` pixels.
const Pixel* resample_width(const RgbImage& image, std::int64_t width, Scratch& scratch) {
  Pixel* rows = scratch.take<Pixel>(image.height * width);
  const auto source = [&](std::int64_t y) { return image.pixels + y * image.row_stride; };
  if (width == image.width) {
    for_strips(scratch.parallel, image.height, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      for (std::int64_t y = begin; y < end; ++y) unpack(source(y), width, rows + y * width, 1);
    });
    return rows;
  }
  const Axis axis = make_axis(image.width, width, scratch);
  const std::int64_t groups = (image.height + kRows - 1) / kRows;
  const std::int64_t strips = std::min(kStrips, groups);
  Pixel* columns = scratch.take<Pixel>(strips * image.width * kRows);
  Pixel* resampled = scratch.take<Pixel>(strips * width * kRows);
  for_strips(scratch.parallel, groups, [&](std::int64_t strip, std::int64_t begin, std::int64_t end) {
    Pixel* in = columns + strip * image.width * kRows;
    Pixel* out = resampled + strip * width * kRows;
    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t y = group * kRows;
      const std::int64_t valid = std::min(kRows, image.height - y);
      for (std::int64_t r = 0; r < kRows; ++r)  // the last group repeats its last row
        unpack(source(y + std::min(r, valid - 1)), image.width, in + r, kRows);
      resample_columns(reinterpret_cast<const std::uint8_t*>(in), axis, reinterpret_cast<std::uint8_t*>(out));
      for (std::int64_t r = 0; r < valid; ++r) {
        Pixel* row = rows + (y + r) * width;
        for (std::int64_t x = 0; x < width; ++x) row[x] = out[x * kRows + r];
      }
    }
  });
  return rows;
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

// emit(y, row) for every row of the resized picture, possibly at the same time.
template <class Emit>
void resample(const RgbImage& image, std::int64_t height, std::int64_t width, Scratch& scratch, const Emit& emit) {
  check_side(image.height, "the picture's height");
  check_side(image.width, "the picture's width");
  check_side(height, "the resized height");
  check_side(width, "the resized width");
  const RgbImage source = vertical_first(image, height, width) ? resample_height(image, height, scratch) : image;
  const Pixel* rows = resample_width(source, width, scratch);
  if (height == source.height) {
    for_strips(scratch.parallel, height, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      for (std::int64_t y = begin; y < end; ++y) emit(y, rows + y * width);
    });
    return;
  }
  const Axis axis = make_axis(source.height, height, scratch);
  const std::int64_t bytes = width * kPixelBytes;
  Pixel* resampled = scratch.take<Pixel>(kStrips * width);
  for_strips(scratch.parallel, height, [&](std::int64_t strip, std::int64_t begin, std::int64_t end) {
    Pixel* row = resampled + strip * width;
    for (std::int64_t y = begin; y < end; ++y) {
      resample_row(reinterpret_cast<const std::uint8_t*>(rows), bytes, bytes, axis, y,
                   reinterpret_cast<std::uint8_t*>(row));
      emit(y, row);
    }
  });
}

}  // namespace

void resize(const RgbImage& image, std::uint8_t* out, std::int64_t height, std::int64_t width, Scratch& scratch) {
  resample(image, height, width, scratch,
           [&](std::int64_t y, const Pixel* row) { pack(row, width, out + y * width * 3, [](Pixel p) { return p; }); });
}

void preprocess(const RgbImage& image, std::int64_t resized_height, std::int64_t resized_width, const float mean[3],
                const InputTensor& out, Scratch& scratch) {
  check_fits(resized_height, resized_width, out.height, out.width);
  const bool planar = out.layout == InputLayout::kNCHW;
  const std::int64_t planes = planar ? 3 : 1;
  const std::int64_t plane = out.height * out.width;
  const std::int64_t values = planar ? 1 : 3;  // of a pixel, side by side
  resample(image, resized_height, resized_width, scratch, [&](std::int64_t y, const Pixel* row) {
    float* line = out.data + y * out.width * values;
    if (planar)
      normalize_planar(row, resized_width, mean, plane, line);
    else
      normalize_interleaved(row, resized_width, mean, line);
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
    for (int byte = 0; byte < 256; ++byte)
      input.table[c][byte] = Pixel{quantize(static_cast<float>(byte) - mean[c])} << 8 * c;
  input.padding = quantize(0.0f);
}

void preprocess(const RgbImage& image, std::int64_t resized_height, std::int64_t resized_width,
                const QuantizedInputTensor& out, Scratch& scratch) {
  check_fits(resized_height, resized_width, out.height, out.width);
  resample(image, resized_height, resized_width, scratch, [&](std::int64_t y, const Pixel* row) {
    std::uint8_t* line = out.data + y * out.width * 3;
    pack(row, resized_width, line,
         [&](Pixel p) { return out.table[0][p & 255] | out.table[1][p >> 8 & 255] | out.table[2][p >> 16 & 255]; });
    std::fill(line + 3 * resized_width, line + 3 * out.width, out.padding);
  });
  std::fill(out.data + resized_height * out.width * 3, out.data + out.height * out.width * 3, out.padding);
}

}  // namespace densepose
