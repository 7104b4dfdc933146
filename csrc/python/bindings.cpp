// The compiled core as a Python module: every op of ops.h, and the picture preprocessing. Nothing here knows a
// particular op.
#include "core/thread_pool.h"
#include "kernels/isa.h"
#include "ops.h"
#include "python/bindings_ops.h"

namespace densepose {

void bind_preprocess(py::module_& module);
void bind_locale(py::module_& module);
void bind_requests(py::module_& module);
void bind_threads(py::module_& module);
void bind_vertex_tree(py::module_& module);

namespace {

struct CpuRunner {
  template <class Op>
  static void run(const Op& op, Span<const Tensor> inputs, Span<Tensor> outputs, int threads) {
    Scratch& scratch = thread_scratch(threads);
    scratch.reset();
    op.run(inputs, outputs, scratch);
  }
};

}  // namespace
}  // namespace densepose

PYBIND11_MODULE(_core, module) {
  namespace py = pybind11;
  module.doc() = "Compiled kernels of densepose_engine.";
  py::module_ ops = module.def_submodule("ops", "The custom ops, on numpy arrays; outputs have their maximal shapes.");
  densepose::bind_ops<densepose::CpuRunner>(ops, static_cast<densepose::Ops*>(nullptr));
  densepose::bind_preprocess(module);
  densepose::bind_locale(module);
  densepose::bind_requests(module);
  densepose::bind_threads(module);
  densepose::bind_vertex_tree(module);
  module.def("isa", &densepose::isa_name, "The instruction set that the kernels run in.");
}
