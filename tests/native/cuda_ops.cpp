// The ops on a GPU, as Python classes like those of _core: the same tests serve both. `threads` means nothing here.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <vector>

#include "ops.h"
#include "python/bindings_ops.h"

namespace densepose {
namespace {

void ask(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

struct Free {
  void operator()(void* memory) const { cudaFree(memory); }
};
using DeviceMemory = std::unique_ptr<void, Free>;

// Filled with a pattern, as nobody promises zeros.
DeviceMemory allocate(std::size_t bytes) {
  void* memory = nullptr;
  ask(cudaMalloc(&memory, bytes + 1));
  DeviceMemory owned(memory);
  ask(cudaMemset(memory, 0xA5, bytes + 1));
  return owned;
}

struct CudaRunner {
  template <class Op>
  static void run(const Op& op, Span<const Tensor> inputs, Span<Tensor> outputs, int) {
    std::vector<DeviceMemory> memory;
    std::vector<Tensor> device_inputs(inputs.begin(), inputs.end()), device_outputs(outputs.begin(), outputs.end());
    for (Tensor& t : device_inputs) {
      memory.push_back(allocate(t.bytes()));
      ask(cudaMemcpy(memory.back().get(), t.data, t.bytes(), cudaMemcpyHostToDevice));
      t.data = memory.back().get();
    }
    for (Tensor& t : device_outputs) {
      memory.push_back(allocate(t.bytes()));
      t.data = memory.back().get();
    }
    const DeviceMemory workspace = allocate(op.workspace_bytes(inputs));
    op.launch({device_inputs.data(), device_inputs.size()}, {device_outputs.data(), device_outputs.size()},
              workspace.get(), nullptr);
    ask(cudaDeviceSynchronize());
    for (std::size_t o = 0; o < outputs.size(); ++o)
      ask(cudaMemcpy(outputs[o].data, device_outputs[o].data, outputs[o].bytes(), cudaMemcpyDeviceToHost));
  }
};

// "" where there is a GPU, else why there is none.
std::string why_no_gpu() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  return error != cudaSuccess ? cudaGetErrorString(error) : count == 0 ? "no device" : "";
}

}  // namespace
}  // namespace densepose

PYBIND11_MODULE(cuda_ops, module) {
  densepose::bind_ops<densepose::CudaRunner>(module, static_cast<densepose::Ops*>(nullptr));
  module.def("why_no_gpu", &densepose::why_no_gpu);
}
