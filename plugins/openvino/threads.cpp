// OpenVINO's threads: for ops inside the graph, and lent to the engine's work before and after it (see borrow_threads
// in thread_pool.h).
#include "threads.h"

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/thread_pool.h"

namespace densepose {
namespace {

// An arena per number of threads, made when it is first asked for and kept: threads may still be in it at the end.
tbb::task_arena& arena_of(int threads) {
  static std::array<std::atomic<tbb::task_arena*>, kMaxThreads + 1> arenas{};
  std::atomic<tbb::task_arena*>& place = arenas[static_cast<std::size_t>(threads)];
  if (tbb::task_arena* arena = place) return *arena;
  auto fresh = std::make_unique<tbb::task_arena>(threads);
  tbb::task_arena* before = nullptr;
  return place.compare_exchange_strong(before, fresh.get()) ? *fresh.release() : *before;
}

}  // namespace

void run_on_openvino_threads(std::int64_t count, std::int64_t grain, const void* body,
                             void (*invoke)(const void* body, std::int64_t begin, std::int64_t end)) {
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, count, static_cast<std::size_t>(grain)),
                    [=](const tbb::blocked_range<std::int64_t>& range) { invoke(body, range.begin(), range.end()); });
}

}  // namespace densepose

extern "C" __attribute__((visibility("default"))) void densepose_run_parallel(
    int threads, std::int64_t count, std::int64_t grain, const void* body,
    void (*invoke)(const void* body, std::int64_t begin, std::int64_t end)) {
  densepose::arena_of(threads).execute([=] { densepose::run_on_openvino_threads(count, grain, body, invoke); });
}
