// Sorting keys of ranking.h on the CPU.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "boxes/ranking.h"

namespace densepose {

// The keys in order, in whichever of the two arrays of `count` they end. Those that differ in bytes below `first_byte`
// only must be in order already. A radix sort, because comparisons of scores are mispredicted half of the time.
inline const RankKey* sort_keys(RankKey* keys, RankKey* other, std::int64_t count, int first_byte) {
  constexpr std::int64_t kFew = 64;
  if (count <= kFew) {
    std::sort(keys, keys + count);
    return keys;
  }
  constexpr int kBytes = sizeof(RankKey);
  std::array<std::array<std::uint32_t, 256>, kBytes> starts{};  // how many keys have this byte; then where they go
  for (std::int64_t i = 0; i < count; ++i)
    for (int b = first_byte; b < kBytes; ++b) ++starts[b][keys[i] >> 8 * b & 0xff];
  for (int b = first_byte; b < kBytes; ++b) {
    if (starts[b][keys[0] >> 8 * b & 0xff] == count) continue;  // all agree
    std::uint32_t sum = 0;
    for (std::uint32_t& start : starts[b]) sum += std::exchange(start, sum);
    for (std::int64_t i = 0; i < count; ++i) other[starts[b][keys[i] >> 8 * b & 0xff]++] = keys[i];
    std::swap(keys, other);
  }
  return keys;
}

}  // namespace densepose
