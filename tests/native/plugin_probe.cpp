// Talks to the plugin library as TensorRT does, for what TensorRT's Python API does not show.
#include <NvInfer.h>
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace py = pybind11;

namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

nvinfer1::IPluginCreatorV3One* find_creator(const std::string& library, const std::string& name) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error(dlerror());
  using GetCreators = nvinfer1::IPluginCreatorInterface* const*(std::int32_t&);
  auto* get = reinterpret_cast<GetCreators*>(dlsym(handle, "getCreators"));
  if (!get) throw std::runtime_error(dlerror());
  std::int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* all = get(count);
  for (std::int32_t i = 0; i < count; ++i) {
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(all[i]);
    if (name == creator->getPluginName()) return creator;
  }
  throw std::runtime_error("no creator of " + name);
}

py::dict read(const nvinfer1::PluginFieldCollection& fields) {
  py::dict values;
  for (std::int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& f = fields.fields[i];
    if (f.type == PluginFieldType::kCHAR) {
      values[f.name] = std::string(static_cast<const char*>(f.data), static_cast<std::size_t>(f.length));
    } else if (f.type == PluginFieldType::kFLOAT32) {
      const auto* first = static_cast<const float*>(f.data);
      values[f.name] = std::vector<float>(first, first + f.length);
    } else {
      const auto* first = static_cast<const std::int32_t*>(f.data);
      values[f.name] = std::vector<std::int32_t>(first, first + f.length);
    }
  }
  return values;
}

py::dict serialized(nvinfer1::IPluginV3& plugin) {
  auto* run = static_cast<nvinfer1::IPluginV3OneRuntime*>(
      plugin.getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
  return read(*run->getFieldsToSerialize());
}

// What a plugin stores that was made of `attributes`, after it was stored, read back and cloned; None if none is made.
py::object round_trip(const std::string& library, const std::string& name, const py::dict& attributes) {
  std::list<std::vector<char>> memory;
  std::vector<PluginField> fields;
  std::list<std::string> names;
  const auto add = [&](PluginFieldType type, const void* data, std::size_t bytes, std::size_t length) {
    memory.emplace_back(static_cast<const char*>(data), static_cast<const char*>(data) + bytes);
    fields.emplace_back(names.back().c_str(), memory.back().data(), type, static_cast<std::int32_t>(length));
  };
  for (const auto& [key, value] : attributes) {
    names.push_back(key.cast<std::string>());
    if (py::isinstance<py::str>(value)) {
      const auto text = value.cast<std::string>();
      add(PluginFieldType::kCHAR, text.c_str(), text.size() + 1, text.size() + 1);  // some parsers add the zero
    } else {
      const auto list = py::isinstance<py::list>(value) ? value.cast<py::list>() : py::list(py::make_tuple(value));
      if (py::len(list) > 0 && py::isinstance<py::float_>(list[0])) {
        const auto numbers = list.cast<std::vector<float>>();
        add(PluginFieldType::kFLOAT32, numbers.data(), 4 * numbers.size(), numbers.size());
      } else {
        const auto numbers = list.cast<std::vector<std::int32_t>>();
        add(PluginFieldType::kINT32, numbers.data(), 4 * numbers.size(), numbers.size());
      }
    }
  }
  const nvinfer1::PluginFieldCollection collection{static_cast<std::int32_t>(fields.size()), fields.data()};
  nvinfer1::IPluginCreatorV3One* creator = find_creator(library, name);
  const std::unique_ptr<nvinfer1::IPluginV3> built(
      creator->createPlugin("built", &collection, nvinfer1::TensorRTPhase::kBUILD));
  if (!built) return py::none();
  auto* run = static_cast<nvinfer1::IPluginV3OneRuntime*>(
      built->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
  const std::unique_ptr<nvinfer1::IPluginV3> stored(
      creator->createPlugin("stored", run->getFieldsToSerialize(), nvinfer1::TensorRTPhase::kRUNTIME));
  if (!stored) throw std::runtime_error("its own fields make no plugin");
  const std::unique_ptr<nvinfer1::IPluginV3> clone(stored->clone());
  if (!clone) throw std::runtime_error("no clone");
  return serialized(*clone);
}

}  // namespace

PYBIND11_MODULE(plugin_probe, module) { module.def("round_trip", &round_trip); }
