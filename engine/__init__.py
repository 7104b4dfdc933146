"""DensePose R-CNN as a fast inference engine: ``Engine.load("model.engine").infer(image)``.

Importing this package imports numpy and the compiled core, and no deep-learning runtime: the vendor's runtime is
imported when an engine that needs it is loaded, torch and onnx when a checkpoint is exported.
"""

from importlib.metadata import PackageNotFoundError, version

from .engine import Engine
from .errors import (
    BackendUnavailable,
    BuildError,
    CalibrationError,
    CheckpointError,
    ConfigError,
    DensePoseEngineError,
    EngineFileError,
    ExportError,
    GraphFileError,
    ImageError,
    InferenceError,
)
from .result import DensePoseResult, DetectionResult, VertexResult

try:
    __version__ = version("densepose-engine")
except PackageNotFoundError:  # a source tree on sys.path that was never installed
    __version__ = "0+unknown"

__all__ = [
    "BackendUnavailable",
    "BuildError",
    "CalibrationError",
    "CheckpointError",
    "ConfigError",
    "DensePoseEngineError",
    "DensePoseResult",
    "DetectionResult",
    "Engine",
    "EngineFileError",
    "ExportError",
    "GraphFileError",
    "ImageError",
    "InferenceError",
    "VertexResult",
    "__version__",
]
