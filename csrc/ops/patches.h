// A person's patch: the pixels of a box, to which the DensePose head's maps are resampled.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "boxes/boxes.h"
#include "core/op.h"

namespace densepose {

// All people's patches together may have as many pixels as an int32 counts: with 9 bytes a pixel that is more memory
// than a machine that means well gives to results.
inline constexpr std::int64_t kMaxPatchPixels = 0x7fffffff;

// Rows or columns of a box's patch: the side truncated to an integer, at least 1. -1 for a side that is not a number or
// exceeds kMaxPatchPixels.
DENSEPOSE_HD std::int64_t patch_side(float low, float high) {
  const float side = high - low;
  if (!(side <= static_cast<float>(kMaxPatchPixels) && side >= -3.402823466e+38f)) return -1;
  return side < 1.0f ? 1 : static_cast<std::int64_t>(side);
}

// Where along an axis of a map an output pixel samples it, as torch.nn.functional.interpolate(mode="bilinear",
// align_corners=False) does: pixel centers, edges replicated, float32.
struct MapTap {
  std::int32_t low, high;
  float low_weight, high_weight;
};

DENSEPOSE_HD MapTap map_tap(std::int64_t pixel, std::int64_t pixels, std::int32_t map_size) {
  const float ratio = static_cast<float>(map_size) / static_cast<float>(pixels);
  const float position = larger(ratio * (static_cast<float>(pixel) + 0.5f) - 0.5f, 0.0f);
  std::int32_t low = static_cast<std::int32_t>(position);
  if (low > map_size - 1) low = map_size - 1;
  const float high_weight = clamp_to(position - static_cast<float>(low), 0.0f, 1.0f);
  return {low, low + (low < map_size - 1 ? 1 : 0), 1.0f - high_weight, high_weight};
}

struct PatchSize {
  std::int64_t height, width;
};

inline PatchSize patch_size(const float* box) { return {patch_side(box[1], box[3]), patch_side(box[0], box[2])}; }

// The number of pixels of all patches; refuses boxes that are no boxes before anybody allocates memory for them.
inline std::int64_t count_pixels(const Tensor& boxes, const char* op) {
  std::int64_t pixels = 0;
  for (std::int64_t person = 0; person < boxes.shape[0]; ++person) {
    const PatchSize size = patch_size(boxes.as<const float>() + 4 * person);
    const std::string box = "box " + std::to_string(person) + " of boxes_original ";
    check(size.height > 0 && size.width > 0, op, box + "is not finite or far larger than a picture");
    check(size.width <= kMaxPatchPixels / size.height, op, box + "is far larger than a picture");
    pixels += size.height * size.width;
    check(pixels <= kMaxPatchPixels, op, "boxes_original have more than 2^31 pixels in total");
  }
  return pixels;
}

// All people's patches: where each begins in the flat outputs is left in `offsets` [people + 1].
struct Patches {
  Span<PatchSize> sizes;
  std::int64_t widest;
};

inline Patches lay_out_patches(const Tensor& boxes, std::int64_t* offsets, Scratch& scratch) {
  const auto people = static_cast<std::size_t>(boxes.shape[0]);
  Patches patches{{scratch.take<PatchSize>(people), people}, 0};
  offsets[0] = 0;
  for (std::size_t person = 0; person < people; ++person) {
    const PatchSize size = patches.sizes[person] = patch_size(boxes.as<const float>() + 4 * person);
    offsets[person + 1] = offsets[person] + size.height * size.width;
    patches.widest = std::max(patches.widest, size.width);
  }
  return patches;
}

// Rows [begin, end) of a person's patch: the unit of work of a thread.
struct Band {
  std::int64_t person, begin, end;
};

// Cuts the patches into bands of about equally many pixels, at least `least` of them, and returns how many; at most
// kMaxBands and one per person.
inline constexpr std::int64_t kMaxBands = 32;

inline std::int64_t cut_bands(Span<const PatchSize> sizes, std::int64_t pixels, std::int64_t least, Band* bands) {
  const std::int64_t target = std::max(least, pixels / kMaxBands + 1);
  std::int64_t count = 0;
  for (std::size_t person = 0; person < sizes.size(); ++person) {
    const std::int64_t pieces = std::min(sizes[person].height, sizes[person].height * sizes[person].width / target + 1);
    for (std::int64_t i = 0; i < pieces; ++i)
      bands[count++] = {static_cast<std::int64_t>(person), i * sizes[person].height / pieces,
                        (i + 1) * sizes[person].height / pieces};
  }
  return count;
}

}  // namespace densepose
