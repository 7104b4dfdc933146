"""What a vendor's runtime is to the rest of the package: a device described as data, and three functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ..errors import BuildError
from ..model.compiled import Layer


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
        """The input tensor, to be filled in place: float32, or uint8 where the manifest has a quantization for it."""

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


@dataclass(frozen=True)
class Device:
    """What a backend's graphs run on, and what it wants of them.

    ``name``: what the vendor calls it, and the default of ``Engine.load``; ``precisions``: what can be built for it;
    ``layout``: how it wants the custom nodes' feature maps; ``quantization``: whose rules for Q/DQ
    (``calibration.place.quantize.TARGETS``); ``fuses_ends``: whether graphs take bytes and give all maps in one tensor;
    ``host_memory``: whether it works on the caller's memory, so that nothing is copied; ``times_layers``: whether it
    can tell how long each layer took.
    """

    name: str
    precisions: tuple[str, ...]
    layout: Literal["NCHW", "NHWC"]
    quantization: str
    fuses_ends: bool
    host_memory: bool
    times_layers: bool


@dataclass(frozen=True)
class Backend:
    """A vendor's runtime.

    ``build(graph: bytes, precision: str, load: NominalLoad, **options)``: from an ONNX graph to the payload's members,
    the versions it was built with, and what every layer runs as; raises ``BuildError``. ``load(engine: EngineFile,
    **options)``: a session (see ``Engine.load`` for the options); raises ``BackendUnavailable`` or ``EngineFileError``.
    ``versions()``: of what it runs with.
    """

    name: str
    device: Device
    build: Callable[..., tuple[dict[str, bytes], dict[str, str], list[Layer]]]
    load: Callable[..., Session]
    versions: Callable[[], dict[str, str]]

    def check_precision(self, precision: str) -> None:
        """Raises ``BuildError`` for one that cannot be built."""
        if precision not in self.device.precisions:
            raise BuildError(f"the {self.name} backend builds {', '.join(self.device.precisions)}, not {precision}")

    def options(self) -> set[str]:
        """Names of what ``build`` takes beside the graph."""
        return set(inspect.signature(self.build).parameters)
