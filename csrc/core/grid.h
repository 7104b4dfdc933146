// How the CUDA kernels are written: as plain functors, so that a test can run the very same code on the CPU.
//
// An op's launch() is a sequence of stages on a grid. There are two kinds, and stages follow each other in order:
//
//   grid.each(count, body)      body(i) for every i in [0, count), in any order, possibly at the same time
//   grid.blocks(count, body)    body(block) for every block in [0, count); inside, block.index() says which, and
//     block.each(count, body)   is the same within the block, with a barrier behind it
//
// What a block does between two each() is done by all of its threads and must be the same for all; it may read only
// what was complete before the last barrier and is written by no later each() of the kernel.
//
// CudaGrid (cuda_grid.cuh) puts stages on a stream; the tests' grid is a loop that visits the indices in whatever order
// it is told. Attributes travel inside the functors, as arrays of fixed size: a stage copies nothing to the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/op.h"

namespace densepose {

inline constexpr std::size_t kMaxGridLevels = 8;  // levels of a pyramid that fit into a kernel's parameters

// Cuts an op's working memory into arrays. With no memory it measures how much would be needed.
class WorkspaceCutter {
 public:
  explicit WorkspaceCutter(void* memory) : memory_(static_cast<std::byte*>(memory)) {}

  template <class T>
  T* take(std::int64_t count) {
    T* array = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return array;
  }
  std::size_t bytes() const { return used_; }

 private:
  static constexpr std::size_t kAlign = 256;
  std::byte* memory_;
  std::size_t used_ = 0;
};

// Adds and returns what was there before.
DENSEPOSE_HD std::uint32_t atomic_add(std::uint32_t* counter, std::uint32_t amount) {
#if defined(__CUDA_ARCH__)
  return atomicAdd(counter, amount);
#else
  const std::uint32_t before = *counter;
  *counter = before + amount;
  return before;
#endif
}

DENSEPOSE_HD std::int64_t clamp_count(std::int64_t count, std::int64_t most) {
  return count < 0 ? 0 : count < most ? count : most;
}

DENSEPOSE_HD std::int32_t count_bits(std::uint64_t word) {
#if defined(__CUDA_ARCH__)
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

// Set bits of a bit set before element i.
DENSEPOSE_HD std::int64_t count_bits_before(const std::uint64_t* words, std::int64_t i) {
  std::int64_t count = 0;
  for (std::int64_t w = 0; w < i / 64; ++w) count += count_bits(words[w]);
  return i % 64 ? count + count_bits(words[i / 64] << (64 - i % 64)) : count;
}

DENSEPOSE_HD bool test_bit(const std::uint64_t* words, std::int64_t i) { return words[i / 64] >> (i % 64) & 1; }

inline std::int64_t bit_words(std::int64_t bits) { return (bits + 63) / 64; }

}  // namespace densepose
