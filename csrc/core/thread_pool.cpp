#include "core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__unix__)
#include <pthread.h>
#endif

namespace densepose {
namespace {

// A run() in progress. It lives on the caller's stack, in a list of those that still want help.
struct Job {
  const void* body;
  void (*invoke)(const void*, std::int64_t, std::int64_t);
  std::int64_t count;
  std::int64_t chunk;
  std::atomic<std::int64_t> next{0};

  // Guarded by the workers' mutex:
  int wanted = 0;   // workers that may still join
  int working = 0;  // workers inside work()
  Job* following = nullptr;

  void work() {
    for (;;) {
      const std::int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= count) return;
      invoke(body, begin, std::min(begin + chunk, count));
    }
  }
};

// condition_variable::wait. That one is a symbol of the library, with a version (GCC 12's) that wheels for Ubuntu 22.04
// must not ask for; the one with a time limit is inline.
template <class Predicate>
void wait(std::condition_variable& condition, std::unique_lock<std::mutex>& lock, Predicate predicate) {
  while (!condition.wait_for(lock, std::chrono::hours(1), predicate)) {
  }
}

class Workers {
 public:
  void run(Job& job) {
    const int wanted = job.wanted;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      start(wanted);
      Job** end = &jobs_;
      while (*end) end = &(*end)->following;
      *end = &job;
    }
    if (wanted == 1)
      wake_.notify_one();
    else
      wake_.notify_all();
    job.work();
    std::unique_lock<std::mutex> lock(mutex_);
    remove(job);  // nothing is left for whoever has not joined yet
    wait(idle_, lock, [&] { return job.working == 0; });
  }

 private:
  // Workers sleep for ever between jobs, and so are detached: nobody has to stop them for the process to end.
  void start(int wanted) {
    try {
      for (; started_ < wanted; ++started_) std::thread([this] { serve(); }).detach();
    } catch (const std::exception&) {  // a limit of the system: those there are, and the caller, do the work
    }
  }

  void remove(Job& job) {
    for (Job** at = &jobs_; *at; at = &(*at)->following)
      if (*at == &job) {
        *at = job.following;
        return;
      }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wait(wake_, lock, [&] { return jobs_ != nullptr; });
      Job& job = *jobs_;
      if (--job.wanted == 0) remove(job);
      ++job.working;
      lock.unlock();
      job.work();
      lock.lock();
      if (--job.working == 0) idle_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;  // a job wants help
  std::condition_variable idle_;  // a job's last worker is done
  Job* jobs_ = nullptr;
  int started_ = 0;
};

std::atomic<Workers*> workers{nullptr};
std::atomic<RunParallel> borrowed{nullptr};

// Never destroyed: the workers still wait on it when the process's statics go.
Workers& shared_workers() {
  static std::once_flag once;
  std::call_once(once, [] {
    workers = new Workers;
#if defined(__unix__)
    // A forked child has none of the threads, and perhaps a mutex that one of them holds: it starts afresh.
    pthread_atfork(nullptr, nullptr, [] {
      workers = new Workers;
      borrowed = nullptr;
    });
#endif
  });
  return *workers;
}

}  // namespace

void borrow_threads(RunParallel run) {
  shared_workers();  // a child of a fork() must forget what was borrowed
  borrowed = run;
}

void ThreadPool::run(std::int64_t count, std::int64_t grain, const void* body, Invoke invoke) const {
  grain = std::max<std::int64_t>(grain, 1);
  if (const RunParallel run = borrowed) {
    run(threads_, count, grain, body, invoke);
    return;
  }
  const std::int64_t useful = (count + grain - 1) / grain;
  const std::int64_t threads = std::min<std::int64_t>(threads_, useful);
  // More pieces than threads, so that one that is late (other programs want the cores too) does not hold up the rest.
  constexpr std::int64_t kPiecesPerThread = 4;
  const std::int64_t pieces = threads * kPiecesPerThread;
  Job job{body, invoke, count, std::max(grain, (count + pieces - 1) / pieces)};
  job.wanted = static_cast<int>(threads) - 1;
  if (job.wanted == 0)
    job.work();
  else
    shared_workers().run(job);
}

const Parallel& parallel_with(int threads) {
  if (threads < 1 || threads > kMaxThreads)
    throw std::invalid_argument("threads is " + std::to_string(threads) + ", it must be from 1 to " +
                                std::to_string(kMaxThreads));
  static const Serial serial;
  // All there can be, made at once: a pool is only a number, and a table that never changes needs no mutex.
  static const auto& pools = *new std::vector<ThreadPool>([] {
    std::vector<ThreadPool> all;
    for (int i = 0; i <= kMaxThreads; ++i) all.emplace_back(i);
    return all;
  }());
  if (threads == 1) return serial;
  return pools[threads];
}

Scratch& thread_scratch(int threads) {
  thread_local std::map<int, std::unique_ptr<Scratch>> scratches;
  std::unique_ptr<Scratch>& scratch = scratches[threads];
  if (!scratch) scratch = std::make_unique<Scratch>(parallel_with(threads));
  scratch->reset();
  return *scratch;
}

}  // namespace densepose
