// Linked into libdensepose_deepstream.so, which nvinfer loads before it deserializes the plan: gives TensorRT the ops
// that the plan needs, from the libdensepose_tensorrt.so that lies beside it (a copy or a link).
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <string>

namespace {

struct LoadPlugins {
  LoadPlugins() {
    Dl_info here{};
    if (!dladdr(reinterpret_cast<const void*>(&anchor), &here) || !here.dli_fname) return;
    const std::string path = here.dli_fname;
    const std::string folder = path.substr(0, path.find_last_of('/') + 1);
    // Without the ops the plan fails to load, and TensorRT's own message names the missing one.
    getPluginRegistry()->loadLibrary((folder + "libdensepose_tensorrt.so").c_str());
  }
  static const char anchor;
};

const char LoadPlugins::anchor = 0;
const LoadPlugins load_plugins;

}  // namespace
