"""int8 weights: one scale per output channel, rounded with what is known of the layer's input, biases corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .rounding import round_weights


@dataclass(frozen=True)
class LayerInput:
    """What calibration knows of a layer's input: mean of each channel, and the variance around these means.

    Without a variance, weights are rounded to the nearest, and only biases are corrected.
    """

    mean: np.ndarray
    variance: float | None


def quantize_weights(model: ir.Model, nodes: list[ir.Node], inputs: Mapping[str, LayerInput]) -> None:
    """Replace the weights of ``nodes`` by int8 ones behind a DequantizeLinear, in place.

    Layers that share a weight (the RPN's, on every level) share its integers, which the first of them decides.
    """
    integers: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for node in nodes:
        value = node.inputs[1]
        assert value is not None and value.const_value is not None
        name = str(value.name)
        matrix = _as_matrix(node, value.const_value.numpy().astype(np.float64))
        known = inputs.get(str(node.name))
        if name not in integers:
            integers[name] = _to_integers(node, matrix, known)
        result, scale = integers[name]
        if known is not None:
            _correct_bias(model, node, matrix - result * scale[:, None, None], known.mean)
        _replace(model, node, value, result, scale)


def output_axis(node: ir.Node) -> int:
    """The axis of the weight that counts output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if "transB" in node.attributes and node.attributes["transB"].as_int() else 1


def input_channels(node: ir.Node) -> int:
    """How many channels, of a matrix product features, a layer reads."""
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    return int(weight.shape[1 - output_axis(node)]) * _groups(node)  # type: ignore[arg-type]


def _groups(node: ir.Node) -> int:
    return node.attributes["group"].as_int() if "group" in node.attributes else 1


def _as_matrix(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """``[O, C, T]``: output channels, input channels of each, taps."""
    if output_axis(node) == 1:
        weight = weight.T
    return weight.reshape(weight.shape[0], weight.shape[1], -1)


def _input_means(node: ir.Node, mean: np.ndarray, outputs: int) -> np.ndarray:
    """``[O, C]``: the means of what each output channel reads."""
    per_group = mean.reshape(_groups(node), -1)
    return np.repeat(per_group, outputs // len(per_group), axis=0)


def _to_integers(node: ir.Node, matrix: np.ndarray, known: LayerInput | None) -> tuple[np.ndarray, np.ndarray]:
    bound = np.abs(matrix).max(axis=(1, 2))
    scale = np.where(bound > 0, bound / 127, 1.0).astype(np.float32).astype(np.float64)
    steps = np.clip(matrix / scale[:, None, None], -127, 127)
    if known is None or known.variance is None:
        return np.rint(steps), scale
    return round_weights(steps, _input_means(node, known.mean, len(matrix)), known.variance), scale


def _correct_bias(model: ir.Model, node: ir.Node, error: np.ndarray, mean: np.ndarray) -> None:
    """Add (W - Wq) . mean(x) to the bias, so that the layer's mean output stays (arXiv 1906.04721, section 4.2)."""
    shift = (error.sum(axis=2) * _input_means(node, mean, len(error))).sum(axis=1)
    old = node.inputs[2] if len(node.inputs) > 2 else None
    base = old.const_value.numpy().astype(np.float64) if old is not None and old.const_value is not None else 0.0
    bias = constant(model, f"{node.name}.corrected_bias", (base + shift).astype(np.float32))
    node.resize_inputs(3)
    node.replace_input_with(2, bias)
    if old is not None and not old.uses():
        del model.graph.initializers[str(old.name)]


def _replace(model: ir.Model, node: ir.Node, value: ir.Value, integers: np.ndarray, scale: np.ndarray) -> None:
    assert value.shape is not None
    axis, name = output_axis(node), str(value.name)
    shape = value.shape.numpy()
    stored = integers.reshape(shape) if axis == 0 else integers.reshape(shape[::-1]).T
    quantized = constant(model, f"{name}/int8", np.ascontiguousarray(stored, np.int8))
    scales = constant(model, f"{name}/scale", scale.astype(np.float32))
    zeros = constant(model, f"{name}/zero_point", np.zeros(scale.shape, np.int8))
    dequantize = ir.node("DequantizeLinear", [quantized, scales, zeros], {"axis": axis}, name=f"{node.name}/weight")
    dequantize.outputs[0].name = f"{node.name}/weight:0"
    model.graph.insert_before(node, dequantize)
    node.replace_input_with(1, dequantize.outputs[0])
    if not value.uses():
        del model.graph.initializers[name]


def constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """The initializer called ``name``, made of ``array`` if the graph does not have it yet."""
    if name in model.graph.initializers:
        return model.graph.initializers[name]
    value = ir.Value(
        name=name,
        const_value=ir.tensor(array, name=name),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
    )
    model.graph.register_initializer(value)
    return value
