"""What ``infer`` gives and files hold, at the address that users know; ``decoders`` makes, saves and reads it."""

from .decoders import load_result
from .decoders.base import DetectionResult, patch_size
from .decoders.charts import PARTS, DensePoseResult, Person
from .decoders.embeddings import Surface, VertexPerson, VertexResult

__all__ = [
    "PARTS",
    "DensePoseResult",
    "DetectionResult",
    "Person",
    "Surface",
    "VertexPerson",
    "VertexResult",
    "load_result",
    "patch_size",
]
