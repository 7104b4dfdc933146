// Any op of the form in op.h as a TensorRT plugin (IPluginV3). Nothing here knows a particular op.
#pragma once

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "fields.h"
#include "tensors.h"

namespace densepose {

inline constexpr const char* kPluginVersion = "1";
inline constexpr const char* kPluginNamespace = "";  // where the ONNX parser looks

// The last sentence that a plugin wanted to say. TensorRT's own logger is not used: its finder has another layout in
// each of the releases that this library loads into.
class LastError {
 public:
  static void set(const std::string& sentence) {
    const std::lock_guard<std::mutex> lock(mutex());
    text() = sentence;
  }
  static const char* get() {
    static thread_local std::string copy;
    const std::lock_guard<std::mutex> lock(mutex());
    copy = text();
    return copy.c_str();
  }

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  static std::string& text() {
    static std::string instance;
    return instance;
  }
};

// Whether `body` ended without an exception; none may reach TensorRT.
template <class Body>
bool succeeds(const Body& body) noexcept {
  try {
    body();
    return true;
  } catch (const std::exception& error) {
    try {
      LastError::set(error.what());
    } catch (...) {  // no memory for a sentence
    }
    return false;
  }
}

// `dynamic`, which every plugin has beside its op's attributes: 0, outputs keep their largest shape and the count says
// how much is valid; 1, those that the op trims have as many rows as count says, which TensorRT waits for.
inline constexpr const char* kDynamic = "dynamic";

template <class Op>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  Plugin(Op op, std::int64_t dynamic) : op_(std::move(op)), dynamic_(dynamic), fields_(Op::kName) {
    op_.validate();
    check(dynamic == 0 || (dynamic == 1 && Op::kTrim.outputs > 0), Op::kName,
          "dynamic must be 0, or 1 where it can be");
    op_.visit(fields_);
    fields_(kDynamic, dynamic_);
  }

