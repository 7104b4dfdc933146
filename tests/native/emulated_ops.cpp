// The CUDA kernels' own code, run on the CPU one thread after another: the ops as Python classes, like those of _core,
// so that the same tests serve both. `threads` names the order in which threads come: 1 first to last, 2 last to first,
// more: shuffled. Kernels that need a particular order then fail.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "ops.h"
#include "ops/box_detections_grid.h"
#include "ops/chart_result_grid.h"
#include "ops/closest_vertices_grid.h"
#include "ops/generate_proposals_grid.h"
#include "ops/multilevel_roi_align_grid.h"
#include "python/bindings_ops.h"

namespace densepose {
namespace {

class ThreadOrder {
 public:
  explicit ThreadOrder(int seed) : seed_(seed), random_(static_cast<unsigned>(seed)) {}

  template <class Body>
  void visit(std::int64_t count, const Body& body) {
    if (seed_ == 1) {
      for (std::int64_t i = 0; i < count; ++i) body(i);
    } else if (seed_ == 2) {
      for (std::int64_t i = count; i > 0; --i) body(i - 1);
    } else {
      std::vector<std::int64_t> order(static_cast<std::size_t>(std::max<std::int64_t>(count, 0)));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random_);
      for (std::int64_t i : order) body(i);
    }
  }

 private:
  int seed_;
  std::mt19937 random_;
};

class EmulatedBlock {
 public:
  EmulatedBlock(std::int64_t index, ThreadOrder& order) : index_(index), order_(order) {}
  std::int64_t index() const { return index_; }
  template <class Body>
  void each(std::int64_t count, const Body& body) const {
    order_.visit(count, body);
  }
  template <class T>
  T read(const T* value) const {
    return *value;
  }

 private:
  std::int64_t index_;
  ThreadOrder& order_;
};

class EmulatedGrid {
 public:
  explicit EmulatedGrid(int seed) : order_(seed) {}
  template <class Body>
  void each(std::int64_t count, const Body& body) {
    order_.visit(count, body);
  }
  template <class Body>
  void blocks(std::int64_t count, const Body& body) {
    order_.visit(count, [&](std::int64_t index) {
      ThreadOrder inside = order_;
      EmulatedBlock block(index, inside);
      body(block);
    });
  }

 private:
  ThreadOrder order_;
};

// A workspace as a device gives it: exactly as large as asked for, and full of what somebody left there.
class Workspace {
 public:
  explicit Workspace(std::size_t bytes) : bytes_(bytes), memory_(bytes + kGuard + kAlign, kPattern) {}
  void* data() {
    void* start = memory_.data();
    std::size_t room = memory_.size();
    return std::align(kAlign, bytes_, start, room);
  }
  bool intact() {
    const auto* end = static_cast<unsigned char*>(data()) + bytes_;
    return std::all_of(end, end + kGuard, [](unsigned char byte) { return byte == kPattern; });
  }

 private:
  static constexpr std::size_t kGuard = 4096, kAlign = 256;
  static constexpr unsigned char kPattern = 0xA5;
  std::size_t bytes_;
  std::vector<unsigned char> memory_;
};

struct EmulatedRunner {
  template <class Op>
  static void run(const Op& op, Span<const Tensor> inputs, Span<Tensor> outputs, int threads) {
    Workspace workspace(grid_workspace(op, inputs));
    for (const Tensor& output : outputs)
      if (output.bytes() > 0) std::memset(output.data, 0xA5, output.bytes());
    EmulatedGrid grid(threads);
    run_on(grid, op, inputs, outputs, workspace.data());
    if (!workspace.intact()) throw std::runtime_error(std::string(Op::kName) + " wrote outside its workspace");
  }
};

}  // namespace
}  // namespace densepose

PYBIND11_MODULE(emulated_ops, module) {
  densepose::bind_ops<densepose::EmulatedRunner>(module, static_cast<densepose::Ops*>(nullptr));
}
