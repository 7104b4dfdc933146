"""Making the peers of an engine: the same network, from the same checkpoint or graph, in another runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..decoders import DetectionResult
from ..engine import Engine
from ..errors import require
from ..model.description import ModelDescription
from ..model.engine_file import EngineFile, read_manifest
from .machine import usable_cores

_READS_GRAPHS = (("onnx", "build"), ("onnx_ir", "build"))
_READS_CHECKPOINTS = (("torch", "export"), ("yaml", "export"))
_EXPORTS = (*_READS_CHECKPOINTS, *_READS_GRAPHS, ("onnxscript", "export"))
#: What each peer needs beside what an engine needs: a module, and the extra that brings it.
_NEEDED: Mapping[str, tuple[tuple[str, str | None], ...]] = {
    "torch": _READS_CHECKPOINTS,
    "onnxruntime": (("onnxruntime", None), *_READS_GRAPHS),
    "openvino-stock": _READS_GRAPHS,
}
_OURS = "our preprocessing and chart decoding around it"


@dataclass(frozen=True)
class Sources:
    """What peers are made of: the engine that they are compared with, and what that was made of."""

    engine: Path
    config: Path | None = None
    weights: Path | None = None
    graph: Path | None = None
    calib: Path | None = None
    threads: int | None = None

    def check(self, peer: str) -> None:
        """Refuse before the work what cannot be made: ValueError, and BackendUnavailable where a package is missing."""
        if (self.config is None) != (self.weights is None):
            raise ValueError("--config and --weights go together")
        if self.config is None and (peer == "torch" or self.graph is None):
            rest = "" if peer == "torch" else ", or --graph"
            raise ValueError(f"--vs {peer} needs the checkpoint: --config and --weights{rest}")
        exported = _EXPORTS if peer != "torch" and self.graph is None else ()
        for module, extra in dict.fromkeys((*_NEEDED[peer], *exported)):
            require(module, extra, f"--vs {peer}")

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The engine's."""
        return read_manifest(self.engine).model.input.size

    @property
    def thread_count(self) -> int:
        """The engine's, all cores if it was not said."""
        return self.threads or usable_cores()

    @contextmanager
    def graph_file(self) -> Iterator[Path]:
        """The graph, exported if it was not given."""
        if self.graph is not None:
            yield self.graph
            return
        from ..export import export_checkpoint

        assert self.config is not None and self.weights is not None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            export_checkpoint(self.config, self.weights, path, self.input_size)
            yield path


class Peer:
    """An engine over another runtime or another graph."""

    def __init__(self, engine: Engine, note: str) -> None:
        self._engine = engine
        self.precision = engine.precision
        self.note = note

    def infer(self, image: np.ndarray, **settings: Any) -> DetectionResult:
        return self._engine.infer(image, **settings)

    def close(self) -> None:
        self._engine.close()


def standard_graph(sources: Sources) -> tuple[bytes, ModelDescription, str]:
    """The graph in standard operators (with Q/DQ if the engine is int8 and there is a table), metadata, precision."""
    ir = require("onnx_ir", "build", "this peer")
    from ..compile.build import Int8Options, quantize_graph
    from ..export.graph.standard import expand_custom_nodes
    from ..model.graph_file import read_graph

    precision = read_manifest(sources.engine).precision
    with sources.graph_file() as path:
        data, model, description = read_graph(path)
    if precision == "int8" and sources.calib is None:
        precision = "fp32"
    if precision == "int8":
        assert sources.calib is not None
        quantize_graph(model, data, "openvino", Int8Options(sources.calib))
    expand_custom_nodes(model)
    return ir.to_proto(model).SerializeToString(), description, precision


def make_openvino_stock(sources: Sources) -> Peer:
    """OpenVINO with its own operators alone."""
    from ..backends import openvino
    from ..compile.build import nominal_load

    graph, description, precision = standard_graph(sources)
    payload, versions, _ = openvino.build(graph, precision, nominal_load(description))
    file = EngineFile("openvino", precision, description, versions, payload)
    session = openvino.load(file, num_threads=sources.threads, num_requests=1)
    note = f"OpenVINO {versions['openvino']} with its own operators, {precision}; {_OURS}"
    return Peer(Engine(session, file, sources.threads), note)


def make_onnxruntime(sources: Sources) -> Peer:
    """ONNX Runtime on the CPU."""
    from .onnxruntime_session import OnnxruntimeSession

    graph, description, precision = standard_graph(sources)
    # There is no bf16 in its CPU kernels.
    precision = "int8" if precision == "int8" else "fp32"
    session = OnnxruntimeSession(graph, sources.thread_count)
    file = EngineFile("onnxruntime", precision, description, {"onnxruntime": session.version}, {})
    note = f"ONNX Runtime {session.version}, {precision}, {sources.thread_count} threads; {_OURS}"
    return Peer(Engine(session, file, sources.threads), note)


def make_torch(sources: Sources) -> Any:
    """Eager torch, as a user of detectron2 has it."""
    require("torch", "export", "this peer")
    from .torch_pipeline import TorchPipeline

    assert sources.config is not None and sources.weights is not None
    return TorchPipeline.from_checkpoint(sources.config, sources.weights, sources.input_size, sources.thread_count)


MAKERS: Mapping[str, Callable[[Sources], Any]] = {
    "torch": make_torch,
    "onnxruntime": make_onnxruntime,
    "openvino-stock": make_openvino_stock,
}