  // --- IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  nvinfer1::IPluginV3* clone() noexcept override {
    Plugin* copy = nullptr;
    succeeds([&] { copy = new Plugin(op_, dynamic_); });
    return copy;
  }

  // --- core
  const char* getPluginName() const noexcept override { return Op::kName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  // --- build
  std::int32_t getNbOutputs() const noexcept override {
    return static_cast<std::int32_t>(Op::kOutputs) + (size_tensor() ? 1 : 0);
  }

  std::int32_t getOutputDataTypes(nvinfer1::DataType* types, std::int32_t, const nvinfer1::DataType* in,
                                  std::int32_t inputs) const noexcept override {
    return status(succeeds([&] {
      Sizes sizes;
      for (std::int32_t i = 0; i < inputs; ++i) sizes.add(Op::kName, in[i], Shape::unranked());
      sizes.infer(op_);
      for (std::size_t o = 0; o < Op::kOutputs; ++o) types[o] = to_tensorrt(sizes.outputs[o].type);
      if (size_tensor()) types[Op::kOutputs] = nvinfer1::DataType::kINT32;
    }));
  }

  std::int32_t getOutputShapes(const nvinfer1::DimsExprs* in, std::int32_t inputs, const nvinfer1::DimsExprs*,
                               std::int32_t, nvinfer1::DimsExprs* out, std::int32_t,
                               nvinfer1::IExprBuilder& expressions) noexcept override {
    return status(succeeds([&] {
      Sizes symbolic;
      for (std::int32_t i = 0; i < inputs; ++i) {
        Shape shape;
        for (std::int32_t d = 0; d < in[i].nbDims; ++d)
          shape.push_back(in[i].d[d]->isConstant() ? in[i].d[d]->getConstantValue() : kUnknown);
        symbolic.add_untyped(Op::kName, shape);
      }
      Sizes inferred = symbolic;
      inferred.infer(op_);
      for (std::size_t o = 0; o < Op::kOutputs; ++o) {
        const Shape& shape = inferred.outputs[o].shape;
        out[o].nbDims = static_cast<std::int32_t>(shape.rank());
        for (std::size_t d = 0; d < shape.rank(); ++d)
          out[o].d[d] = shape[d] == kUnknown ? follow(symbolic, o, d, in, expressions) : expressions.constant(shape[d]);
      }
      if (!size_tensor()) return;
      out[Op::kOutputs].nbDims = 0;
      const nvinfer1::IDimensionExpr& most = *out[0].d[0];
      const nvinfer1::IDimensionExpr* size =
          expressions.declareSizeTensor(static_cast<std::int32_t>(Op::kOutputs), most, most);
      for (std::size_t o = 0; o < Op::kOutputs; ++o)
        if (Op::kTrim.cuts(o)) out[o].d[0] = size;
    }));
  }

  bool supportsFormatCombination(std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* all,
                                 std::int32_t inputs, std::int32_t) noexcept override {
    const nvinfer1::PluginTensorDesc& asked = all[position].desc;
    if (asked.format != nvinfer1::PluginFormat::kLINEAR || !from_tensorrt(asked.type)) return false;
    if (position < inputs - 1) return true;  // judged with the last one
    const std::int32_t output = position - inputs;
    if (output == static_cast<std::int32_t>(Op::kOutputs)) return asked.type == nvinfer1::DataType::kINT32;
    bool fits = false;
    // A no is an answer, not a failure: its sentence is not kept.
    try {
      Sizes sizes;
      for (std::int32_t i = 0; i < inputs; ++i) sizes.add(Op::kName, all[i].desc.type, from_tensorrt(all[i].desc.dims));
      sizes.infer(op_);
      fits = output < 0 || asked.type == to_tensorrt(sizes.outputs[static_cast<std::size_t>(output)].type);
    } catch (...) {
    }
    return fits;
  }

  std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t inputs,
                               const nvinfer1::DynamicPluginTensorDesc*, std::int32_t) noexcept override {
    return status(succeeds([&] { largest(in, inputs); }));
  }

  std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t inputs,
                               const nvinfer1::DynamicPluginTensorDesc*, std::int32_t) const noexcept override {
    std::size_t bytes = 0;  // a failure is configurePlugin()'s to report
    succeeds([&] { bytes = op_.workspace_bytes(largest(in, inputs).in()); });
    return bytes;
  }

  // --- run
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

  std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t inputs,
                             const nvinfer1::PluginTensorDesc*, std::int32_t) noexcept override {
    inputs_ = inputs;  // enqueue() is not told
    return status(succeeds([&] { sizes_of(in); }));
  }

  std::int32_t enqueue(const nvinfer1::PluginTensorDesc* in_sizes, const nvinfer1::PluginTensorDesc*,
                       const void* const* in, void* const* out, void* workspace,
                       cudaStream_t stream) noexcept override {
    return status(succeeds([&] {
      Sizes sizes = sizes_of(in_sizes);
      for (std::size_t i = 0; i < sizes.count; ++i) sizes.inputs[i].data = const_cast<void*>(in[i]);
      for (std::size_t o = 0; o < Op::kOutputs; ++o) sizes.outputs[o].data = out[o];
      op_.launch(sizes.in(), sizes.out(), workspace, stream);
      if (!size_tensor()) return;
      const cudaError_t error = cudaMemcpyAsync(out[Op::kOutputs], out[Op::kTrim.count], sizeof(std::int32_t),
                                                cudaMemcpyDeviceToDevice, stream);
      if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
    }));
  }

  std::int32_t setTactic(std::int32_t) noexcept override { return 0; }

  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    const nvinfer1::PluginFieldCollection* fields = nullptr;
    succeeds([&] { fields = fields_.collection(); });
    return fields;
  }

 private:
  using Sizes = Signature<Op::kOutputs>;

  static std::int32_t status(bool ok) { return ok ? 0 : -1; }
  bool size_tensor() const { return dynamic_ != 0; }

  const nvinfer1::IDimensionExpr* follow(const Sizes& symbolic, std::size_t output, std::size_t axis,
                                         const nvinfer1::DimsExprs* in, nvinfer1::IExprBuilder& expressions) const {
    const std::optional<FollowedDim> source = find_followed(op_, symbolic, output, axis);
    check(source.has_value(), Op::kName,
          "the size of output " + std::to_string(output) +
              " depends on values, so that it cannot stand in a TensorRT graph; run it behind the graph");
    const nvinfer1::IDimensionExpr* size = in[source->input].d[source->axis];
    if (source->offset == 0) return size;
    return expressions.operation(nvinfer1::DimensionOperation::kSUM, *size, *expressions.constant(source->offset));
  }

  Sizes sizes_of(const nvinfer1::PluginTensorDesc* in) const {
    Sizes sizes;
    for (std::int32_t i = 0; i < inputs_; ++i) sizes.add(Op::kName, in[i].type, from_tensorrt(in[i].dims));
    sizes.infer(op_);
    return sizes;
  }

  // The inputs at their largest; refuses what the op or its kernels cannot take.
  Sizes largest(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t inputs) const {
    Sizes sizes;
    for (std::int32_t i = 0; i < inputs; ++i) sizes.add(Op::kName, in[i].desc.type, from_tensorrt(in[i].max));
    for (const Tensor& input : sizes.in())
      check(input.shape.known(), Op::kName, "TensorRT does not know how large an input can be");
    sizes.infer(op_);
    op_.workspace_bytes(sizes.in());
    return sizes;
  }

  Op op_;
  std::int64_t dynamic_;
  FieldWriter fields_;
  std::int32_t inputs_ = 0;
};

template <class Op>
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  Creator() : names_(Op::kName) {
    Op().visit(names_);
    names_(kDynamic, std::int64_t{0});
  }

  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    nvinfer1::IPluginV3* plugin = nullptr;
    succeeds([&] {
      Op op;
      std::int64_t dynamic = 0;
      if (fields) {
        const FieldReader reader(Op::kName, *fields);
        op.visit(reader);
        reader(kDynamic, dynamic);
      }
      plugin = new Plugin<Op>(std::move(op), dynamic);
    });
    return plugin;
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override {
    const nvinfer1::PluginFieldCollection* names = nullptr;
    succeeds([&] { names = names_.collection(); });
    return names;
  }
  const char* getPluginName() const noexcept override { return Op::kName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

 private:
  FieldWriter names_;
};

}  // namespace densepose
