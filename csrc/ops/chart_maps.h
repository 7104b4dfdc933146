// How the CPU's ChartResult finds a value, whether maps are tensors or channels of one, and whatever their layout.
#pragma once

#include "ops/chart_result.h"
#include "ops/maps.h"

namespace densepose {

// Maps by number, whether they are tensors or channels of one.
inline constexpr std::size_t kCoarse = 0, kFine = 1, kU = 2, kV = 3, kFirstConfidence = 4;

// All maps of a call, in one tensor or in many.
class Maps {
 public:
  Maps(const ChartResult& op, Span<const Tensor> inputs)
      : op_(op), inputs_(inputs), nhwc_(op.layout == "NHWC"), packed_(!op.channels.empty()) {}

  const Tensor& boxes() const { return inputs_[packed_ ? 1 : 4]; }
  std::size_t count() const { return packed_ ? op_.channels.size() : inputs_.size() - 1; }
  std::int64_t confidences() const { return static_cast<std::int64_t>(count() - kFirstConfidence); }
  std::int64_t size() const { return inputs_[0].shape[2] * op_.block; }  // rows and columns are as many
  std::int64_t block() const { return op_.block; }
  bool packed() const { return packed_; }

  std::int64_t channels(std::size_t map) const {
    return packed_ ? op_.channels[map] : tensor(map).shape[nhwc_ ? 3 : 1];
  }

  Map map(std::size_t map, std::int64_t person) const {
    std::int64_t before = 0;
    for (std::size_t i = 0; packed_ && i < map; ++i) before += op_.channels[i];
    return map_of(tensor(map), nhwc_, op_.block, before, channels(map), person);
  }

 private:
  const Tensor& tensor(std::size_t map) const { return inputs_[packed_ ? 0 : map + (map >= kFirstConfidence)]; }

  const ChartResult& op_;
  const Span<const Tensor> inputs_;
  const bool nhwc_, packed_;
};

}  // namespace densepose
