// Every op of csrc/ops.h as an OpenVINO operation. Nothing here knows a particular op.
#include <array>
#include <charconv>
#include <cstring>
#include <map>
#include <memory>
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/op.hpp>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ops.h"
#include "threads.h"

namespace densepose {
namespace {

// Threads of the arena that OpenVINO runs the graph in: never more than the engine was given.
class OpenvinoThreads final : public Parallel {
 protected:
  void run(std::int64_t count, std::int64_t grain, const void* body, Invoke invoke) const override {
    run_on_openvino_threads(count, grain, body, invoke);
  }
};

// A stack of scratches per thread: while an op waits in a parallel loop, TBB may start another op on the same thread.
class ScratchLease {
 public:
  ScratchLease() {
    if (depth() == pool().size()) pool().push_back(std::make_unique<Scratch>(threads()));
    scratch_ = pool()[depth()++].get();
    scratch_->reset();
  }
  ~ScratchLease() { --depth(); }
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;
  Scratch& operator*() const { return *scratch_; }

 private:
  static const OpenvinoThreads& threads() {
    static const OpenvinoThreads instance;
    return instance;
  }
  static std::vector<std::unique_ptr<Scratch>>& pool() {
    static thread_local std::vector<std::unique_ptr<Scratch>> instance;
    return instance;
  }
  static std::size_t& depth() {
    static thread_local std::size_t instance = 0;
    return instance;
  }
  Scratch* scratch_;
};

DataType from_openvino(const ov::element::Type& type) {
  if (type == ov::element::f32) return DataType::kFloat32;
  if (type == ov::element::f16) return DataType::kFloat16;
  if (type == ov::element::u8) return DataType::kUint8;
  if (type == ov::element::i8) return DataType::kInt8;
  if (type == ov::element::i32) return DataType::kInt32;
  if (type == ov::element::i64) return DataType::kInt64;
  throw std::invalid_argument("an input of type " + type.get_type_name() + ", which no op here takes");
}

ov::element::Type to_openvino(DataType type) {
  switch (type) {
    case DataType::kFloat32: return ov::element::f32;
    case DataType::kFloat16: return ov::element::f16;
    case DataType::kUint8: return ov::element::u8;
    case DataType::kInt8: return ov::element::i8;
    case DataType::kInt32: return ov::element::i32;
    case DataType::kInt64: return ov::element::i64;
  }
  throw std::invalid_argument("a DataType that this plugin does not know");
}

Tensor borrow(const ov::Tensor& tensor) {
  Tensor t;
  t.type = from_openvino(tensor.get_element_type());
  for (std::size_t d : tensor.get_shape()) t.shape.push_back(static_cast<std::int64_t>(d));
  t.data = const_cast<void*>(static_cast<const ov::Tensor&>(tensor).data());
  return t;
}

ov::Shape to_openvino(const Shape& shape) { return ov::Shape(shape.begin(), shape.end()); }

// The ONNX frontend hands over a list of doubles where an op has a list of floats, and then refuses its own cast.
class FloatList final : public ov::AttributeAdapter<std::vector<float>> {
 public:
  using ov::AttributeAdapter<std::vector<float>>::AttributeAdapter;
  void set_as_any(const ov::Any& value) override {
    if (!value.is<std::vector<double>>()) return ov::AttributeAdapter<std::vector<float>>::set_as_any(value);
    const auto& wide = value.as<std::vector<double>>();
    set(std::vector<float>(wide.begin(), wide.end()));
  }
};

// OpenVINO writes float lists to its IR with six digits, and the cache of compiled models is IR: what was decoded from
// a rounded anchor is no longer exact. So each float attribute travels a second time, as text that keeps every bit.
class AttributesForOpenvino {
 public:
  explicit AttributesForOpenvino(ov::AttributeVisitor& visitor) : visitor_(visitor) {}

  template <class T>
  void operator()(const char* name, T& value) {
    if constexpr (std::is_same_v<T, std::vector<float>>) {
      FloatList list(value);
      visitor_.start_structure(name);
      visitor_.on_adapter(visitor_.get_name_with_context(), list);
      visitor_.finish_structure();
      exact(name, value.data(), value.size());
    } else {
      visitor_.on_attribute(name, value);
      if constexpr (std::is_same_v<T, float>) exact(name, &value, 1);
    }
  }

 private:
  void exact(const char* name, float* values, std::size_t count) {
    std::string before;
    for (std::size_t i = 0; i < count; ++i) before += (i ? " " : "") + to_text(values[i]);
    std::string after = before;
    visitor_.on_attribute(std::string(name) + "_exact", after);
    if (after == before || after.empty()) return;
    const char* cursor = after.c_str();
    for (std::size_t i = 0; i < count; ++i)
      OPENVINO_ASSERT(read_text(&cursor, &values[i]), "attribute ", name, "_exact is damaged");
  }

  // Hexadecimal, as "%a" writes it, but whatever the locale: in some the point is a comma.
  static std::string to_text(float value) {
    std::array<char, 32> text{};
    const float size = value < 0 ? -value : value;
    const auto end = std::to_chars(text.data(), text.data() + text.size(), size, std::chars_format::hex).ptr;
    return (value < 0 ? "-0x" : "0x") + std::string(text.data(), end);
  }

  static bool read_text(const char** cursor, float* value) {
    const char* text = *cursor;
    while (*text == ' ') ++text;
    const bool negative = *text == '-';
    if (negative) ++text;
    if (text[0] != '0' || text[1] != 'x') return false;
    text += 2;
    const auto result = std::from_chars(text, text + std::strlen(text), *value, std::chars_format::hex);
    if (result.ec != std::errc()) return false;
    if (negative) *value = -*value;
    *cursor = result.ptr;
    return true;
  }

