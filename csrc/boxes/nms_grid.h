// Greedy non-maximum suppression for a grid of threads. All pairs are compared at once, into a bit matrix that stays on
// the device; then one block goes through the boxes from the best down, 64 at a time.
#pragma once

#include <cstdint>

#include "boxes/boxes.h"
#include "core/grid.h"

namespace densepose {

// Sets of boxes that do not suppress each other: [sets, rows] boxes, best first, of which `valid` has a bit each.
struct NmsSets {
  const float* boxes;
  const std::uint64_t* valid;  // [sets, words]
  std::int64_t sets, rows, words;
  float threshold;                   // dropped where IoU > threshold
  const float* threshold_on_device;  // in place of `threshold`, if not null
};

// overlaps[set, row, word]: which later boxes each box would suppress.
struct FindOverlaps {
  NmsSets in;
  std::uint64_t* overlaps;  // [sets, rows, words]

  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int64_t word = i % in.words, row = i / in.words % in.rows, set = i / in.words / in.rows;
    std::uint64_t bits = 0;
    if (word >= row / 64 && test_bit(in.valid + set * in.words, row)) {
      const float threshold = in.threshold_on_device ? *in.threshold_on_device : in.threshold;
      const float* boxes = in.boxes + 4 * set * in.rows;
      const Box box = load_box(boxes + 4 * row);
      std::uint64_t candidates = in.valid[set * in.words + word];
      for (std::int64_t other = 64 * word; candidates; ++other, candidates >>= 1)
        if ((candidates & 1) && other > row && iou(box, load_box(boxes + 4 * other)) > threshold)
          bits |= std::uint64_t{1} << other % 64;
    }
    overlaps[i] = bits;
  }
};

// A block per set.
struct Suppress {
  NmsSets in;
  const std::uint64_t* overlaps;
  std::uint64_t* removed;  // [sets, words], working memory
  std::uint64_t* kept;     // [sets, words]

  template <class Block>
  DENSEPOSE_HD void operator()(Block& block) const {
    const std::int64_t set = block.index(), words = in.words, count = in.rows;
    const std::uint64_t* rows = overlaps + set * in.rows * words;
    std::uint64_t* out = removed + set * words;
    std::uint64_t* keep = kept + set * words;
    const std::uint64_t* valid = in.valid + set * words;
    block.each(words, [=](std::int64_t w) { out[w] = ~valid[w]; });
    for (std::int64_t chunk = 0; chunk < words; ++chunk) {
      block.each(1, [=](std::int64_t) {
        // All loads first: they do not wait for each other, the decisions do.
        std::uint64_t suppresses[64];
        for (int bit = 0; bit < 64; ++bit) {
          const std::int64_t row = 64 * chunk + bit;
          suppresses[bit] = row < count ? rows[row * words + chunk] : 0;
        }
        std::uint64_t gone = out[chunk], stay = 0;
        for (int bit = 0; bit < 64; ++bit) {
          if (gone >> bit & 1) continue;
          stay |= std::uint64_t{1} << bit;
          gone |= suppresses[bit];
        }
        keep[chunk] = stay;
      });
      block.each(words - chunk - 1, [=](std::int64_t i) {
        const std::int64_t w = chunk + 1 + i;
        std::uint64_t gone = out[w];
        std::uint64_t stay = keep[chunk];
        for (std::int64_t row = 64 * chunk; stay; ++row, stay >>= 1)
          if (stay & 1) gone |= rows[row * words + w];
        out[w] = gone;
      });
    }
  }
};

// Working memory of both stages and their result.
struct NmsMemory {
  std::uint64_t *overlaps, *removed, *kept;

  NmsMemory(std::int64_t sets, std::int64_t rows, WorkspaceCutter& memory)
      : overlaps(memory.take<std::uint64_t>(sets * rows * bit_words(rows))),
        removed(memory.take<std::uint64_t>(sets * bit_words(rows))),
        kept(memory.take<std::uint64_t>(sets * bit_words(rows))) {}
};

template <class Grid>
void suppress_on(Grid& grid, const NmsSets& sets, const NmsMemory& memory) {
  grid.each(sets.sets * sets.rows * sets.words, FindOverlaps{sets, memory.overlaps});
  grid.blocks(sets.sets, Suppress{sets, memory.overlaps, memory.removed, memory.kept});
}

}  // namespace densepose
