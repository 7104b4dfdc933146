// The smallest keys of several sets for a grid of threads: radix selection finds the last key that belongs to them,
// everything up to it is collected, and each finds its place by counting the smaller ones. Keys are unique, so the
// result does not depend on the order in which threads come.
#pragma once

#include <cstdint>

#include "boxes/ranking.h"
#include "core/grid.h"

namespace densepose {

// Where in a concatenation of sets each set begins; small enough for a kernel's parameters.
struct SetOffsets {
  std::int64_t first[kMaxGridLevels + 1];
  std::int32_t sets;

  DENSEPOSE_HD std::int32_t set_of(std::int64_t i) const {
    std::int32_t set = 0;
    while (i >= first[set + 1]) ++set;
    return set;
  }
  DENSEPOSE_HD std::int64_t size(std::int64_t set) const { return first[set + 1] - first[set]; }
};

inline constexpr std::int64_t kDigitBits = 11, kDigits = 6;  // 5 of 11 bits and one of 9
inline constexpr std::int64_t kDigitValues = std::int64_t{1} << kDigitBits;

struct Digit {
  std::int32_t shift, bits;

  DENSEPOSE_HD std::int64_t of(RankKey key) const {
    return static_cast<std::int64_t>(key >> shift & ((RankKey{1} << bits) - 1));
  }
  // What stands above the digit.
  DENSEPOSE_HD RankKey above(RankKey key) const { return shift + bits == 64 ? 0 : key >> (shift + bits); }
};

inline Digit digit_at(std::int64_t pass) {
  const std::int64_t end = 64 - pass * kDigitBits, bits = end < kDigitBits ? end : kDigitBits;
  return {static_cast<std::int32_t>(end - bits), static_cast<std::int32_t>(bits)};
}

struct TopKeys {
  SetOffsets sets;
  std::int64_t wanted;  // of each set, or all that it has
  const RankKey* keys;
  std::uint32_t* histogram;  // [sets, kDigitValues]
  RankKey* last;             // [sets], above the digits that are still to be found: the last wanted key
  std::uint32_t* missing;    // [sets]: how many of the keys with these digits are wanted
  std::uint32_t* found;      // [sets]
  RankKey* selected;         // [sets, wanted], in any order

  DENSEPOSE_HD std::int64_t wanted_of(std::int64_t set) const {
    return sets.size(set) < wanted ? sets.size(set) : wanted;
  }
};

struct StartSelection {
  TopKeys top;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    top.histogram[i] = 0;
    if (i % kDigitValues) return;
    const std::int64_t set = i / kDigitValues;
    top.last[set] = 0;
    top.missing[set] = static_cast<std::uint32_t>(top.wanted_of(set));
    top.found[set] = 0;
  }
};

struct CountDigits {
  TopKeys top;
  Digit digit;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int32_t set = top.sets.set_of(i);
    const RankKey key = top.keys[i];
    if (digit.above(key) == top.last[set]) atomic_add(top.histogram + set * kDigitValues + digit.of(key), 1);
  }
};

// A block per set: the digit in which the last wanted key lies, and an empty histogram for the next digit.
struct ChooseDigit {
  TopKeys top;
  Digit digit;
  template <class Block>
  DENSEPOSE_HD void operator()(Block& block) const {
    const std::int64_t set = block.index();
    std::uint32_t* counts = top.histogram + set * kDigitValues;
    RankKey* last = top.last + set;
    std::uint32_t* missing = top.missing + set;
    // Sums of 32 values each stand for the first of them, and then every value knows what is before it.
    constexpr std::int64_t kGroup = 32;
    std::uint32_t* sums = top.found + top.sets.sets + set * (kDigitValues / kGroup);
    block.each(kDigitValues / kGroup, [=](std::int64_t group) {
      std::uint32_t sum = 0;
      for (std::int64_t i = 0; i < kGroup; ++i) sum += counts[group * kGroup + i];
      sums[group] = sum;
    });
    const std::uint32_t rank = block.read(missing);
    const RankKey prefix = block.read(last);
    const Digit d = digit;
    block.each(kDigitValues, [=](std::int64_t value) {
      std::uint32_t before = 0;
      for (std::int64_t group = 0; group < value / kGroup; ++group) before += sums[group];
      for (std::int64_t i = value / kGroup * kGroup; i < value; ++i) before += counts[i];
      if (before < rank && rank <= before + counts[value]) {  // true of one value, or of none where rank is 0
        *last = prefix << d.bits | static_cast<RankKey>(value);
        *missing = rank - before;
      }
    });
    block.each(kDigitValues, [=](std::int64_t value) { counts[value] = 0; });
  }
};

struct CollectKeys {
  TopKeys top;
  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int32_t set = top.sets.set_of(i);
    if (top.keys[i] <= top.last[set]) top.selected[set * top.wanted + atomic_add(top.found + set, 1)] = top.keys[i];
  }
};

// Where key i of `keys` belongs.
DENSEPOSE_HD std::int64_t count_smaller(const RankKey* keys, std::int64_t count, RankKey key) {
  std::int64_t smaller = 0;
  for (std::int64_t i = 0; i < count; ++i) smaller += keys[i] < key;
  return smaller;
}

inline TopKeys take_top_keys(const SetOffsets& sets, std::int64_t wanted, const RankKey* keys,
                             WorkspaceCutter& memory) {
  return {sets,
          wanted,
          keys,
          memory.take<std::uint32_t>(sets.sets * kDigitValues),
          memory.take<RankKey>(sets.sets),
          memory.take<std::uint32_t>(sets.sets),
          memory.take<std::uint32_t>(sets.sets * (1 + kDigitValues / 32)),  // and ChooseDigit's sums
          memory.take<RankKey>(sets.sets * wanted)};
}

template <class Grid>
void select_on(Grid& grid, const TopKeys& top) {
  const std::int64_t keys = top.sets.first[top.sets.sets];
  grid.each(top.sets.sets * kDigitValues, StartSelection{top});
  for (std::int64_t pass = 0; pass < kDigits; ++pass) {
    const Digit digit = digit_at(pass);
    grid.each(keys, CountDigits{top, digit});
    grid.blocks(top.sets.sets, ChooseDigit{top, digit});
  }
  grid.each(keys, CollectKeys{top});
}

}  // namespace densepose
