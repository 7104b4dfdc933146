"""What quantizing a graph costs, tensor by tensor: numbers, which ``report_page`` makes a page of.

The JSON of ``densepose-engine report`` is ``to_dict`` of a ``Report``. SQNR is in dB; null is infinite or not known.

    version      1; it is raised when a key changes its meaning or goes
    graph        the ONNX file's name
    graph_sha256
    target, observer, adapted_weights, keep_float
    calibration  {"pictures", "sha256", "people", "proposals"}
    measured_on  how many pictures were run through the float and the quantized graph; 0: SQNR is estimated only
    calibrated_on  how many of these the table was made with, by their names: on those, INT8 looks better than it is
    tensors      worst first: {"name", "stage", "dtype", "scale", "zero_point", "low", "high", "minimum", "maximum",
                 "clipped", "estimated_sqnr_db", "measured_sqnr_db", "shared"}; low .. high is what its integers
                 reach, clipped the part of the values outside; the estimate is what this scale alone costs, from the
                 histogram; what is measured has everything before the tensor in it
    sharing      groups with one scale, the costliest first: [{"name", "alone_sqnr_db", "shared_sqnr_db", "cost_db"}]
    results      worst first: {"name", "measured_sqnr_db"} of what the layers give to other nodes and to the user
    layers       worst first: {"name", "stage", "weight_sqnr_db", "precision", "macs", "reason"}; precision, macs and
                 reason as in an engine's manifest, null without an engine
    int8_mac_share  null without an engine
    drift        null, or of the engines' results on the pictures, as in ``evaluate``'s JSON: of its figures,
                 label_agreement counts background too, and flatters
    yardstick    null, or {"part_drift", "ratio", "low", "high"}: 1 - part agreement of FP32 with itself under one grey
                 level of noise, how many times as far INT8 moved, and the 95% interval of that over pictures
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ...model.compiled import Layer as CompiledLayer
from ..histogram import TensorStatistics
from ..place.observers import expected_sqnr_db
from ..place.points import layers as layers_of
from ..place.quantize import Placement, Scale, activation_scale
from ..place.quantizer import Quantizer
from ..place.weights import output_axis
from .noise import NoiseMeter, quantized_names

VERSION = 1


@dataclass(frozen=True)
class TensorCost:
    """See the module's ``tensors``; ``position`` is in the order of execution, ``statistics`` the table's."""

    name: str
    stage: str
    position: int
    scale: Scale
    low: float
    high: float
    clipped: float
    estimated_sqnr_db: float
    measured_sqnr_db: float | None
    shared: bool
    statistics: TensorStatistics = field(repr=False)

    @property
    def sqnr_db(self) -> float:
        """Measured where it was, else estimated."""
        return self.estimated_sqnr_db if self.measured_sqnr_db is None else self.measured_sqnr_db


@dataclass(frozen=True)
class SharingCost:
    """What one tensor pays for its group's scale."""

    name: str
    alone_sqnr_db: float
    shared_sqnr_db: float

    @property
    def cost_db(self) -> float:
        """How much SQNR the sharing takes; 0 where both are infinite."""
        return 0.0 if self.alone_sqnr_db == self.shared_sqnr_db else self.alone_sqnr_db - self.shared_sqnr_db


@dataclass(frozen=True)
class LayerCost:
    """See the module's ``layers``; ``weight_sqnr_db`` is None of a layer that was kept float."""

    name: str
    stage: str
    weight_sqnr_db: float | None
    precision: str | None = None
    macs: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Report:
    """See the module."""

    graph: str
    quantizer: Quantizer
    placement: Placement
    measured_on: int
    calibrated_on: int
    tensors: list[TensorCost]
    sharing: list[list[SharingCost]]
    results: dict[str, float]
    layers: list[LayerCost]


