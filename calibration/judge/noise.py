"""What quantization does to the tensors of a graph, measured on pictures: signal and noise, float against Q/DQ.

Both graphs see the same boxes, those that the float graph finds: with boxes of its own, each head's maps would be of
other places, and what is measured would be the boxes' differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ...backends.openvino import make_core
from ...backends.openvino.device import CPU
from ...errors import BuildError, InferenceError
from ..collect.taps import TappedGraph
from ..place.quantize import Placement


@dataclass(frozen=True)
class Noise:
    """Sums of squares over all values that were seen: of the float tensor, and of the differences from it."""

    signal: float
    noise: float

    @property
    def sqnr_db(self) -> float:
        """Signal-to-quantization-noise ratio; ``inf`` where nothing was lost, NaN where nothing was seen."""
        if self.noise == 0:
            return math.inf if self.signal else math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


class NoiseMeter:
    """Runs pictures (uint8 RGB arrays ``[height, width, 3]``) through the float graph and quantized copies of it."""

    def __init__(self, graph: bytes, name: str, num_threads: int | None = None) -> None:
        """Errors as ``TappedGraph``."""
        self._float = TappedGraph(graph, name, num_threads)
        self._threads = num_threads
        self.results = self._float.results

    def compare(self, model: ir.Model, names: Mapping[str, str], pictures: Iterable[np.ndarray]) -> dict[str, Noise]:
        """The noise of some tensors.

        Args:
            model: a quantized copy of the graph.
            names: of tensors in the float graph -> what the same tensor is called in ``model``.

        Raises:
            BuildError, InferenceError: OpenVINO failed.
        """
        cuts = ["image", *self._float.boxes]
        compiled = self._compile(model, cuts, list(dict.fromkeys(names.values())))
        request = compiled.create_infer_request()
        inputs = {port.get_any_name() for port in compiled.inputs}
        signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        for picture in pictures:
            self._float.run(picture)
            try:
                request.infer({name: self._float.values(name) for name in cuts if name in inputs}, share_inputs=False)
            except RuntimeError as error:
                raise InferenceError(f"OpenVINO failed on the quantized graph: {error}") from error
            for name, quantized in names.items():
                exact = self._float.values(name).astype(np.float64)
                signal[name] += float((exact**2).sum())
                noise[name] += float(((request.get_tensor(quantized).data - exact) ** 2).sum())
        return {name: Noise(signal[name], noise[name]) for name in names}

    def _compile(self, model: ir.Model, cuts: list[str], outputs: list[str]) -> Any:
        piece = ir.convenience.extract(model.graph, cuts, outputs)
        for value in piece.inputs:
            if value.name in self._float.boxes:
                example = self._float.values(str(value.name))  # float32 [n, 4], or a count, int32 [1]
                value.dtype = ir.DataType.from_numpy(example.dtype)
                value.shape = ir.Shape(["n", 4] if example.ndim == 2 else [1])
        core = make_core()
        config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        if self._threads is not None:
            config["INFERENCE_NUM_THREADS"] = str(self._threads)
        try:
            serialized = ir.to_proto(ir.Model(piece, ir_version=model.ir_version)).SerializeToString()
            return core.compile_model(core.read_model(serialized), CPU.name, config)
        except RuntimeError as error:
            raise BuildError(f"OpenVINO cannot compile the quantized graph: {error}") from error


def quantized_names(model: ir.Model, placement: Placement) -> dict[str, str]:
    """By the name of each tensor that has a scale, what its dequantized copy in ``model`` is called."""
    values = {value.name for node in model.graph for value in node.outputs}
    return {name: f"{name}/dequantized" for name in placement.scales if f"{name}/dequantized" in values}
