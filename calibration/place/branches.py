"""Side branches that stay float: what weights channels, and what computes the kernels of a convolution.

Both begin with a map's means and see one pixel each, so INT8 gains nothing there, while its noise would touch every
pixel of the map that they act on: squeeze-and-excitation multiplies a map by its branch, CondConv mixes its kernels
with it (and its mixture, a product with the experts, would have one scale for each element of a kernel).
"""

from __future__ import annotations

import onnx_ir as ir

_MEANS = ("ReduceMean", "GlobalAveragePool")
_LAYERS = ("Conv", "Gemm", "MatMul")


def branch_layers(model: ir.Model) -> list[str]:
    """Names of the layers on such branches, in topological order."""
    found: dict[int, None] = {}
    for node in model.graph:
        if node.domain != "":
            continue
        ends = list(node.inputs) if node.op_type == "Mul" else list(node.inputs[1:2]) if node.op_type == "Conv" else []
        for value in ends:
            found.update(dict.fromkeys(_layers_up_to_means(value)))
    return [str(node.name) for node in model.graph if id(node) in found]


def _layers_up_to_means(value: ir.Value | None) -> list[int]:
    """The layers that make ``value`` out of means and constants; none where it is made of anything else too."""
    layers: list[int] = []
    waiting, seen = [value], set()
    means = False
    while waiting:
        one = waiting.pop()
        if one is None or one.is_initializer() or id(one) in seen:
            continue
        seen.add(id(one))
        producer = one.producer()
        if producer is None or producer.domain != "":
            return []
        if producer.op_type in _MEANS:
            means = True
            continue
        if producer.op_type in _LAYERS:
            layers.append(id(producer))
        waiting.extend(producer.inputs)
    return layers if means else []
