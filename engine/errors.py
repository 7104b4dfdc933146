"""Every failure that a user can cause has a class of its own here, and a message that names the thing and the way out.

Wrong arguments (a type, a range) are plain ``TypeError`` and ``ValueError``.
"""

from __future__ import annotations

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


class GraphFileError(BuildError):
    """A file is no ONNX graph that ``export`` wrote."""


class EngineFileError(DensePoseEngineError):
    """An engine file is truncated, damaged, of another version, or not an engine at all."""


class BackendUnavailable(DensePoseEngineError):
    """The runtime that an engine needs is not installed, or cannot do what is asked."""


class InferenceError(DensePoseEngineError):
    """The runtime failed while running a picture; its own exception is chained."""
