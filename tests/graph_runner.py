"""Runs a piece of an exported graph between named tensors, in OpenVINO with our ops, in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from densepose_engine.backends.openvino import make_core


def run_cut(graph: Path | ir.Model, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """The tensors called ``outputs``, computed from ``feeds`` alone.

    Feeds may be inputs of the graph or any tensor inside it, which is then not computed. Outputs have their own names.
    """
    model = graph if isinstance(graph, ir.Model) else ir.load(graph)
    piece = ir.convenience.extract(model.graph, list(feeds), list(outputs))
    for value in piece.inputs:
        value.dtype = ir.DataType.from_numpy(feeds[value.name].dtype)
        value.shape = ir.Shape(feeds[value.name].shape)
    proto = ir.to_proto(ir.Model(piece, ir_version=10))
    core = make_core()
    compiled = core.compile_model(
        core.read_model(proto.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    results = compiled({name: value for name, value in feeds.items() if name in {v.name for v in piece.inputs}})
    return {name: np.array(results[name]) for name in outputs}
