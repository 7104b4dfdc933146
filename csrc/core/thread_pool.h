// Our own threads, for the work that no vendor's runtime schedules: pre-processing, and ops called from Python.
#pragma once

#include "core/scratch.h"

namespace densepose {

inline constexpr int kMaxThreads = 256;

// At most `threads` threads: the caller and the process's workers, which all pools share. Workers are started when they
// are first needed and then kept. Any number of threads may run() at the same time, also from inside a body, and also
// in the child of a fork(), which starts workers of its own. run() throws nothing; where the system grants no more
// workers, those there are and the caller do the work. The body must not throw.
class ThreadPool final : public Parallel {
 public:
  explicit ThreadPool(int threads) : threads_(threads) {}

 protected:
  void run(std::int64_t count, std::int64_t grain, const void* body, Invoke invoke) const override;

 private:
  int threads_;
};

// Parallel::run() by threads that somebody else keeps, at most `threads` of them. It throws nothing.
using RunParallel = void (*)(int threads, std::int64_t count, std::int64_t grain, const void* body,
                             void (*invoke)(const void* body, std::int64_t begin, std::int64_t end));

// From now on every pool has its work done by these, whose threads are awake when a graph has just been run, while
// workers of our own would have to be woken, which takes longer than a small picture's resize. Null, or the child of a
// fork(): by our own again.
void borrow_threads(RunParallel run);

// For 1 thread the calling one, else a pool of that many. Lives as long as the process. Throws std::invalid_argument
// for a number outside [1, kMaxThreads].
const Parallel& parallel_with(int threads);

// The calling thread's own scratch memory over parallel_with(threads), reset. It keeps what the largest frame needed.
Scratch& thread_scratch(int threads);

}  // namespace densepose
