// Types and shapes between TensorRT and the ops.
#pragma once

#include <NvInfer.h>

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "core/op.h"

namespace densepose {

inline constexpr std::size_t kMaxInputs = 16;

inline std::optional<DataType> from_tensorrt(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT: return DataType::kFloat32;
    case nvinfer1::DataType::kHALF: return DataType::kFloat16;
    case nvinfer1::DataType::kUINT8: return DataType::kUint8;
    case nvinfer1::DataType::kINT8: return DataType::kInt8;
    case nvinfer1::DataType::kINT32: return DataType::kInt32;
    case nvinfer1::DataType::kINT64: return DataType::kInt64;
    default: return std::nullopt;
  }
}

inline nvinfer1::DataType to_tensorrt(DataType type) {
  switch (type) {
    case DataType::kFloat32: return nvinfer1::DataType::kFLOAT;
    case DataType::kFloat16: return nvinfer1::DataType::kHALF;
    case DataType::kUint8: return nvinfer1::DataType::kUINT8;
    case DataType::kInt8: return nvinfer1::DataType::kINT8;
    case DataType::kInt32: return nvinfer1::DataType::kINT32;
    case DataType::kInt64: return nvinfer1::DataType::kINT64;
  }
  throw std::invalid_argument("a DataType that this plugin does not know");
}

inline Shape from_tensorrt(const nvinfer1::Dims& dims) {
  Shape shape;
  for (std::int32_t i = 0; i < dims.nbDims; ++i) shape.push_back(dims.d[i]);
  return shape;
}

// An op's inputs without data: a kernel's pointers are the device's, and nobody may look there.
template <std::size_t kOutputs>
struct Signature {
  std::array<Tensor, kMaxInputs> inputs{};
  std::array<Tensor, kOutputs> outputs{};
  std::size_t count = 0;

  void add(const char* op, nvinfer1::DataType type, const Shape& shape) {
    check(count < kMaxInputs, op, "TensorRT gives it more than 16 inputs");
    const std::optional<DataType> known = from_tensorrt(type);
    check(known.has_value(), op, "input " + std::to_string(count) + " is of a type that no op takes");
    inputs[count++] = {*known, shape, nullptr};
  }

  void add_untyped(const char* op, const Shape& shape) {
    add(op, nvinfer1::DataType::kFLOAT, shape);
    inputs[count - 1].typed = false;
  }

  Span<const Tensor> in() const { return {inputs.data(), count}; }
  Span<Tensor> out() { return {outputs.data(), outputs.size()}; }

  template <class Op>
  void infer(const Op& op) {
    outputs = {};
    op.infer(in(), out());
  }
};

// Which input dimension an output dimension follows, and by how much it is larger. infer() knows, but computes with
// numbers; so it is asked what becomes of one dimension's value at a time.
struct FollowedDim {
  std::size_t input, axis;
  std::int64_t offset;
};

template <class Op>
std::optional<FollowedDim> find_followed(const Op& op, const Signature<Op::kOutputs>& symbolic, std::size_t output,
                                         std::size_t axis) {
  constexpr std::int64_t kProbe = 211;  // a size that every op takes for every dimension
  for (std::size_t i = 0; i < symbolic.count; ++i) {
    for (std::size_t d = 0; d < symbolic.inputs[i].shape.rank(); ++d) {
      if (symbolic.inputs[i].shape[d] != kUnknown) continue;
      Signature<Op::kOutputs> probed = symbolic;
      probed.inputs[i].shape[d] = kProbe;
      try {
        probed.infer(op);
      } catch (const std::invalid_argument&) {
        continue;  // a dimension that must have another value
      }
      const std::int64_t size = probed.outputs[output].shape[axis];
      if (size != kUnknown) return FollowedDim{i, d, size - kProbe};
    }
  }
  return std::nullopt;
}

}  // namespace densepose
