// What a kernel may use besides its tensors: working memory that outlives no frame, and threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

namespace densepose {

// Runs body(begin, end) over disjoint ranges that cover [0, count), possibly at the same time. The kernels do not know
// whose threads these are: OpenVINO's TBB arena inside a graph, our own pool elsewhere. A kernel's output must not
// depend on how the range is cut.
class Parallel {
 public:
  virtual ~Parallel() = default;

  // `grain`: ranges shorter than this are not worth a thread.
  template <class Body>
  void operator()(std::int64_t count, std::int64_t grain, const Body& body) const {
    if (count <= 0) return;
    if (count <= grain) {
      body(std::int64_t{0}, count);
      return;
    }
    run(count, grain, &body,
        [](const void* b, std::int64_t begin, std::int64_t end) { (*static_cast<const Body*>(b))(begin, end); });
  }

 protected:
  using Invoke = void (*)(const void* body, std::int64_t begin, std::int64_t end);
  virtual void run(std::int64_t count, std::int64_t grain, const void* body, Invoke invoke) const = 0;
};

// Everything in the calling thread.
class Serial final : public Parallel {
 protected:
  void run(std::int64_t count, std::int64_t, const void* body, Invoke invoke) const override { invoke(body, 0, count); }
};

// One per thread, owned by the adapter, which calls reset() before each op. Memory grows to what the largest frame
// needed and is then reused, so a warm frame allocates nothing.
class Scratch {
 public:
  explicit Scratch(const Parallel& threads) : parallel(threads) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Uninitialized room for `count` elements, 64-byte aligned, valid until reset(). Not for use inside a parallel body.
  template <class T>
  T* take(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T>, "scratch memory is never destroyed element by element");
    return reinterpret_cast<T*>(take_bytes(count * sizeof(T)));
  }

  void reset() {
    if (blocks_.size() > 1) {  // the last frame overflowed: one block of the sum serves the next
      std::size_t total = 0;
      for (const Block& b : blocks_) total += b.size;
      blocks_.clear();
      add_block(total);
    }
    used_ = 0;
  }

  const Parallel& parallel;

 private:
  static constexpr std::size_t kAlign = 64;
  struct Block {
    std::unique_ptr<std::byte[]> memory;
    std::byte* start;
    std::size_t size;
  };

  void add_block(std::size_t size) {
    Block b{std::unique_ptr<std::byte[]>(new std::byte[size + kAlign]), nullptr, size};
    const auto address = reinterpret_cast<std::uintptr_t>(b.memory.get());
    b.start = b.memory.get() + (kAlign - address % kAlign) % kAlign;
    blocks_.push_back(std::move(b));
  }

  std::byte* take_bytes(std::size_t bytes) {
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
    if (blocks_.empty() || used_ + bytes > blocks_.back().size) {
      add_block(std::max(bytes, std::size_t{1} << 16));
      used_ = 0;
    }
    std::byte* p = blocks_.back().start + used_;
    used_ += bytes;
    return p;
  }

  std::vector<Block> blocks_;
  std::size_t used_ = 0;
};

}  // namespace densepose
