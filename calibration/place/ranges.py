"""From a calibration table to what quantization needs: a range per tensor, and what is known of each layer's input."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...errors import CalibrationError
from ..histogram import TensorStatistics
from ..table import CalibrationTable
from .observers import Method, range_of
from .points import layers, source
from .quantize import Target
from .weights import LayerInput, input_channels


def ranges(table: CalibrationTable, observer: Method, target: Target) -> dict[str, tuple[float, float]]:
    """(low, high) of every tensor in the table, as ``observer`` sees it for ``target``."""
    return {
        name: range_of(statistics, observer, symmetric=not target.unsigned)
        for name, statistics in table.tensors.items()
    }


def layer_inputs(model: ir.Model, table: CalibrationTable) -> dict[str, LayerInput]:
    """Mean of each input channel and the variance around these means, by layer name.

    Raises:
        CalibrationError: the table lacks a layer or what it reads, or has means that these values cannot have.
    """
    result = {}
    for node in layers(model):
        assert node.inputs[0] is not None
        name, tensor = str(node.name), str(source(node.inputs[0]).name)
        for key, kind, entries in ((name, "layer", table.layers), (tensor, "tensor", table.tensors)):
            if key not in entries:
                raise CalibrationError(f"the calibration table lacks the {kind} {key}; calibrate this graph again")
        mean, statistics = table.layers[name].input_mean, table.tensors[tensor]
        _check_mean(name, mean, input_channels(node), statistics)
        square = _mean_square(statistics)
        # Where all is constant, the variance must still not be nothing: rounding errors count for something.
        result[name] = LayerInput(mean, max(square - float((mean**2).mean()), 1e-3 * square, 1e-12))
    return result


def _check_mean(name: str, mean: np.ndarray, channels: int, statistics: TensorStatistics) -> None:
    if len(mean) != channels:
        raise CalibrationError(
            f"the calibration table has {len(mean)} means for the layer {name}, which reads {channels} channels; "
            "calibrate this graph again"
        )
    # Each is a mean of some of the tensor's values; only rounding can bring it out of their range.
    slack = 1e-3 * max(abs(statistics.minimum), abs(statistics.maximum))
    if mean.min() < statistics.minimum - slack or mean.max() > statistics.maximum + slack:
        raise CalibrationError(
            f"the calibration table says that the layer {name} reads means from {mean.min():g} to {mean.max():g}, of "
            f"values from {statistics.minimum:g} to {statistics.maximum:g}; calibrate this graph again"
        )


def _mean_square(statistics: TensorStatistics) -> float:
    middles = (statistics.edges[:-1] + statistics.edges[1:]) / 2
    return float((statistics.counts * middles**2).sum() / max(statistics.counts.sum(), 1))
