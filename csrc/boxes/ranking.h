// Ranking by score as torch does it: from the largest down, NaN above everything, and for equal scores (0 and -0 are
// equal) the lower index first.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/op.h"

namespace densepose {

// A score and an index in one integer; smaller ranks first.
using RankKey = std::uint64_t;

// Ranks after everything: no score and index have it together in practice, and no op gives it to a candidate.
inline constexpr RankKey kNoKey = ~RankKey{0};

DENSEPOSE_HD RankKey rank_key(float score, std::uint32_t index) {
  std::uint32_t descending = 0;  // NaN
  if (score == score) {
    score += 0.0f;  // -0 becomes 0
    std::uint32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    descending = bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
  }
  return static_cast<RankKey>(descending) << 32 | index;
}

DENSEPOSE_HD float rank_score(RankKey key) {
  const std::uint32_t descending = static_cast<std::uint32_t>(key >> 32);
  const std::uint32_t bits = descending & 0x80000000u ? descending : ~descending & 0x7fffffffu;
  float score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

DENSEPOSE_HD std::uint32_t rank_index(RankKey key) { return static_cast<std::uint32_t>(key); }

}  // namespace densepose