def analyze(
    quantizer: Quantizer,
    name: str,
    *,
    keep_float: Collection[str] = (),
    pictures: Sequence[np.ndarray] = (),
    calibrated_on: int = 0,
    compiled_layers: Sequence[CompiledLayer] = (),
    num_threads: int | None = None,
) -> Report:
    """What quantizing costs.

    Args:
        name: of the graph's file.
        keep_float: layers that stay float.
        pictures: uint8 RGB ``[height, width, 3]`` to measure on; without any, SQNR is estimated only.
        calibrated_on: how many of these the table was made with.
        compiled_layers: an engine's ``layers``, for what really runs in INT8.

    Raises:
        CalibrationError, BuildError, InferenceError, BackendUnavailable: as ``quantize`` and ``NoiseMeter``.
    """
    model, placement = quantizer(keep_float)
    measured: dict[str, float] = {}
    results: dict[str, float] = {}
    if pictures:
        meter = NoiseMeter(quantizer.graph, name, num_threads)
        names = quantized_names(model, placement)
        noises = meter.compare(model, {**names, **{result: result for result in meter.results}}, pictures)
        measured = {tensor: noises[tensor].sqnr_db for tensor in names}
        results = {result: noises[result].sqnr_db for result in meter.results}
        results = dict(sorted(results.items(), key=lambda item: _worst_first(item[1])))
    grouped = {tensor for group in placement.groups for tensor in group}
    nodes = enumerate(quantizer.model().graph)
    producers = {str(value.name): (str(node.name), k) for k, node in nodes for value in node.outputs}
    tensors = []
    for tensor, scale in placement.scales.items():
        statistics = quantizer.table.tensors[tensor]
        low, high = representable(scale)
        tensors.append(
            TensorCost(
                tensor,
                producers.get(tensor, ("input", -1))[0].split("/")[0],
                producers.get(tensor, ("input", -1))[1],
                scale,
                low,
                high,
                _outside(statistics, low, high),
                expected_sqnr_db(statistics, scale.scale, scale.zero_point, scale.dtype),
                measured.get(tensor),
                tensor in grouped,
                statistics,
            )
        )
    tensors.sort(key=lambda one: (_worst_first(one.sqnr_db), one.name))
    sharing = [sharing_costs(quantizer, group, placement.scales[group[0]]) for group in placement.groups]
    sharing.sort(key=lambda group: -max(one.cost_db for one in group))
    compiled = {layer.name: layer for layer in compiled_layers}
    layers = [_layer(one, sqnr, compiled.get(one)) for one, sqnr in weight_sqnr(quantizer.model(), model).items()]
    layers.sort(key=lambda one: math.inf if one.weight_sqnr_db is None else one.weight_sqnr_db)
    return Report(name, quantizer, placement, len(pictures), calibrated_on, tensors, sharing, results, layers)


def _worst_first(sqnr_db: float) -> float:
    """To sort by: what nothing was seen of comes last."""
    return math.inf if math.isnan(sqnr_db) else sqnr_db


def representable(scale: Scale) -> tuple[float, float]:
    """The least and the largest number that a scale's integers stand for."""
    integers = np.iinfo(scale.dtype)
    return (int(integers.min) - scale.zero_point) * scale.scale, (int(integers.max) - scale.zero_point) * scale.scale


def _outside(statistics: TensorStatistics, low: float, high: float) -> float:
    """The part of the values that lie beyond ``low`` and ``high`` by more than a bin."""
    middles = (statistics.edges[:-1] + statistics.edges[1:]) / 2
    outside = statistics.counts[(middles < low - statistics.width) | (middles > high + statistics.width)].sum()
    return float(outside) / max(statistics.count, 1)


def sharing_costs(quantizer: Quantizer, group: Sequence[str], shared: Scale) -> list[SharingCost]:
    """Of each tensor of a group, its SQNR with a scale of its own and with the group's."""
    costs = []
    for name in group:
        statistics = quantizer.table.tensors[name]
        alone = activation_scale(*quantizer.ranges[name], quantizer.target)
        pair = [expected_sqnr_db(statistics, one.scale, one.zero_point, one.dtype) for one in (alone, shared)]
        costs.append(SharingCost(name, *pair))
    return costs


