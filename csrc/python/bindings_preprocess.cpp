// Pre-processing for Python: _core.resize and _core.preprocess.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "picture/preprocess.h"

namespace py = pybind11;

namespace densepose {
namespace {

std::string describe(const py::array& array) {
  return std::string(py::str(array.dtype())) + std::string(py::str(array.attr("shape")));
}

// A picture, and the array that keeps its memory alive.
struct HeldImage {
  py::array array;
  RgbImage image;
};

HeldImage hold_image(const py::object& object) {
  if (!py::isinstance<py::array>(object))
    throw py::type_error("image is a " + std::string(py::str(py::type::of(object).attr("__name__"))) +
                         ", it must be a uint8 array of shape (height, width, 3)");
  auto array = py::reinterpret_borrow<py::array>(object);
  if (!array.dtype().equal(py::dtype::of<std::uint8_t>()))
    throw py::type_error("image is " + describe(array) + ", it must be uint8 of shape (height, width, 3)");
  if (array.ndim() != 3 || array.shape(2) != 3 || array.shape(0) == 0 || array.shape(1) == 0)
    throw py::value_error("image is " + describe(array) + ", it must be uint8 of shape (height, width, 3), not empty");
  // Any distance between rows is read in place (a crop, a flip); other strides (BGR[..., ::-1], a transpose) are
  // copied.
  const bool dense_rows = array.strides(2) == 1 && (array.shape(1) == 1 || array.strides(1) == 3);
  if (!dense_rows) array = py::array_t<std::uint8_t, py::array::c_style>::ensure(array);
  if (!array) throw py::error_already_set();
  const RgbImage image{static_cast<const std::uint8_t*>(array.data()), array.shape(0), array.shape(1),
                       array.strides(0)};
  return {std::move(array), image};
}

py::array_t<std::uint8_t> resize_image(const py::object& image, std::int64_t height, std::int64_t width, int threads) {
  const HeldImage held = hold_image(image);
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide)
    throw py::value_error("height and width are " + std::to_string(height) + " and " + std::to_string(width) +
                          ", they must be from 1 to " + std::to_string(kMaxSide));
  Scratch& scratch = thread_scratch(threads);
  py::array_t<std::uint8_t> out({height, width, std::int64_t{3}});
  std::uint8_t* data = out.mutable_data();
  {
    py::gil_scoped_release release;
    resize(held.image, data, height, width, scratch);
  }
  return out;
}

// `out` as it must be, or an exception: of `type`, [1, 3, height, width] or [1, height, width, 3].
py::array checked_input(const py::object& object, const py::dtype& type, bool planar) {
  const auto wanted = [&] {
    return std::string(py::str(type)) + " of shape " +
           (planar ? "(1, 3, height, width), NCHW" : "(1, height, width, 3), NHWC");
  };
  if (!py::isinstance<py::array>(object)) throw py::type_error("out must be an array, " + wanted());
  auto array = py::reinterpret_borrow<py::array>(object);
  if (!array.dtype().equal(type)) throw py::type_error("out is " + describe(array) + ", it must be " + wanted());
  if (array.ndim() != 4 || array.shape(0) != 1 || array.shape(planar ? 1 : 3) != 3)
    throw py::value_error("out is " + describe(array) + ", it must be " + wanted());
  if (!(array.flags() & py::array::c_style)) throw py::value_error("out must be C-contiguous: it is written in place");
  if (!array.writeable()) throw py::value_error("out is read-only: it is written in place");
  return array;
}

void check_mean(const std::vector<float>& mean) {
  if (mean.size() != 3)
    throw py::value_error("mean has " + std::to_string(mean.size()) + " values, it must have 3: of R, G and B");
  for (float value : mean)
    if (!std::isfinite(value)) throw py::value_error("mean must be finite");
}

void preprocess_image(const py::object& image, std::int64_t resized_height, std::int64_t resized_width,
                      const std::vector<float>& mean, const py::object& out, const std::string& layout, int threads) {
  const HeldImage held = hold_image(image);
  check_mean(mean);
  if (layout != "NCHW" && layout != "NHWC")
    throw py::value_error("layout is '" + layout + "', it must be 'NCHW' or 'NHWC'");
  const bool planar = layout == "NCHW";
  const py::array array = checked_input(out, py::dtype::of<float>(), planar);
  // mutable_data() only checks what was checked above
  const InputTensor input{static_cast<float*>(const_cast<void*>(array.data())), array.shape(planar ? 2 : 1),
                          array.shape(planar ? 3 : 2), planar ? InputLayout::kNCHW : InputLayout::kNHWC};
  Scratch& scratch = thread_scratch(threads);
  py::gil_scoped_release release;
  preprocess(held.image, resized_height, resized_width, mean.data(), input, scratch);
}

void preprocess_to_bytes(const py::object& image, std::int64_t resized_height, std::int64_t resized_width,
                         const std::vector<float>& mean, const py::object& out, float scale, int zero_point,
                         int threads) {
  const HeldImage held = hold_image(image);
  check_mean(mean);
  if (!(std::isnormal(scale) && scale > 0.0f) || zero_point < 0 || zero_point > 255)
    throw py::value_error("scale must be a positive number and zero_point from 0 to 255");
  const py::array array = checked_input(out, py::dtype::of<std::uint8_t>(), false);
  QuantizedInputTensor input{
      static_cast<std::uint8_t*>(const_cast<void*>(array.data())), array.shape(1), array.shape(2), {}, 0};
  set_quantization(input, mean.data(), scale, zero_point);
  Scratch& scratch = thread_scratch(threads);
  py::gil_scoped_release release;
  preprocess(held.image, resized_height, resized_width, input, scratch);
}

}  // namespace

void bind_preprocess(py::module_& module) {
  module.def("resize", &resize_image, py::arg("image"), py::arg("height"), py::arg("width"), py::arg("threads") = 1,
             R"(Antialiased bilinear resize: the very bytes of Pillow's Image.resize((width, height), BILINEAR).

image: uint8 (height, width, 3); a view with any distance between rows is read in place, other views are copied.
Returns a new uint8 array (height, width, 3). Raises TypeError and ValueError for any other argument.)");
  module.def("preprocess", &preprocess_image, py::arg("image"), py::arg("resized_height"), py::arg("resized_width"),
             py::arg("mean"), py::arg("out"), py::arg("layout") = "NCHW", py::arg("threads") = 1,
             R"(Resizes `image` as resize() does, subtracts `mean` and writes it into the network's input.

image: uint8 (height, width, 3). mean: three floats, of R, G and B.
out: float32, C-contiguous, writeable, (1, 3, H, W) or with layout "NHWC" (1, H, W, 3). All of it is written: the picture
in the top left corner, zeros elsewhere. Raises ValueError where the resized picture does not fit into it.)");
  module.def("preprocess_to_bytes", &preprocess_to_bytes, py::arg("image"), py::arg("resized_height"),
             py::arg("resized_width"), py::arg("mean"), py::arg("out"), py::arg("scale"), py::arg("zero_point"),
             py::arg("threads") = 1,
             R"(As preprocess(), for a network whose first convolution reads bytes.

out: uint8, C-contiguous, writeable, (1, H, W, 3). A value x that preprocess() would write is here round(x / scale) +
zero_point, half to even, saturated to 0..255.)");
}

}  // namespace densepose
