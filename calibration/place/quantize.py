"""Where quantisation goes: the one policy, for every target.

A tensor is quantised once, where it is made, and everybody reads the dequantised copy; the vendor's compiler then moves
and fuses the pairs into its integer kernels. The rules, in the order in which ``_placement`` applies them:

1. Every convolution and matrix product reads a quantised tensor and has int8 weights, per output channel, symmetric.
2. What only moves or selects values (``points.TRANSPARENT``) has its input quantised instead of its output.
3. Both summands of an Add are quantised, but for one that a layer makes for this Add alone: that sum is fused into the
   layer, in its wide accumulator.
4. All inputs of a Concat are quantised with one scale: the concatenation then copies bytes.
5. All levels that a RoIAlign reads share one scale, and it works on bytes: Q before it, DQ after it.

Sharing never goes further than one such join: a tensor that two of them claim stays with the first (RoIAlign, then the
later Concat), and the other join requantises, with a pair of its own on its output. What a layer writes for a custom
node or for the user stays float.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...errors import CalibrationError
from ...model.custom_ops import MULTILEVEL_ROI_ALIGN
from .branches import branch_layers
from .points import layers, source
from .weights import LayerInput, constant, quantize_weights


@dataclass(frozen=True)
class Target:
    """What a vendor wants of activations' scales.

    ``unsigned``: uint8 with zero point 0 for tensors that are never negative and uint8 with a zero point for others;
    otherwise int8 with zero point 0. ``repeat``: a pair also after each transparent operator, before each layer.
    """

    name: str
    unsigned: bool
    repeat: bool


TARGETS = {
    "openvino": Target("openvino", unsigned=True, repeat=False),
    "tensorrt": Target("tensorrt", unsigned=False, repeat=True),
}


@dataclass(frozen=True)
class Scale:
    """``real = scale * (integer - zero_point)``; ``dtype`` is "uint8" or "int8"."""

    scale: float
    zero_point: int
    dtype: str


@dataclass
class Placement:
    """What was decided: scales by tensor, groups that share one, the layers that are to run in INT8, those that not."""

    scales: dict[str, Scale] = field(default_factory=dict)
    groups: list[tuple[str, ...]] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    kept_float: list[str] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)  #: layers of side branches, which are float by design


def _made_by_layer(value: ir.Value, quantised: Collection[int]) -> bool:
    """Whether a quantised layer makes this tensor (through an activation function, perhaps) for one reader alone."""
    producer = value.producer()
    if producer is None or len(value.uses()) != 1:
        return False
    if producer.op_type in ("Relu", "Clip") and producer.inputs[0] is not None:
        return _made_by_layer(producer.inputs[0], quantised)
    return id(producer) in quantised


def _placement(
    model: ir.Model, quantised_layers: list[ir.Node]
) -> tuple[dict[ir.Value, None], list[tuple[ir.Value, ...]], list[ir.Node]]:
    """Tensors to put a pair on, the groups among them that share a scale, who pools bytes (see the module's rules)."""
    quantised = {id(node) for node in quantised_layers}
    tensors = {source(node.inputs[0]): None for node in quantised_layers if node.inputs[0] is not None}
    wanted = dict(tensors)
    groups: list[tuple[ir.Value, ...]] = []
    pooled = []
    # RoIAlign comes first, the one with most levels before the others, because it cannot read two scales at all.
    for node in sorted(filter(MULTILEVEL_ROI_ALIGN.matches, model.graph), key=lambda node: -len(_levels(node))):
        levels = _levels(node)
        claimed = {value for group in groups for value in group}
        together = any(set(levels) <= set(group) for group in groups)
        same_scale = together or len(levels) == 1 or claimed.isdisjoint(levels)
        if node.outputs[0] not in wanted or not same_scale or not set(levels) <= set(node.inputs):
            continue
        pooled.append(node)
        tensors.update(dict.fromkeys(levels))
        tensors.pop(node.outputs[0])
        if not together and len(levels) > 1:
            groups.append(levels)
    # From the end, so that a join that feeds a join knows whether the latter is read by a layer.
    for node in reversed(model.graph):
        if node.domain == "" and node.op_type == "Concat" and node.outputs[0] in wanted:
            sources = tuple(dict.fromkeys(source(value) for value in node.inputs if value is not None))
            claimed = {value for group in groups for value in group}
            free = tuple(value for value in sources if value not in claimed)
            tensors.update(dict.fromkeys(sources))
            if len(free) > 1:
                groups.append(free)
            if len(free) == len(sources) and node.outputs[0] not in claimed:
                tensors.pop(node.outputs[0], None)  # it has its inputs' scale
        elif node.domain == "" and node.op_type == "Add" and node.outputs[0] in wanted:
            operands = [value for value in node.inputs if value is not None]
            fused = next((v for v in operands if _made_by_layer(v, quantised)), None)
            for operand in operands:
                origin = source(operand)
                producer = origin.producer()
                chained = producer is not None and producer.op_type == "Add" and len(origin.uses()) == 1
                if chained:
                    wanted[origin] = None  # the two sums become one kernel
                elif operand is not fused:
                    tensors[origin] = None
    return tensors, groups, pooled


def quantize(
    model: ir.Model,
    ranges: Mapping[str, tuple[float, float]],
    target: Target,
    *,
    keep_float: Collection[str] = (),
    inputs: Mapping[str, LayerInput] | None = None,
) -> Placement:
    """Put Q/DQ pairs into ``model``, in place.

    Args:
        ranges: (low, high) by tensor name, as an observer gave them.
        target: whose rules to follow.
        keep_float: names of layers that stay float.
        inputs: what is known of each layer's input, by layer name; where given, weights are rounded with it and the
            layer's bias takes up what is left of their mean error. Without, weights are rounded to the nearest.

    Raises:
        CalibrationError: ``ranges`` lacks a tensor, or ``keep_float`` names no layer.
    """
    all_layers, aside = layers(model), branch_layers(model)
    _check_names(keep_float, [*(str(node.name) for node in all_layers), *aside])
    chosen = [node for node in all_layers if node.name not in keep_float]
    tensors, groups, pooled = _placement(model, chosen)
    placement = Placement(
        layers=[str(n.name) for n in chosen],
        kept_float=sorted(keep_float),
        branches=aside,
        groups=[tuple(str(v.name) for v in g) for g in groups],
    )

    by_value: dict[ir.Value, tuple[float, float]] = {}
    for value in tensors:
        if value.name not in ranges:
            raise CalibrationError(f"the calibration table has no range for {value.name}; calibrate this graph again")
        by_value[value] = ranges[str(value.name)]
    for group in groups:  # no two of them have a tensor in common
        union = (min(by_value[v][0] for v in group), max(by_value[v][1] for v in group))
        by_value.update(dict.fromkeys(group, union))

    quantize_weights(model, chosen, inputs or {})
    for value, (low, high) in by_value.items():
        scale = activation_scale(low, high, target)
        placement.scales[str(value.name)] = scale
        _insert_pair(model, value, scale)
    for node in pooled:
        _pool_bytes(model, node)
    if target.repeat:
        for node in chosen:
            _repeat_pair(model, node)
    return placement


def _check_names(keep_float: Collection[str], names: list[str]) -> None:
    for name in sorted(set(keep_float) - set(names)):
        close = difflib.get_close_matches(name, names, n=3) or [one for one in names if name in one][:3]
        hint = f"did you mean {' or '.join(close)}?" if close else "'inspect' lists the layers of an engine"
        raise CalibrationError(f"no layer of this graph is called {name}; {hint}")


def _levels(node: ir.Node) -> tuple[ir.Value, ...]:
    """What a RoIAlign pools from."""
    return tuple(source(value) for value in MULTILEVEL_ROI_ALIGN.levels(node.inputs) if value is not None)


def activation_scale(low: float, high: float, target: Target) -> Scale:
    """The scale of a tensor with this range; zero is always exact, and a range of nothing gives scale 1."""
    low, high = min(low, 0.0), max(high, 0.0)
    if not target.unsigned:
        bound = max(-low, high)
        return Scale(float(np.float32(bound / 127)) or 1.0, 0, "int8")
    scale = float(np.float32((high - low) / 255)) or 1.0
    return Scale(scale, int(np.clip(np.rint(-low / scale), 0, 255)), "uint8")


def _insert_pair(model: ir.Model, value: ir.Value, scale: Scale) -> None:
    name = str(value.name)
    readers = list(value.uses())
    q_scale = constant(model, f"{name}/scale", np.array(scale.scale, np.float32))
    zero = constant(model, f"{name}/zero_point", np.array(scale.zero_point, scale.dtype))
    quantise = ir.node("QuantizeLinear", [value, q_scale, zero], name=f"{name}/quantize")
    dequantise = ir.node("DequantizeLinear", [quantise.outputs[0], q_scale, zero], name=f"{name}/dequantize")
    for node, suffix, dtype in ((quantise, "quantized", zero.dtype), (dequantise, "dequantized", ir.DataType.FLOAT)):
        output = node.outputs[0]
        output.name, output.shape = f"{name}/{suffix}", value.shape
        assert dtype is not None
        output.dtype = dtype
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], [quantise, dequantise])
    else:
        model.graph.insert_after(producer, [quantise, dequantise])
    for reader, index in readers:
        reader.replace_input_with(index, dequantise.outputs[0])


