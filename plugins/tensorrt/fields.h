// An op's attributes as TensorRT's plugin fields, both ways, through visit(). Integers travel as int32, which is what
// the ONNX parser makes of them.
#pragma once

#include <NvInfer.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "core/op.h"

namespace densepose {

// Owns what its fields point to.
class FieldWriter {
 public:
  explicit FieldWriter(const char* op) : op_(op) {}
  FieldWriter(const FieldWriter&) = delete;
  FieldWriter& operator=(const FieldWriter&) = delete;

  template <class T>
  void operator()(const char* name, const T& value) {
    using nvinfer1::PluginFieldType;
    if constexpr (std::is_same_v<T, std::int64_t>)
      add(name, PluginFieldType::kINT32, std::vector<std::int32_t>{narrow(name, value)});
    else if constexpr (std::is_same_v<T, std::vector<std::int64_t>>)
      add(name, PluginFieldType::kINT32, narrow(name, value));
    else if constexpr (std::is_same_v<T, float>)
      add(name, PluginFieldType::kFLOAT32, std::vector<float>{value});
    else if constexpr (std::is_same_v<T, std::vector<float>>)
      add(name, PluginFieldType::kFLOAT32, value);
    else
      add(name, PluginFieldType::kCHAR, std::vector<char>(value.begin(), value.end()));
  }

  const nvinfer1::PluginFieldCollection* collection() {
    fields_.clear();
    for (const Field& f : values_) fields_.emplace_back(f.name, f.bytes.data(), f.type, f.length);
    collection_.nbFields = static_cast<std::int32_t>(fields_.size());
    collection_.fields = fields_.data();
    return &collection_;
  }

 private:
  struct Field {
    const char* name;
    nvinfer1::PluginFieldType type;
    std::vector<char> bytes;
    std::int32_t length;
  };

  template <class T>
  void add(const char* name, nvinfer1::PluginFieldType type, const std::vector<T>& values) {
    std::vector<char> bytes(values.size() * sizeof(T));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    values_.push_back({name, type, std::move(bytes), static_cast<std::int32_t>(values.size())});
  }

  std::int32_t narrow(const char* name, std::int64_t value) const {
    check(value >= std::numeric_limits<std::int32_t>::min() && value <= std::numeric_limits<std::int32_t>::max(), op_,
          std::string(name) + " does not fit into 32 bits, which is what TensorRT stores");
    return static_cast<std::int32_t>(value);
  }
  std::vector<std::int32_t> narrow(const char* name, const std::vector<std::int64_t>& values) const {
    std::vector<std::int32_t> narrowed;
    for (std::int64_t v : values) narrowed.push_back(narrow(name, v));
    return narrowed;
  }

  const char* op_;
  std::vector<Field> values_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

// An attribute that no field names keeps its default.
class FieldReader {
 public:
  FieldReader(const char* op, const nvinfer1::PluginFieldCollection& fields) : op_(op), fields_(fields) {}

  template <class T>
  void operator()(const char* name, T& value) const {
    using nvinfer1::PluginFieldType;
    const nvinfer1::PluginField* field = find(name);
    if (!field) return;
    if constexpr (std::is_same_v<T, std::string>) {
      check(field->type == PluginFieldType::kCHAR, op_, std::string("attribute ") + name + " is not a string");
      value.assign(static_cast<const char*>(field->data), static_cast<std::size_t>(field->length));
      while (!value.empty() && value.back() == '\0') value.pop_back();
    } else if constexpr (std::is_same_v<T, std::int64_t> || std::is_same_v<T, std::vector<std::int64_t>>) {
      check(field->type == PluginFieldType::kINT32, op_, std::string("attribute ") + name + " is not an integer");
      read<std::int32_t>(*field, value);
    } else {
      check(field->type == PluginFieldType::kFLOAT32, op_, std::string("attribute ") + name + " is not a float");
      read<float>(*field, value);
    }
  }

 private:
  const nvinfer1::PluginField* find(const char* name) const {
    for (std::int32_t i = 0; i < fields_.nbFields; ++i)
      if (std::strcmp(fields_.fields[i].name, name) == 0) return fields_.fields + i;
    return nullptr;
  }

  template <class Stored, class T>
  void read(const nvinfer1::PluginField& field, T& value) const {
    const auto* stored = static_cast<const Stored*>(field.data);
    if constexpr (std::is_arithmetic_v<T>) {
      check(field.length == 1, op_, std::string("attribute ") + field.name + " must be one number");
      value = stored[0];
    } else {
      value.assign(stored, stored + field.length);
    }
  }

  const char* op_;
  const nvinfer1::PluginFieldCollection& fields_;
};

}  // namespace densepose
