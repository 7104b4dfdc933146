"""Every failure that a user can cause has a class of its own here, and a message that names the thing and the way out.

Wrong arguments (a type, a range) are plain ``TypeError`` and ``ValueError``.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from types import ModuleType

#: What a ValueError says of an engine that was closed.
CLOSED = "this engine is closed; load it again"

#: What pip installs packages by, those of every installation and optional ones; by their names in Python.
INSTALLED_BY = {
    "PIL": "Pillow",
    "av": "'densepose-engine[video]'",
    "numpy": "numpy",
    "onnx": "'densepose-engine[build]'",
    "onnx_ir": "'densepose-engine[build]'",
    "onnxruntime": "onnxruntime",
    "onnxscript": "'densepose-engine[export]'",
    "openvino": "openvino",
    "pycocotools": "'densepose-engine[evaluate]'",
    "pycuda": "'densepose-engine[tensorrt]'",
    "scipy": "scipy",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "torch": "'densepose-engine[export]'",
    "trimesh": "'densepose-engine[mesh]'",
    "yaml": "'densepose-engine[export]'",
}


class DensePoseEngineError(Exception):
    """Base of all errors that this package raises on purpose."""


class CheckpointError(DensePoseEngineError):
    """A checkpoint cannot be read, or its weights do not fit the model that the configuration describes."""


class ConfigError(DensePoseEngineError):
    """A configuration key has a value that cannot be exported; ``key`` is its dotted name, or None."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class ExportError(DensePoseEngineError):
    """The model cannot be turned into a graph."""


class ImageError(DensePoseEngineError):
    """A picture cannot be read, or is of a kind that cannot be used."""


class CalibrationError(DensePoseEngineError):
    """Calibration cannot give a usable table, or a table does not belong to the graph."""


class BuildError(DensePoseEngineError):
    """The vendor's compiler refused the graph; its own exception is chained."""


class GraphFileError(BuildError):
    """A file is no ONNX graph that ``export`` wrote."""


class EngineFileError(DensePoseEngineError):
    """An engine file is truncated, damaged, of another version, or not an engine at all."""


class BackendUnavailable(DensePoseEngineError):
    """The runtime that an engine needs is not installed, or cannot do what is asked."""


class InferenceError(DensePoseEngineError):
    """The runtime failed while running a picture; its own exception is chained."""


def require(module: str, extra: str | None = None, purpose: str = "this") -> ModuleType:
    """An optional package, imported: ``onnx = require("onnx", "build", "building")``.

    Args:
        module: its name in Python, with dots where it is inside a package.
        extra: of this package, which installs it; None for a package that pip knows by the module's name.
        purpose: what needs it, as the beginning of a sentence.

    Raises:
        BackendUnavailable: it is missing or broken; the message says what to type.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a library that it wraps does not load
        package = module.split(".")[0]
        what = f"'densepose-engine[{extra}]'" if extra else INSTALLED_BY.get(package, package)
        raise BackendUnavailable(
            f"{purpose} needs {module}, which cannot be imported ({error}); pip install {what}"
        ) from error


# What OpenVINO, oneDNN, TBB and the C++ library say; a thread's stack is memory, too.
_MEMORY_MESSAGES = (
    *("bad_alloc", "can't alloc", "Failed to allocate", "annot allocate memory", "Unable to allocate"),
    *("out of memory", "Resource temporarily unavailable"),
)


def lacks_memory(error: BaseException) -> bool:
    """Whether it was for want of memory, which vendors say in their messages alone."""
    return isinstance(error, MemoryError) or any(message in str(error) for message in _MEMORY_MESSAGES)


def missing_package(error: BaseException) -> BackendUnavailable | None:
    """What a user should read where an import failed that nobody guarded with ``require``; None for any other error.

    A package fails in many ways: it is not there, one that it needs is not there, a library that it wraps does not
    load, or it was built for another release and raises whatever it likes. All of these end while its module is being
    executed, or as an ImportError.
    """
    if isinstance(error, DensePoseEngineError):
        return None
    importing = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if package in INSTALLED_BY and frame.f_code.co_name == "<module>":
            importing = package
            break
    if importing is None:
        if not isinstance(error, ImportError):
            return None
        importing = (error.name or "").split(".")[0]
        if importing in ("", "densepose_engine") or importing in sys.stdlib_module_names:
            return None
    how = INSTALLED_BY.get(importing, importing)
    return BackendUnavailable(f"this needs {importing}, which cannot be imported ({error}); pip install {how}")
