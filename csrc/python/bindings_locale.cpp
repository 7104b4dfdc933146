// Numbers with a decimal point for one thread: _core.PlainNumbers.
#include <pybind11/pybind11.h>

#include <stdexcept>

#if defined(__unix__) || defined(__APPLE__)
#include <locale.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif
#endif

namespace py = pybind11;

namespace densepose {
namespace {

#if defined(__unix__) || defined(__APPLE__)
// Vendors write and read numbers as text by functions that follow the locale. setlocale() would change it for the whole
// process, where other threads format dates and numbers meanwhile; this changes it for the calling thread.
class PlainNumbers {
 public:
  PlainNumbers() = default;
  ~PlainNumbers() { leave(); }
  PlainNumbers(const PlainNumbers&) = delete;
  PlainNumbers& operator=(const PlainNumbers&) = delete;

  void enter() {
    // Made once and kept: it is the same for all.
    static const locale_t plain = newlocale(LC_ALL_MASK, "C", static_cast<locale_t>(nullptr));
    if (plain == static_cast<locale_t>(nullptr)) throw std::runtime_error("the system has no locale C");
    before_ = uselocale(plain);
    inside_ = true;
  }
  void leave() {
    if (inside_) uselocale(before_);
    inside_ = false;
  }

 private:
  locale_t before_{};
  bool inside_ = false;
};
#else
class PlainNumbers {
 public:
  void enter() {}
  void leave() {}
};
#endif

}  // namespace

void bind_locale(py::module_& module) {
  py::class_<PlainNumbers>(module, "PlainNumbers",
                           "A context manager: in it the calling thread, and no other, has the locale C.")
      .def(py::init<>())
      .def("__enter__", &PlainNumbers::enter)
      .def("__exit__",
           [](PlainNumbers& self, const py::object&, const py::object&, const py::object&) { self.leave(); });
}

}  // namespace densepose