def weight_sqnr(original: ir.Model, quantized: ir.Model) -> dict[str, float | None]:
    """SQNR of each layer's weights, worst first last; None of layers that stayed float."""
    nodes = {str(node.name): node for node in quantized.graph}
    found: dict[str, float | None] = {}
    for node in layers_of(original):
        now = nodes[str(node.name)].inputs[1]
        dequantize = None if now is None else now.producer()
        if dequantize is None:
            found[str(node.name)] = None
            continue
        weight = _array(node.inputs[1]).astype(np.float64)
        scale = _array(dequantize.inputs[1]).astype(np.float64)
        shape = [1] * weight.ndim
        shape[output_axis(node)] = -1
        error = _array(dequantize.inputs[0]) * scale.reshape(shape) - weight
        power, noise = float((weight**2).sum()), float((error**2).sum())
        found[str(node.name)] = math.inf if noise == 0 else 10 * math.log10(power / noise)
    return found


def _array(value: ir.Value | None) -> np.ndarray:
    assert value is not None and value.const_value is not None
    return np.asarray(value.const_value.numpy())


def _layer(name: str, sqnr: float | None, compiled: CompiledLayer | None) -> LayerCost:
    stage = name.split("/")[0]
    if compiled is None:
        return LayerCost(name, stage, sqnr)
    return LayerCost(name, stage, sqnr, compiled.precision, compiled.macs, compiled.reason)


def to_dict(
    report: Report,
    int8_mac_share: float | None,
    drift: Mapping[str, Any] | None,
    yardstick: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """For JSON, as the module describes it."""
    table, quantizer = report.quantizer.table, report.quantizer
    return {
        "version": VERSION,
        "graph": report.graph,
        "graph_sha256": table.graph_sha256,
        "target": quantizer.target.name,
        "observer": quantizer.observer,
        "adapted_weights": quantizer.adapt_weights,
        "keep_float": report.placement.kept_float,
        "calibration": {
            "pictures": table.images.count,
            "sha256": table.images.sha256,
            "people": table.people,
            "proposals": table.proposals,
        },
        "measured_on": report.measured_on,
        "calibrated_on": report.calibrated_on,
        "tensors": [_tensor(one) for one in report.tensors],
        "sharing": [
            [
                {
                    "name": one.name,
                    "alone_sqnr_db": _finite(one.alone_sqnr_db),
                    "shared_sqnr_db": _finite(one.shared_sqnr_db),
                    "cost_db": _finite(one.cost_db),
                }
                for one in group
            ]
            for group in report.sharing
        ],
        "results": [{"name": name, "measured_sqnr_db": _finite(sqnr)} for name, sqnr in report.results.items()],
        "layers": [{**asdict(one), "weight_sqnr_db": _finite(one.weight_sqnr_db)} for one in report.layers],
        "int8_mac_share": int8_mac_share,
        "drift": None if drift is None else {key: _finite(value, 7) for key, value in drift.items()},
        "yardstick": None if yardstick is None else {key: _finite(value, 7) for key, value in yardstick.items()},
    }


def _tensor(one: TensorCost) -> dict[str, Any]:
    return {
        "name": one.name,
        "stage": one.stage,
        **asdict(one.scale),
        "low": one.low,
        "high": one.high,
        "minimum": one.statistics.minimum,
        "maximum": one.statistics.maximum,
        "clipped": one.clipped,
        "estimated_sqnr_db": _finite(one.estimated_sqnr_db),
        "measured_sqnr_db": _finite(one.measured_sqnr_db),
        "shared": one.shared,
    }


def _finite(value: float | None, digits: int = 3) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
