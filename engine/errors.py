"""Every failure that a user can cause has a class of its own here, and a message that names the thing and the way out.

Wrong arguments (a type, a range) are plain ``TypeError`` and ``ValueError``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

#: What a ValueError says of an engine that was closed.
CLOSED = "this engine is closed; load it again"


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
        what = f"'densepose-engine[{extra}]'" if extra else module.split(".")[0]
        raise BackendUnavailable(
            f"{purpose} needs {module}, which cannot be imported ({error}); pip install {what}"
        ) from error
