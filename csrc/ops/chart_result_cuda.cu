#include "core/cuda_grid.cuh"
#include "ops/chart_result_grid.h"

namespace densepose {

std::size_t ChartResult::workspace_bytes(Span<const Tensor> inputs) const { return grid_workspace(*this, inputs); }

void ChartResult::launch(Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace, CudaStream stream) const {
  CudaGrid grid(stream);
  run_on(grid, *this, inputs, outputs, workspace);
}

}  // namespace densepose
