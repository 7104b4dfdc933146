#include "core/cuda_grid.cuh"
#include "ops/closest_vertices_grid.h"

namespace densepose {

std::size_t ClosestVertices::workspace_bytes(Span<const Tensor> inputs) const { return grid_workspace(*this, inputs); }

void ClosestVertices::launch(Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace,
                             CudaStream stream) const {
  CudaGrid grid(stream);
  run_on(grid, *this, inputs, outputs, workspace);
}

}  // namespace densepose
