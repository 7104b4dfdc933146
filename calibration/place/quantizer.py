"""Placing Q/DQ in one graph again and again: what does not depend on who stays float is computed once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import onnx
import onnx_ir as ir

from ..table import CalibrationTable
from .observers import Method, range_of
from .quantize import Placement, Target, quantize
from .ranges import layer_inputs


class Quantizer:
    """A graph, its calibration table, and how to quantize it for ``target``.

    Args:
        graph: the bytes of the ONNX file that ``table`` was made with.
        observer: how a histogram becomes a range.
        adapt_weights: round weights with what is known of each layer's input, and correct biases; "biases" does only
            the latter, with weights rounded to the nearest.

    Raises:
        CalibrationError: the table is of another graph.
    """

    def __init__(
        self,
        graph: bytes,
        table: CalibrationTable,
        target: Target,
        observer: Method = "mse",
        adapt_weights: bool | Literal["biases"] = True,
    ) -> None:
        table.check_graph(graph)
        self.graph, self.table, self.target = graph, table, target
        self.observer, self.adapt_weights = observer, adapt_weights
        self.ranges: Mapping[str, tuple[float, float]] = _Ranges(table, observer, target)

    def model(self) -> ir.Model:
        """The float graph, a new copy."""
        return ir.from_proto(onnx.load_model_from_string(self.graph))

    def __call__(self, keep_float: Collection[str] = ()) -> tuple[ir.Model, Placement]:
        """A quantized copy, and what was decided. Errors as ``quantize.quantize``."""
        model = self.model()
        return model, self.place(model, keep_float)

    def place(self, model: ir.Model, keep_float: Collection[str] = ()) -> Placement:
        """Quantize ``model``, which is the graph, in place."""
        inputs = layer_inputs(model, self.table) if self.adapt_weights else None
        if inputs is not None and self.adapt_weights == "biases":
            inputs = {name: replace(one, variance=None) for name, one in inputs.items()}
        return quantize(model, self.ranges, self.target, keep_float=keep_float, inputs=inputs)


class _Ranges(Mapping[str, tuple[float, float]]):
    """Ranges by tensor, found when they are asked for: the costly observers take 30 ms for each."""

    def __init__(self, table: CalibrationTable, observer: Method, target: Target) -> None:
        self._table, self._observer, self._symmetric = table, observer, not target.unsigned
        self._found: dict[str, tuple[float, float]] = {}

    def __getitem__(self, name: str) -> tuple[float, float]:
        if name not in self._found:
            self._found[name] = range_of(self._table.tensors[name], self._observer, symmetric=self._symmetric)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.tensors)

    def __len__(self) -> int:
        return len(self._table.tensors)
