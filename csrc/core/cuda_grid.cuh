// The grid of grid.h on a CUDA stream. Compiled by nvcc, which includes the CUDA runtime by itself.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/grid.h"

namespace densepose {

inline constexpr int kEachThreads = 256;
inline constexpr int kBlockThreads = 512;

template <class Body>
__global__ void __launch_bounds__(kEachThreads) run_each(std::int64_t count, const __grid_constant__ Body body) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kEachThreads;
  for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(kEachThreads) + threadIdx.x; i < count; i += step)
    body(i);
}

class CudaBlock {
 public:
  __device__ std::int64_t index() const { return blockIdx.x; }

  template <class Body>
  __device__ void each(std::int64_t count, const Body& body) const {
    for (std::int64_t i = threadIdx.x; i < count; i += kBlockThreads) body(i);
    __syncthreads();
  }

  // For all threads the value from before anything that follows.
  template <class T>
  __device__ T read(const T* value) const {
    const T result = *static_cast<const volatile T*>(value);
    __syncthreads();
    return result;
  }
};

template <class Body>
__global__ void __launch_bounds__(kBlockThreads) run_block(const __grid_constant__ Body body) {
  CudaBlock block;
  body(block);
}

class CudaGrid {
 public:
  explicit CudaGrid(CudaStream stream) : stream_(stream) {}

  template <class Body>
  void each(std::int64_t count, const Body& body) const {
    if (count <= 0) return;
    const std::int64_t blocks = std::min<std::int64_t>((count + kEachThreads - 1) / kEachThreads, kMostBlocks);
    run_each<<<static_cast<unsigned>(blocks), kEachThreads, 0, stream_>>>(count, body);
    check_launch();
  }

  template <class Body>
  void blocks(std::int64_t count, const Body& body) const {
    if (count <= 0) return;
    run_block<<<static_cast<unsigned>(count), kBlockThreads, 0, stream_>>>(body);
    check_launch();
  }

 private:
  static constexpr std::int64_t kMostBlocks = 1 << 20;

  static void check_launch() {
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess)
      throw std::runtime_error(std::string("CUDA refuses a kernel: ") + cudaGetErrorString(error));
  }

  CudaStream stream_;
};

}  // namespace densepose
