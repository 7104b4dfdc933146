"""Where quantization goes: the one policy, for every target.

A tensor is quantized once, where it is made, and everybody reads the dequantized copy; the vendor's compiler then moves
and fuses the pairs into its integer kernels. Which tensors, and which of them share a scale, is ``rules``'s; here are
the pairs, the weights, and what each vendor wants.
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
from .rules import plan_tensors
from .scales import scale_zero_point
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
    plan = plan_tensors(model, chosen)
    placement = Placement(
        layers=[str(n.name) for n in chosen],
        kept_float=sorted(keep_float),
        branches=aside,
        groups=[tuple(str(v.name) for v in g) for g in plan.groups],
    )

    by_value: dict[ir.Value, tuple[float, float]] = {}
    for value in plan.tensors:
        if value.name not in ranges:
            raise CalibrationError(f"the calibration table has no range for {value.name}; calibrate this graph again")
        by_value[value] = ranges[str(value.name)]
    for group in plan.groups:  # no two of them have a tensor in common
        union = (min(by_value[v][0] for v in group), max(by_value[v][1] for v in group))
        by_value.update(dict.fromkeys(group, union))

    quantize_weights(model, chosen, inputs or {})
    for value, (low, high) in by_value.items():
        scale = activation_scale(low, high, target)
        placement.scales[str(value.name)] = scale
        _insert_pair(model, value, scale)
    for node in plan.pooled:
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


def activation_scale(low: float, high: float, target: Target) -> Scale:
    """The scale of a tensor with this range; zero is always exact, and a range of nothing gives scale 1."""
    scale, zero_point = scale_zero_point(low, high, unsigned=target.unsigned, symmetric=not target.unsigned)
    return Scale(float(scale), zero_point, "uint8" if target.unsigned else "int8")


def _insert_pair(model: ir.Model, value: ir.Value, scale: Scale) -> None:
    name = str(value.name)
    readers = list(value.uses())
    q_scale = constant(model, f"{name}/scale", np.array(scale.scale, np.float32))
    zero = constant(model, f"{name}/zero_point", np.array(scale.zero_point, scale.dtype))
    quantize = ir.node("QuantizeLinear", [value, q_scale, zero], name=f"{name}/quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], q_scale, zero], name=f"{name}/dequantize")
    for node, suffix, dtype in ((quantize, "quantized", zero.dtype), (dequantize, "dequantized", ir.DataType.FLOAT)):
        output = node.outputs[0]
        output.name, output.shape = f"{name}/{suffix}", value.shape
        assert dtype is not None
        output.dtype = dtype
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], [quantize, dequantize])
    else:
        model.graph.insert_after(producer, [quantize, dequantize])
    for reader, index in readers:
        reader.replace_input_with(index, dequantize.outputs[0])


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
    dequantize = ir.node("DequantizeLinear", [output, q_scale, zero], name=f"{name}/dequantize")
    dequantize.outputs[0].shape = output.shape
    dequantize.outputs[0].dtype = ir.DataType.FLOAT
    ir.convenience.replace_all_uses_with(output, dequantize.outputs[0])
    dequantize.replace_input_with(0, output)
    output.name, dequantize.outputs[0].name = f"{name}/quantized", name
    output.dtype = zero.dtype
    model.graph.insert_after(node, dequantize)


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
    quantize = ir.node("QuantizeLinear", [value, q_scale, zero], name=f"{node.name}/input_quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], q_scale, zero], name=f"{node.name}/input_dequantize")
    quantize.outputs[0].name, dequantize.outputs[0].name = f"{quantize.name}:0", f"{dequantize.name}:0"
    model.graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(0, dequantize.outputs[0])
