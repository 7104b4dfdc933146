"""Vendors' runtimes behind one protocol. A backend module is imported when it is used, never before.

A backend module offers::

    build(graph: bytes, precision: str, load: NominalLoad, **options) -> tuple[payload, versions, layers]  # BuildError
    load(engine: EngineFile, **options) -> Session                    # BackendUnavailable, EngineFileError
    versions() -> dict[str, str]
    PRECISIONS: what ``build`` takes; LAYOUT: how it wants the custom nodes' features; TARGET: whose rules for Q/DQ
    FUSES_ENDS: whether the graph takes bytes and gives all maps in one tensor (``compile.layout``)
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import numpy as np

from ..errors import BackendUnavailable

_MODULES = {"openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class LayerTime:
    """What a layer of the compiled graph took in one run; ``type`` and ``kernel`` are the vendor's words."""

    name: str
    type: str
    kernel: str
    milliseconds: float


class Request(Protocol):
    """One picture's way through the graph. Everything it hands out is borrowed until the request is given back."""

    def image(self, height: int, width: int) -> np.ndarray:
        """The input tensor, to be filled in place: float32, or uint8 where the manifest has a quantisation for it."""

    def run(self, inputs: Mapping[str, float | Sequence[int]]) -> dict[str, np.ndarray]:
        """Run the graph on the image and the other inputs; outputs by name. ``InferenceError`` if the runtime fails."""

    def profile(self) -> list[LayerTime]:
        """Times of the last run's layers in order, of a session that was loaded with ``profile=True``."""


class Session(Protocol):
    """A compiled graph, safe for several threads."""

    image_layout: str  # "NCHW" or "NHWC"; bytes are always "NHWC"

    def request(self) -> AbstractContextManager[Request]:
        """A free request; waits for one while as many callers as there are requests hold one."""

    def close(self) -> None: ...


def backend_module(name: str) -> ModuleType:
    """The module of backend ``name``; ``BackendUnavailable`` if there is no such backend or its runtime is missing."""
    if name not in _MODULES:
        raise BackendUnavailable(f"no backend '{name}' in this version; it has: {', '.join(sorted(_MODULES))}")
    return importlib.import_module(f"{__name__}.{_MODULES[name]}")
