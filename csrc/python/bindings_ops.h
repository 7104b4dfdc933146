// Ops as Python classes that are called with numpy arrays. Nothing here knows a particular op, nor who runs it:
//
//   struct Runner {  // runs an op on outputs that are allocated; called without the GIL
//     template <class Op>
//     static void run(const Op& op, Span<const Tensor> inputs, Span<Tensor> outputs, int threads);
//   };
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/op.h"

namespace densepose {

namespace py = pybind11;

struct NumpyType {
  char kind;
  py::ssize_t itemsize;
  const char* dtype;
};

inline NumpyType numpy_type(DataType type) {
  switch (type) {
    case DataType::kFloat32: return {'f', 4, "float32"};
    case DataType::kFloat16: return {'f', 2, "float16"};
    case DataType::kUint8: return {'u', 1, "uint8"};
    case DataType::kInt8: return {'i', 1, "int8"};
    case DataType::kInt32: return {'i', 4, "int32"};
    case DataType::kInt64: return {'i', 8, "int64"};
  }
  throw std::invalid_argument("a DataType that this build does not know");
}

inline Tensor borrow(const py::array& array, const char* op, std::size_t index) {
  const auto refuse = [&](const std::string& why) { fail(op, "input " + std::to_string(index) + why); };
  const py::dtype dtype = array.dtype();
  const char kind = dtype.kind();
  Tensor tensor;
  bool found = false;
  for (DataType type : {DataType::kFloat32, DataType::kFloat16, DataType::kUint8, DataType::kInt8, DataType::kInt32,
                        DataType::kInt64}) {
    const NumpyType n = numpy_type(type);
    if (kind == n.kind && array.itemsize() == n.itemsize) {
      tensor.type = type;
      found = true;
    }
  }
  if (!found) refuse(" has a dtype that no op takes: " + std::string(py::str(dtype)));
  if (dtype.byteorder() == '>') refuse(" is big-endian; use .astype('=' + ...)");
  if (!(array.flags() & py::array::c_style)) refuse(" is not C-contiguous; use numpy.ascontiguousarray");
  for (py::ssize_t i = 0; i < array.ndim(); ++i) tensor.shape.push_back(array.shape(i));
  tensor.data = const_cast<void*>(array.data());
  return tensor;
}

// An output with room on both sides, so that a test can see a kernel that writes outside.
class GuardedOutput {
 public:
  GuardedOutput(Tensor& tensor, bool guard) : guard_(guard), bytes_(tensor.bytes()) {
    if (guard) {
      memory_.assign(bytes_ + 2 * kGuard, kPattern);
      tensor.data = memory_.data() + kGuard;
    }
  }
  bool intact() const {
    for (std::size_t i = 0; guard_ && i < kGuard; ++i)
      if (memory_[i] != kPattern || memory_[kGuard + bytes_ + i] != kPattern) return false;
    return true;
  }

 private:
  static constexpr std::size_t kGuard = 4096;
  static constexpr std::uint8_t kPattern = 0xA5;
  bool guard_;
  std::size_t bytes_;
  std::vector<std::uint8_t> memory_;
};

template <class Runner, class Op>
py::tuple call(const Op& op, const py::args& arrays, bool guard, int threads) {
  std::vector<py::array> held;
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    if (!py::isinstance<py::array>(arrays[i]))
      throw py::type_error(std::string(Op::kName) + ": input " + std::to_string(i) + " is not a numpy array");
    held.push_back(py::reinterpret_borrow<py::array>(arrays[i]));
    inputs.push_back(borrow(held.back(), Op::kName, i));
  }
  std::array<Tensor, Op::kOutputs> outputs{};
  op.infer({inputs.data(), inputs.size()}, {outputs.data(), outputs.size()});

  std::vector<py::array> results;
  std::vector<GuardedOutput> guards;
  for (Tensor& output : outputs) {
    std::vector<py::ssize_t> shape(output.shape.begin(), output.shape.end());
    results.emplace_back(py::dtype(numpy_type(output.type).dtype), shape);
    output.data = results.back().mutable_data();
    guards.emplace_back(output, guard);
  }
  {
    py::gil_scoped_release release;
    Runner::run(op, {inputs.data(), inputs.size()}, {outputs.data(), outputs.size()}, threads);
  }
  py::tuple tuple(outputs.size());
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    if (!guards[o].intact())
      throw std::runtime_error(std::string(Op::kName) + " wrote outside output " + std::to_string(o));
    if (guard && outputs[o].bytes() > 0) std::memcpy(results[o].mutable_data(), outputs[o].data, outputs[o].bytes());
    tuple[o] = std::move(results[o]);
  }
  return tuple;
}

template <class Runner, class Op>
void bind_op(py::module_& module) {
  py::class_<Op> cls(module, Op::kName, py::module_local());
  cls.def(py::init([](const py::kwargs& attributes) {
    Op op;
    std::size_t used = 0;
    std::string known;
    op.visit([&](const char* name, auto& value) {
      known += known.empty() ? name : std::string(", ") + name;
      if (!attributes.contains(name)) return;
      ++used;
      try {
        value = attributes[name].template cast<std::decay_t<decltype(value)>>();
      } catch (const py::cast_error&) {
        throw py::type_error(std::string(Op::kName) + ": attribute " + name + " has the wrong type");
      }
    });
    if (used != attributes.size())
      throw py::type_error(std::string(Op::kName) + " takes the attributes " + known + " and no others");
    op.validate();
    return op;
  }));
  cls.def(
      "__call__",
      [](const Op& op, const py::args& arrays, bool guard, int threads) {
        return call<Runner>(op, arrays, guard, threads);
      },
      py::arg("guard") = false, py::arg("threads") = 1);
  cls.def_property_readonly("attributes", [](Op op) {  // a copy: visit() could write
    py::dict attributes;
    op.visit([&](const char* name, auto& value) { attributes[name] = py::cast(value); });
    return attributes;
  });
  module.attr("__all__").template cast<py::list>().append(Op::kName);
}

template <class Runner, class... All>
void bind_ops(py::module_& module, std::tuple<All...>*) {
  module.attr("__all__") = py::list();
  (bind_op<Runner, All>(module), ...);
}

}  // namespace densepose
