// The vocabulary that kernels and adapters share: element types, shapes and borrowed tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace densepose {

enum class DataType : std::uint8_t { kFloat32, kFloat16, kUint8, kInt8, kInt32, kInt64 };

inline const char* name(DataType type) {
  switch (type) {
    case DataType::kFloat32: return "float32";
    case DataType::kFloat16: return "float16";
    case DataType::kUint8: return "uint8";
    case DataType::kInt8: return "int8";
    case DataType::kInt32: return "int32";
    case DataType::kInt64: return "int64";
  }
  throw std::invalid_argument("a DataType that this build does not know");
}

inline std::size_t size_of(DataType type) {
  switch (type) {
    case DataType::kFloat32:
    case DataType::kInt32: return 4;
    case DataType::kFloat16: return 2;
    case DataType::kUint8:
    case DataType::kInt8: return 1;
    case DataType::kInt64: return 8;
  }
  throw std::invalid_argument("a DataType that this build does not know");
}

// A dimension that is not known yet, while a graph is being built.
inline constexpr std::int64_t kUnknown = -1;

// Up to kMaxRank dimensions held in place: a shape is made for every tensor of every frame, so it must not allocate.
class Shape {
 public:
  static constexpr std::size_t kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) {
    for (std::int64_t d : dims) push_back(d);
  }

  // While a graph is being built, even the number of dimensions may be unknown: then each one is.
  static Shape unranked() {
    Shape shape;
    shape.ranked_ = false;
    for (std::int64_t& d : shape.dims_) d = kUnknown;
    return shape;
  }

  void push_back(std::int64_t dim) {
    if (rank_ == kMaxRank) throw std::invalid_argument("a shape of more than 5 dimensions");
    dims_[rank_++] = dim;
  }
  std::size_t rank() const { return rank_; }
  bool ranked() const { return ranked_; }
  std::int64_t operator[](std::size_t axis) const { return dims_[axis]; }
  std::int64_t& operator[](std::size_t axis) { return dims_[axis]; }
  const std::int64_t* begin() const { return dims_; }
  const std::int64_t* end() const { return dims_ + rank_; }

  bool known() const {
    if (!ranked_) return false;
    for (std::int64_t d : *this)
      if (d < 0) return false;
    return true;
  }
  // Number of elements; only meaningful where known().
  std::int64_t elements() const {
    std::int64_t n = 1;
    for (std::int64_t d : *this) n *= d;
    return n;
  }
  std::string to_string() const {
    std::string text = "[";
    for (std::size_t i = 0; i < rank_; ++i) {
      if (i) text += ", ";
      text += dims_[i] < 0 ? std::string("?") : std::to_string(dims_[i]);
    }
    return text + "]";
  }

 private:
  std::int64_t dims_[kMaxRank] = {};
  std::size_t rank_ = 0;
  bool ranked_ = true;
};

inline bool operator==(const Shape& a, const Shape& b) {
  if (a.rank() != b.rank()) return false;
  for (std::size_t i = 0; i < a.rank(); ++i)
    if (a[i] != b[i]) return false;
  return true;
}

// A dense, row-major tensor that somebody else owns. `data` is null while a graph is being built: then only what is
// known of the type and the shape may be used.
struct Tensor {
  DataType type = DataType::kFloat32;
  Shape shape;
  void* data = nullptr;
  bool typed = true;  // false while a graph is being built and the type is not known yet; `type` then says nothing

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  std::size_t bytes() const { return static_cast<std::size_t>(shape.elements()) * size_of(type); }
};

// A borrowed array; std::span is C++20.
template <class T>
class Span {
 public:
  Span(T* data, std::size_t size) : data_(data), size_(size) {}
  T& operator[](std::size_t i) const { return data_[i]; }
  std::size_t size() const { return size_; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }

 private:
  T* data_;
  std::size_t size_;
};

}  // namespace densepose
