"""From a calibration table to what quantisation needs: a range per tensor, and what is known of each layer's input."""

from __future__ import annotations

import onnx_ir as ir

from .histogram import TensorStatistics
from .observers import Method, range_of
from .points import layers, source
from .quantize import Target
from .table import CalibrationTable
from .weights import LayerInput


def ranges(table: CalibrationTable, observer: Method, target: Target) -> dict[str, tuple[float, float]]:
    """(low, high) of every tensor in the table, as ``observer`` sees it for ``target``."""
    return {
        name: range_of(statistics, observer, symmetric=not target.unsigned)
        for name, statistics in table.tensors.items()
    }


def layer_inputs(model: ir.Model, table: CalibrationTable) -> dict[str, LayerInput]:
    """Mean of each input channel and the variance around these means, by layer name."""
    result = {}
    for node in layers(model):
        assert node.inputs[0] is not None
        mean = table.layers[str(node.name)].input_mean
        square = _mean_square(table.tensors[str(source(node.inputs[0]).name)])
        # Where all is constant, the variance must still not be nothing: rounding errors count for something.
        result[str(node.name)] = LayerInput(mean, max(square - float((mean**2).mean()), 1e-3 * square, 1e-12))
    return result


def _mean_square(statistics: TensorStatistics) -> float:
    middles = (statistics.edges[:-1] + statistics.edges[1:]) / 2
    return float((statistics.counts * middles**2).sum() / max(statistics.counts.sum(), 1))
