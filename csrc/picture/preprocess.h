// From a photograph to the network's input: an antialiased bilinear resize that gives the very bytes that Pillow gives,
// fused with mean subtraction, zero padding and the change of layout. A network is trained on pictures resized by
// Pillow, and a quantized one is calibrated on them, so "almost the same resize" would be an error source for nothing.
//
// The resize, as Pillow (src/libImaging/Resample.c) defines it for 8-bit pictures: each axis is convolved with a
// triangle whose support is one pixel, or the down-scaling ratio where that is larger; its weights are computed in
// double, normalized to sum to 1 and rounded to 22-bit fixed point; one axis after the other (horizontally first, but
// for pictures that mostly lose height), rounded to uint8 in between; an axis whose length does not change is left
// alone. Everything after the weights is integer arithmetic: the result depends neither on the instruction set nor on
// the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/scratch.h"

namespace densepose {

// A borrowed 8-bit RGB picture: three bytes a pixel, pixels of a row adjacent, rows `row_stride` bytes apart (which may
// be negative: a flipped picture).
struct RgbImage {
  const std::uint8_t* pixels;
  std::int64_t height;
  std::int64_t width;
  std::ptrdiff_t row_stride;
};

enum class InputLayout : std::uint8_t { kNCHW, kNHWC };

// The network's input: float32 [1, 3, height, width], or [1, height, width, 3].
struct InputTensor {
  float* data;
  std::int64_t height;
  std::int64_t width;
  InputLayout layout;
};

// The network's input where the first convolution reads bytes: uint8 [1, height, width, 3]. A value x of channel c,
// after the mean is subtracted, is stored as table[c][the resized picture's byte]; what is padded, as `padding`.
struct QuantizedInputTensor {
  std::uint8_t* data;
  std::int64_t height;
  std::int64_t width;
  std::uint8_t table[3][256];
  std::uint8_t padding;
};

// Fills `table` and `padding`: round-half-even((byte - mean[c]) / scale) + zero_point, saturated.
void set_quantization(QuantizedInputTensor& input, const float mean[3], float scale, int zero_point);

// A side of a picture that is longer than this is refused: beyond it Pillow's own arithmetic (float32 boxes) rounds.
inline constexpr std::int64_t kMaxSide = std::int64_t{1} << 24;

// out: uint8 [height, width, 3], dense. Throws std::invalid_argument for a side outside [1, kMaxSide], and
// std::bad_alloc. Takes scratch memory for the rows of `image` at the new width, three bytes a pixel; up to twice that
// for a picture that loses nearly all of its height.
void resize(const RgbImage& image, std::uint8_t* out, std::int64_t height, std::int64_t width, Scratch& scratch);

// Writes all of `out`: the picture at resized_height x resized_width in its top left corner, `mean` (of R, G and B)
// subtracted, and zeros below and to the right of it, as detectron2 pads after normalization. Throws as resize() does,
// and std::invalid_argument where the resized picture does not fit into `out`.
void preprocess(const RgbImage& image, std::int64_t resized_height, std::int64_t resized_width, const float mean[3],
                const InputTensor& out, Scratch& scratch);

// The same for an input of bytes.
void preprocess(const RgbImage& image, std::int64_t resized_height, std::int64_t resized_width,
                const QuantizedInputTensor& out, Scratch& scratch);

}  // namespace densepose
