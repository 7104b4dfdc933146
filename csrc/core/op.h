// What an op is. An op is a struct, immutable after creation, of this form; csrc/ops.h lists them all, and the adapters
// (pybind11, OpenVINO, TensorRT) are written once, for any op of this form.
//
//   struct SomeOp {
//     static constexpr const char* kName = "SomeOp";   // the ONNX operator type, in the domain "densepose"
//     static constexpr std::size_t kOutputs = 2;
//     static constexpr Trim kTrim = {1, 1};            // see Trim
//
//     float threshold = 0.5f;                          // attributes: std::int64_t, float, std::string,
//     template <class Visitor>                         // std::vector<std::int64_t>, std::vector<float>
//     void visit(Visitor&& v) { v("threshold", threshold); }
//
//     void validate() const;                                              // attributes
//     void infer(Span<const Tensor> inputs, Span<Tensor> outputs) const;  // fills in types and shapes
//     void run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const;
//   };
//
// - An attribute is named once, in visit(); every adapter reads, writes, prints and hashes attributes through it.
// - infer() checks the number, types and ranks of the inputs and throws std::invalid_argument with a sentence that
//   names the op, the input and what it should have been. It is called with unknown dimensions and no data while a
//   graph is built, and with everything before a run: dimensions may then depend on values. Output shapes are maxima.
// - run() finds outputs allocated as infer() said, and validated inputs. It throws nothing but std::bad_alloc.
//
// On CUDA, two more functions, defined in the op's _cuda.cu:
//
//     std::size_t workspace_bytes(Span<const Tensor> inputs) const;
//     void launch(Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace, CudaStream stream) const;
//
// - workspace_bytes() looks at the inputs' largest shapes, and throws std::invalid_argument where the op is larger than
//   its kernels can be.
// - launch() gets device pointers, puts kernels on the stream and returns: it allocates nothing, waits for nothing and
//   reads no tensor. It throws std::runtime_error if CUDA refuses a kernel.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "core/scratch.h"
#include "core/tensor.h"

#if defined(__CUDACC__)
#define DENSEPOSE_HD __host__ __device__ __forceinline__
#else
#define DENSEPOSE_HD inline
#endif

struct CUstream_st;

namespace densepose {

using CudaStream = CUstream_st*;  // cudaStream_t, without the CUDA headers

inline constexpr const char* kDomain = "densepose";

// How many rows of the outputs count. The first `outputs` outputs, but `count` itself, are valid up to the int32 that
// run() leaves in output `count`; an adapter with dynamic shapes cuts their axis 0 to it, one without passes it along.
struct Trim {
  std::size_t count = 0;
  std::size_t outputs = 0;  // 0: nothing to trim

  constexpr bool cuts(std::size_t output) const { return output < outputs && output != count; }
};

[[noreturn]] inline void fail(const char* op, const std::string& sentence) {
  throw std::invalid_argument(std::string(op) + ": " + sentence);
}

inline void check(bool ok, const char* op, const std::string& sentence) {
  if (!ok) fail(op, sentence);
}

// The type and shape of an input, where a kUnknown in `expected` and what is unknown of the tensor match anything.
inline void check_tensor(const Tensor& tensor, DataType type, const Shape& expected, const char* op,
                         const char* input) {
  bool ok = tensor.type == type || !tensor.typed;
  ok = ok && (tensor.shape.rank() == expected.rank() || !tensor.shape.ranked());
  for (std::size_t i = 0; ok && i < expected.rank(); ++i)
    ok = expected[i] == kUnknown || tensor.shape[i] == kUnknown || tensor.shape[i] == expected[i];
  if (!ok)
    fail(op, std::string("input ") + input + " is " + name(tensor.type) + tensor.shape.to_string() + ", it must be " +
                 name(type) + expected.to_string());
}

}  // namespace densepose
