#include "core/cuda_grid.cuh"
#include "ops/multilevel_roi_align_grid.h"

namespace densepose {

std::size_t MultilevelRoiAlign::workspace_bytes(Span<const Tensor> inputs) const {
  return grid_workspace(*this, inputs);
}

void MultilevelRoiAlign::launch(Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace,
                                CudaStream stream) const {
  CudaGrid grid(stream);
  run_on(grid, *this, inputs, outputs, workspace);
}

}  // namespace densepose
