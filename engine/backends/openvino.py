"""OpenVINO on the CPU: one graph, with our ops as an extension library that was built against the same release."""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..engine_file import EngineFile
from ..errors import BackendUnavailable, BuildError, EngineFileError, InferenceError
from . import LayerTime
from .openvino_layers import read_layers

_EXTENSION = Path(__file__).resolve().parent.parent / "libdensepose_openvino.so"
# OpenVINO's own default on CPUs with bf16 units is bf16, so what is called fp32 must say so.
# In an INT8 engine that is the precision of what was kept float.
_PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
PRECISIONS = tuple(_PRECISION_HINTS)
LAYOUT = "NHWC"  # a Transpose around a custom node costs nothing here, and planar features would
TARGET = "openvino"
FUSES_ENDS = True


def _openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise BackendUnavailable(
            f"this needs the OpenVINO runtime, which cannot be imported ({error}); pip install openvino"
        ) from error


def versions() -> dict[str, str]:
    """Versions of what this backend runs with."""
    return {"openvino": _release(_openvino())}


def _release(ov: Any) -> str:
    # "2026.4.1-22982-9db6e676adb-releases/2026/4" -> "2026.4.1"
    return str(ov.get_version()).split("-")[0]


def make_core() -> Any:
    """An ``openvino.Core`` that knows our ops."""
    ov = _openvino()
    if not _EXTENSION.is_file():
        raise BackendUnavailable(
            f"{_EXTENSION.name} was not built; reinstall densepose-engine with the openvino package present"
        )
    core = ov.Core()
    try:
        core.add_extension(str(_EXTENSION))
    except RuntimeError as error:
        raise BackendUnavailable(
            f"{_EXTENSION.name} does not load in OpenVINO {_release(ov)}, it was built against another release: "
            f"reinstall densepose-engine ({error})"
        ) from error
    return core


def build(
    graph: bytes, precision: str, load: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, str], list[dict[str, Any]]]:
    """Turn an ONNX graph (serialised; with Q/DQ in it for "int8") into this backend's payload.

    ``load``: the picture's size ("image") and boxes per head that MACs are counted for. Returns the payload's members,
    the versions it was built with, and what every layer runs as on this machine. Raises ``BuildError`` with OpenVINO's
    own error chained.
    """
    if precision not in _PRECISION_HINTS:
        raise BuildError(f"the openvino backend builds {', '.join(PRECISIONS)}, not {precision}")
    ov = _openvino()
    core = make_core()
    try:
        model = core.read_model(graph)
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": _PRECISION_HINTS[precision]})
        rows = {name: value for name, value in load.items() if name != "image"}
        layers = [layer.to_dict() for layer in read_layers(model, compiled, load["image"], rows)]
        with tempfile.TemporaryDirectory() as folder:
            xml = Path(folder) / "model.xml"
            ov.serialize(model, str(xml))
            payload = {"model.xml": xml.read_bytes(), "model.bin": xml.with_suffix(".bin").read_bytes()}
    except RuntimeError as error:
        raise BuildError(f"OpenVINO {_release(ov)} cannot compile this graph: {_first_lines(error)}") from error
    return payload, versions(), layers


def load(
    engine: EngineFile,
    *,
    device: str | None = None,
    num_threads: int | None = None,
    num_requests: int = 4,
    num_streams: int = 1,
    cache_dir: Path | None = None,
    profile: bool = False,
) -> OpenvinoSession:
    """Compile an engine's graph for this machine (see ``Engine.load`` for the options)."""
    if (device or "CPU").upper() != "CPU":
        raise BackendUnavailable(
            f"device {device!r}: the openvino backend runs on the CPU only, because the custom nodes have CPU kernels"
        )
    ov = _openvino()
    built, here = engine.runtime.get("openvino"), _release(ov)
    if built != here:
        raise EngineFileError(
            f"this engine was built with OpenVINO {built}, installed is {here}; build it again, "
            f"or pip install openvino=={built}"
        )
    if "model.xml" not in engine.payload or engine.precision not in _PRECISION_HINTS:
        raise EngineFileError("this engine says it is for openvino, but its payload is not; build it again")
    core = make_core()
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": str(num_streams),
        "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[engine.precision],
    }
    if num_threads is not None:
        config["INFERENCE_NUM_THREADS"] = num_threads
    if profile:
        config["PERF_COUNT"] = True
    try:
        model = core.read_model(engine.payload["model.xml"], engine.payload.get("model.bin", b""))
        compiled = _compile(core, model, config, cache_dir)
        return OpenvinoSession(compiled, num_requests)
    except RuntimeError as error:
        raise EngineFileError(f"OpenVINO {here} cannot load this engine: {_first_lines(error)}") from error


def _compile(core: Any, model: Any, config: dict[str, Any], cache_dir: Path | None) -> Any:
    if cache_dir is not None and _writable(cache_dir):
        # A cache is a convenience: a full disk or a damaged entry costs time, not the engine.
        with contextlib.suppress(RuntimeError):
            return core.compile_model(model, "CPU", {**config, "CACHE_DIR": str(cache_dir)})
    return core.compile_model(model, "CPU", config)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _first_lines(error: Exception, most: int = 6) -> str:
    return " / ".join(line.strip() for line in str(error).splitlines()[:most] if line.strip())


class OpenvinoRequest:
    """See ``backends.Request``."""

    def __init__(self, request: Any, names: list[str], layout: str) -> None:
        self._request = request
        self._names = names
        self._layout = layout
        # Asked for once: each question costs as much as a small layer.
        self._settings = {
            name: request.get_tensor(port).data
            for port in request.model_inputs
            for name in port.get_names()
            if name != "image"
        }

    def image(self, height: int, width: int) -> np.ndarray:
        tensor = self._request.get_tensor("image")
        shape = (1, height, width, 3) if self._layout == "NHWC" else (1, 3, height, width)
        if tuple(tensor.shape) != shape:
            tensor.shape = shape
        return tensor.data

    def run(self, inputs: Mapping[str, float | Sequence[int]]) -> dict[str, np.ndarray]:
        for name, value in inputs.items():
            self._settings[name][:] = value
        try:
            self._request.infer(share_outputs=True)  # or else it copies all of them
            return {name: self._request.get_tensor(name).data for name in self._names}
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO failed on this picture: {_first_lines(error)}") from error

    def profile(self) -> list[LayerTime]:
        return [
            LayerTime(layer.node_name, layer.node_type, layer.exec_type, 1e3 * layer.real_time.total_seconds())
            for layer in self._request.profiling_info
        ]


class OpenvinoSession:
    """See ``backends.Session``."""

    def __init__(self, compiled: Any, num_requests: int) -> None:
        self._compiled = compiled
        self.image_layout = "NHWC" if compiled.input("image").get_element_type() == _openvino().Type.u8 else "NCHW"
        names = [port.get_any_name() for port in compiled.outputs]
        self._free: queue.LifoQueue[OpenvinoRequest] = queue.LifoQueue()
        for _ in range(num_requests):
            self._free.put(OpenvinoRequest(compiled.create_infer_request(), names, self.image_layout))

    @contextlib.contextmanager
    def request(self) -> Iterator[OpenvinoRequest]:
        request = self._free.get()
        try:
            yield request
        finally:
            self._free.put(request)

    @property
    def compiled(self) -> Any:
        """The ``openvino.CompiledModel``, for who wants to look inside."""
        return self._compiled

    def close(self) -> None:
        self._compiled = None
        while not self._free.empty():
            self._free.get_nowait()