  ov::AttributeVisitor& visitor_;
};

// Whether an op with a Trim gives as many rows as it has room for, and whoever reads them its count, instead of exactly
// the valid ones. OpenVINO plans memory and layouts ahead only for shapes that it knows.
constexpr const char* kStaticRows = "static_rows";

// `Kernel`: an op of ops.h; the name Op would mean OpenVINO's own class in here.
template <class Kernel>
class Node final : public ov::op::Op {
 public:
  static const ov::DiscreteTypeInfo& get_type_info_static() {
    static const ov::DiscreteTypeInfo info = [] {
      ov::DiscreteTypeInfo i(Kernel::kName, "densepose", &ov::op::Op::get_type_info_static());
      i.hash();
      return i;
    }();
    return info;
  }
  const ov::DiscreteTypeInfo& get_type_info() const override { return get_type_info_static(); }

  Node() = default;
  Node(const ov::OutputVector& inputs, Kernel op) : ov::op::Op(inputs), op_(std::move(op)) {
    constructor_validate_and_infer_types();
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    auto node = std::make_shared<Node>(inputs, op_);
    node->static_rows_ = static_rows_;
    node->validate_and_infer_types();
    return node;
  }

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    op_.visit(AttributesForOpenvino(visitor));
    if constexpr (kTrims) visitor.on_attribute(kStaticRows, static_rows_);
    return true;
  }

  void validate_and_infer_types() override {
    op_.validate();
    std::vector<Tensor> inputs(get_input_size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      // Frontends ask for shapes before types are settled; such a graph is inferred again once they are.
      if (get_input_element_type(i).is_dynamic() || get_input_partial_shape(i).rank().is_dynamic()) {
        for (std::size_t o = 0; o < Kernel::kOutputs; ++o)
          set_output_type(o, ov::element::dynamic, ov::PartialShape::dynamic());
        return;
      }
      inputs[i].type = from_openvino(get_input_element_type(i));
      for (const ov::Dimension& d : get_input_partial_shape(i))
        inputs[i].shape.push_back(d.is_static() ? d.get_length() : kUnknown);
    }
    std::array<Tensor, Kernel::kOutputs> outputs{};
    op_.infer({inputs.data(), inputs.size()}, {outputs.data(), outputs.size()});
    for (std::size_t o = 0; o < outputs.size(); ++o) {
      ov::PartialShape shape;
      for (std::int64_t d : outputs[o].shape) shape.push_back(d < 0 ? ov::Dimension::dynamic() : ov::Dimension(d));
      if (trims() && Kernel::kTrim.cuts(o)) shape[0] = ov::Dimension(0, shape[0].get_max_length());
      set_output_type(o, to_openvino(outputs[o].type), shape);
    }
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    std::array<Tensor, kMaxInputs> in{};
    OPENVINO_ASSERT(inputs.size() <= in.size(), Kernel::kName, " takes at most ", in.size(), " inputs");
    for (std::size_t i = 0; i < inputs.size(); ++i) in[i] = borrow(inputs[i]);
    std::array<Tensor, Kernel::kOutputs> out{};
    op_.infer({in.data(), inputs.size()}, {out.data(), out.size()});
    for (std::size_t o = 0; o < out.size(); ++o) {
      outputs[o].set_shape(to_openvino(out[o].shape));
      out[o].data = outputs[o].data();
    }
    const ScratchLease scratch;
    op_.run({in.data(), inputs.size()}, {out.data(), out.size()}, *scratch);
    if (trims()) {
      const auto count = *out[Kernel::kTrim.count].template as<std::int32_t>();
      for (std::size_t o = 0; o < out.size(); ++o) {
        if (!Kernel::kTrim.cuts(o)) continue;
        Shape shape = out[o].shape;
        shape[0] = count;
        outputs[o].set_shape(to_openvino(shape));
      }
    }
    return true;
  }

 private:
  static constexpr std::size_t kMaxInputs = 16;
  static constexpr bool kTrims = Kernel::kTrim.outputs > 0;
  bool trims() const { return kTrims && !static_rows_; }

  Kernel op_;
  bool static_rows_ = false;
};

// Names of the float attributes' exact twins, which an ONNX file does not have.
class ExactTwins {
 public:
  explicit ExactTwins(std::map<std::string, ov::Any>& names) : names_(names) {}
  template <class T>
  void operator()(const char* name, T&) {
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, std::vector<float>>)
      names_[std::string(name) + "_exact"] = std::string();
  }

 private:
  std::map<std::string, ov::Any>& names_;
};

template <class Op>
void add_extensions(std::vector<ov::Extension::Ptr>& extensions) {
  std::map<std::string, ov::Any> absent;
  Op().visit(ExactTwins(absent));
  if (Op::kTrim.outputs > 0) absent[kStaticRows] = false;
  extensions.push_back(std::make_shared<ov::OpExtension<Node<Op>>>());
  extensions.push_back(std::make_shared<ov::frontend::onnx::OpExtension<Node<Op>>>(
      Op::kName, kDomain, std::map<std::string, std::string>{}, absent));
}

template <class... All>
std::vector<ov::Extension::Ptr> extensions_of(std::tuple<All...>*) {
  std::vector<ov::Extension::Ptr> extensions;
  (add_extensions<All>(extensions), ...);
  return extensions;
}

}  // namespace
}  // namespace densepose

OPENVINO_CREATE_EXTENSIONS(densepose::extensions_of(static_cast<densepose::Ops*>(nullptr)));
