// Threads for Python: _core.borrow_threads.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "core/thread_pool.h"

#if defined(__unix__)
#include <dlfcn.h>
#endif

namespace py = pybind11;

namespace densepose {
namespace {

void borrow_threads_of(const std::string& library) {
#if defined(__unix__)
  // Never closed: its threads may be in use for as long as the process lives.
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* const run = handle ? dlsym(handle, "densepose_run_parallel") : nullptr;
  if (!run) throw std::runtime_error(library + " has no threads to lend: " + dlerror());
  borrow_threads(reinterpret_cast<RunParallel>(run));
#else
  throw std::runtime_error(library + " has no threads to lend on this system");
#endif
}

}  // namespace

void bind_threads(py::module_& module) {
  module.def("borrow_threads", &borrow_threads_of, py::arg("library"),
             R"(Lets the threads of a vendor's runtime do this module's work, in the whole process and from now on.

library: path of our plugin for that runtime, which has the function densepose_run_parallel; it stays loaded. Results are
the same. Raises RuntimeError where it cannot be loaded or has no such function.)");
  module.def("return_threads", [] { borrow_threads(nullptr); }, "Back to threads of its own.");
}

}  // namespace densepose
