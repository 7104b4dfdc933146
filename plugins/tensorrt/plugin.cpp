// The library's interface: TensorRT's registry loads it with load_library() and asks for the creators. It has no
// undefined TensorRT symbol, so that one build serves the releases that share these interfaces.
#include "plugin.h"

#include <tuple>

#include "ops.h"

#define DENSEPOSE_EXPORT extern "C" __attribute__((visibility("default")))

namespace densepose {
namespace {

template <class... All>
auto creators_of(std::tuple<All...>*) {
  static std::tuple<Creator<All>...> creators;
  return std::apply(
      [](auto&... creator) { return std::array<nvinfer1::IPluginCreatorInterface*, sizeof...(All)>{&creator...}; },
      creators);
}

}  // namespace
}  // namespace densepose

DENSEPOSE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static const auto creators = densepose::creators_of(static_cast<densepose::Ops*>(nullptr));
  count = static_cast<std::int32_t>(creators.size());
  return creators.data();
}

// Part of what load_library() expects; see densepose::LastError for why it is not used.
DENSEPOSE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

// A plan holds plugins' attributes: it runs with libraries of the same number. Raised whenever an op's attributes or
// the meaning of its tensors change.
DENSEPOSE_EXPORT std::int32_t densepose_plugin_abi() { return 2; }

// The last failure as a sentence; "" if there was none. Valid until the same thread asks again.
DENSEPOSE_EXPORT const char* densepose_last_error() { return densepose::LastError::get(); }
