// Requests handed out to Python: _core.RequestPool. This is C++ so that no KeyboardInterrupt can fall between the
// taking of a request and the statement that gives it back: Python delivers signals between its own instructions only.
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__unix__)
#include <pthread.h>
#endif

namespace py = pybind11;

namespace densepose {
namespace {

// How many fork()s lie between this process and the one that loaded the module.
std::atomic<int> forks{0};

// Its state changes under the GIL; the mutex is only for sleeping, and nobody waits for the GIL while holding it.
class RequestPool {
 public:
  explicit RequestPool(std::vector<py::object> requests) : free_(std::move(requests)), bell_(new Bell) {
    free_.reserve(free_.size() + 1);
  }
  // In the child of a fork() nobody touches what the threads that slept here, which are gone, may have locked: also the
  // destructor of a condition waits for them.
  ~RequestPool() {
    if (inherited()) static_cast<void>(bell_.release());
  }
  RequestPool(const RequestPool&) = delete;
  RequestPool& operator=(const RequestPool&) = delete;

  // The request that was given back last, whose memory is still in the caches.
  py::object take() {
    for (;;) {
      if (!why_.empty()) {
        PyErr_SetString(error_.ptr(), why_.c_str());
        throw py::error_already_set();
      }
      if (!free_.empty()) {
        py::object request = std::move(free_.back());
        free_.pop_back();
        return request;
      }
      if (inherited()) throw std::runtime_error("these requests belong to the process that this one was forked from");
      sleep();
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
  }

  void give_back(py::object request) noexcept {
    free_.push_back(std::move(request));  // there was room for it before
    ring(false);
  }

  // Whoever asks from now on, or waits, gets `error` with the sentence `why`.
  py::list close(py::object error, std::string why) {
    py::list rest;
    if (inherited()) return rest;
    error_ = std::move(error);
    why_ = std::move(why);
    for (py::object& request : free_) rest.append(std::move(request));
    free_.clear();
    ring(true);
    return rest;
  }

  // For the child of a fork(): like close(), but what is free stays.
  void abandon(py::object error, std::string why) {
    error_ = std::move(error);
    why_ = std::move(why);
  }

 private:
  struct Bell {
    std::mutex mutex;
    std::condition_variable rung;
    std::uint64_t times = 0;
  };

  void sleep() {
    Bell& bell = *bell_;
    std::unique_lock<std::mutex> lock(bell.mutex);
    const std::uint64_t before = bell.times;
    const py::gil_scoped_release others;
    // Not for ever: a signal's handler runs in this thread only when it comes back to Python.
    bell.rung.wait_for(lock, std::chrono::milliseconds(50), [&] { return bell.times != before; });
    lock.unlock();  // before the GIL is asked for
  }

  bool inherited() const { return made_in_ != forks; }

  void ring(bool all) {
    if (inherited()) return;
    {
      const std::lock_guard<std::mutex> lock(bell_->mutex);
      ++bell_->times;
    }
    if (all)
      bell_->rung.notify_all();
    else
      bell_->rung.notify_one();
  }

  std::vector<py::object> free_;
  std::unique_ptr<Bell> bell_;
  py::object error_;
  std::string why_;  // empty while it is open
  int made_in_ = forks;
};

// One request's way out of the pool and back, once, at the latest when this object goes.
class Lease {
 public:
  Lease(std::shared_ptr<RequestPool> pool, bool keep) : pool_(std::move(pool)), keep_(keep) {}
  ~Lease() { give_back(); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  void take() { request_ = pool_->take(); }
  const py::object& request() const { return request_; }
  bool keep() const { return keep_; }
  void leave(bool failed) {
    if (failed || !keep_) give_back();
  }
  void give_back() noexcept {
    if (request_) pool_->give_back(std::move(request_));
    request_ = py::object();
  }

 private:
  std::shared_ptr<RequestPool> pool_;
  py::object request_;
  bool keep_;
};

// Closes a pool when it is left, at the latest when this object goes.
class Closing {
 public:
  Closing(std::shared_ptr<RequestPool> pool, py::object error, std::string why)
      : pool_(std::move(pool)), error_(std::move(error)), why_(std::move(why)) {}
  ~Closing() { close(); }
  Closing(const Closing&) = delete;
  Closing& operator=(const Closing&) = delete;
  void close() { pool_->close(error_, why_); }

 private:
  std::shared_ptr<RequestPool> pool_;
  py::object error_;
  std::string why_;
};

}  // namespace

void bind_requests(py::module_& module) {
#if defined(__unix__)
  pthread_atfork(nullptr, nullptr, [] { ++forks; });
#endif
  py::class_<Lease, std::shared_ptr<Lease>>(module, "Lease",
                                            "A request that is taken by `with` and given back once, whatever happens.")
      .def("__enter__",
           [](const py::object& self) -> py::object {
             auto& lease = self.cast<Lease&>();
             lease.take();
             return lease.keep() ? self : lease.request();
           })
      .def("__exit__", [](Lease& lease, const py::object& kind, const py::object&,
                          const py::object&) { lease.leave(!kind.is_none()); })
      .def("give_back", &Lease::give_back);
  py::class_<Closing, std::shared_ptr<Closing>>(module, "Closing", "A pool that is closed when `with` is left.")
      .def("__enter__", [](const Closing&) {})
      .def("__exit__", [](Closing& self, const py::object&, const py::object&, const py::object&) { self.close(); });
  py::class_<RequestPool, std::shared_ptr<RequestPool>>(module, "RequestPool",
                                                        "Objects that are handed out one at a time.")
      .def(py::init([](const py::iterable& requests) {
             std::vector<py::object> all;
             for (const py::handle& request : requests) all.push_back(py::reinterpret_borrow<py::object>(request));
             return std::make_shared<RequestPool>(std::move(all));
           }),
           py::arg("requests"))
      .def(
          "lease",
          [](const std::shared_ptr<RequestPool>& pool, bool keep) { return std::make_shared<Lease>(pool, keep); },
          py::arg("keep") = false,
          R"(A context manager that waits for a free request.

keep: `with` gives the lease, not the request, and leaving it without an exception gives nothing back: somebody else
calls give_back() later.)")
      .def(
          "closing",
          [](const std::shared_ptr<RequestPool>& pool, py::object error, std::string why) {
            return std::make_shared<Closing>(pool, std::move(error), std::move(why));
          },
          py::arg("error"), py::arg("why"), "A context manager: close() when it is left.")
      .def("close", &RequestPool::close, py::arg("error"), py::arg("why"),
           "Hand out no more, raise `error` with `why` instead, also in who waits; returns the requests that are free.")
      .def("abandon", &RequestPool::abandon, py::arg("error"), py::arg("why"),
           "Like close(), for a forked child: nobody waits there, and what is free stays where it is.");
}

}  // namespace densepose