def _pool_bytes(model: ir.Model, node: ir.Node) -> None:
    """Let a RoIAlign whose levels share one scale read the integers themselves."""
    pairs = [value.producer() for value in MULTILEVEL_ROI_ALIGN.levels(node.inputs) if value is not None]
    name = str(node.outputs[0].name)
    first = pairs[0]
    assert first is not None
    q_scale, zero = first.inputs[1], first.inputs[2]
    for index, pair in enumerate(pairs):
        assert pair is not None
        node.replace_input_with(index, pair.inputs[0])
    assert zero is not None and zero.const_value is not None and zero.dtype is not None
    node.attributes["zero_point"] = ir.AttrInt64("zero_point", int(zero.const_value.numpy()))
    output = node.outputs[0]
    dequantise = ir.node("DequantizeLinear", [output, q_scale, zero], name=f"{name}/dequantize")
    dequantise.outputs[0].shape = output.shape
    dequantise.outputs[0].dtype = ir.DataType.FLOAT
    ir.convenience.replace_all_uses_with(output, dequantise.outputs[0])
    dequantise.replace_input_with(0, output)
    output.name, dequantise.outputs[0].name = f"{name}/quantized", name
    output.dtype = zero.dtype
    model.graph.insert_after(node, dequantise)


def _repeat_pair(model: ir.Model, node: ir.Node) -> None:
    """A pair of the source's scale right before the layer, where transparent operators stand between."""
    value = node.inputs[0]
    assert value is not None
    producer = value.producer()
    if producer is None or producer.op_type == "DequantizeLinear":
        return
    origin = source(value).producer()
    if origin is not None and origin.op_type == "Concat" and origin.inputs[0] is not None:
        # Its inputs share one scale, or it has a pair of its own: then this is none of its outputs.
        origin = origin.inputs[0].producer()
    pair = origin
    if pair is None or pair.op_type != "DequantizeLinear":
        return
    q_scale, zero = pair.inputs[1], pair.inputs[2]
    quantise = ir.node("QuantizeLinear", [value, q_scale, zero], name=f"{node.name}/input_quantize")
    dequantise = ir.node("DequantizeLinear", [quantise.outputs[0], q_scale, zero], name=f"{node.name}/input_dequantize")
    quantise.outputs[0].name, dequantise.outputs[0].name = f"{quantise.name}:0", f"{dequantise.name}:0"
    model.graph.insert_before(node, [quantise, dequantise])
    node.replace_input_with(0, dequantise.outputs[0])
