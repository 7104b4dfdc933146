"""OpenVINO on the CPU: one graph, with our ops as an extension library that was built against the same release."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

from ... import _core
from ...errors import BackendUnavailable, BuildError, EngineFileError
from ...model.compiled import Layer, NominalLoad
from ...model.engine_file import EngineFile
from ..forked import RuntimeOfOneProcess
from .compile import Compiler, identity_of
from .compiled_cache import CompiledCache, open_cache
from .layers import read_layers
from .sections import Sections, cut
from .session import OpenvinoSession, first_lines

_EXTENSION = Path(__file__).resolve().parents[2] / "libdensepose_openvino.so"
# OpenVINO's own default on CPUs with bf16 units is bf16, so what is called fp32 must say so.
# In an INT8 engine that is the precision of what was kept float.
_PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
PRECISIONS = tuple(_PRECISION_HINTS)
# The compiler of elementwise subgraphs takes a sum away from the INT8 convolution that could have added it in its
# accumulator, and a float map is written and read again for it.
_INT8_TRUNK = {"SNIPPETS_MODE": "DISABLE"}
LAYOUT = "NHWC"  # a Transpose around a custom node costs nothing here, and planar features would
TARGET = "openvino"
FUSES_ENDS = True
_process = RuntimeOfOneProcess("OpenVINO")


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
    _process.begin()
    core = ov.Core()
    try:
        core.add_extension(str(_EXTENSION))
        _core.borrow_threads(str(_EXTENSION))
    except RuntimeError as error:
        raise BackendUnavailable(
            f"{_EXTENSION.name} does not load in OpenVINO {_release(ov)}, it was built against another release: "
            f"reinstall densepose-engine ({error})"
        ) from error
    return core


def build(graph: bytes, precision: str, load: NominalLoad) -> tuple[dict[str, bytes], dict[str, str], list[Layer]]:
    """Turn an ONNX graph (serialised; with Q/DQ in it for "int8") into this backend's payload.

    ``load``: the picture's size and boxes per head that MACs are counted for. Returns the payload's members, the
    versions it was built with, and what every layer runs as on this machine. Raises ``BuildError`` with OpenVINO's own
    error chained.
    """
    if precision not in _PRECISION_HINTS:
        raise BuildError(f"the openvino backend builds {', '.join(PRECISIONS)}, not {precision}")
    ov = _openvino()
    core = make_core()
    try:
        with _core.PlainNumbers(), tempfile.TemporaryDirectory() as folder:
            model = core.read_model(graph)
            compiled = _compile(Compiler(core), model, precision, {})
            models = compiled.models() if isinstance(compiled, Sections) else [compiled]
            layers = read_layers(model, models, load.image, load.rows)
            xml = Path(folder) / "model.xml"
            ov.serialize(model, str(xml))
            payload = {"model.xml": xml.read_bytes(), "model.bin": xml.with_suffix(".bin").read_bytes()}
    except RuntimeError as error:
        raise BuildError(f"OpenVINO {_release(ov)} cannot compile this graph: {first_lines(error)}") from error
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
    }
    if num_threads is not None:
        config["INFERENCE_NUM_THREADS"] = num_threads
    if profile:
        config["PERF_COUNT"] = True
    try:
        with _core.PlainNumbers(), open_cache(cache_dir) as cache:
            model = core.read_model(engine.payload["model.xml"], engine.payload.get("model.bin", b""))
            compiled = _compile(_compiler(core, cache, engine), model, engine.precision, config)
            return OpenvinoSession(compiled, num_requests)
    except RuntimeError as error:
        raise EngineFileError(f"OpenVINO {here} cannot load this engine: {first_lines(error)}") from error


def _compiler(core: Any, cache: CompiledCache | None, engine: EngineFile) -> Compiler:
    if cache is None:
        return Compiler(core)
    try:
        return Compiler(core, cache, identity_of(core, engine.members, str(_openvino().get_version()), _EXTENSION))
    except OSError:  # our own files are somewhere where they cannot be read, in an archive, say
        return Compiler(core)


def _compile(compiler: Compiler, model: Any, precision: str, config: dict[str, Any]) -> Any:
    """``Sections``, if it is our graph; else the whole."""
    config = {**config, "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[precision]}
    sections = cut(model)
    if sections is None:
        return compiler.compile(model, config, "whole")
    in_trunk = {**config, **_INT8_TRUNK} if precision == "int8" else config
    return sections.with_models(
        compiler.compile(
            section, in_trunk if section is sections.trunk else config, f"{number} {section.friendly_name}"
        )
        for number, section in enumerate(sections.models())
    )
