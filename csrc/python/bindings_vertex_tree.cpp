// Arranging a mesh's vertices for Python: _core.vertex_tree.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "ops/vertex_tree.h"

namespace py = pybind11;

namespace densepose {
namespace {

template <class T>
py::array_t<T> copy(const std::vector<T>& values, std::vector<py::ssize_t> shape) {
  py::array_t<T> array(std::move(shape));
  std::copy(values.begin(), values.end(), array.mutable_data());
  return array;
}

py::tuple vertex_tree(const py::array_t<float, py::array::c_style>& embeddings) {
  if (embeddings.ndim() != 2) throw py::value_error("embeddings must be float32 of shape (vertices, dimensions)");
  VertexTree tree;
  const float* const data = embeddings.data();
  const std::int64_t count = embeddings.shape(0), dimensions = embeddings.shape(1);
  {
    py::gil_scoped_release release;
    tree = make_vertex_tree(data, count, dimensions);
  }
  const py::ssize_t sheets = tree.sheets, depth = tree.depth;
  return py::make_tuple(
      copy(tree.vertices, {sheets * kFan * kFan, depth, kFan}), copy(tree.numbers, {sheets * kFan * kFan, kFan}),
      copy(tree.blocks, {sheets * kFan, 2, depth, kFan}), copy(tree.groups, {sheets, 2, depth, kFan}));
}

}  // namespace

void bind_vertex_tree(py::module_& module) {
  module.def("vertex_tree", &vertex_tree, py::arg("embeddings").noconvert(),
             R"(The tree of a mesh's vertices that ClosestVertices searches.

embeddings: float32 of shape (vertices, dimensions), C-contiguous. Returns (vertices, numbers, blocks, groups), as the op
takes them; those of several meshes are concatenated along their first axis.

Raises ValueError for embeddings that are not finite or beyond a million, and for none.)");
}

}  // namespace densepose
