"""The builder's VERBOSE log, read back: which kernel each layer became, and in which type it reads its input.

With detailed profiling the log ends with a line per kernel: its name, its kind, type and size of everything it reads
and writes, and the ONNX nodes that went into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..layers import Layer

if TYPE_CHECKING:
    import onnx_ir as ir

_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], (?:Constants|Outputs): \["
)
# "Datatype: Int8, ..." or, in other releases, "Format/Datatype: Thirty-two wide channel vectorized ... Int8 format".
_DATATYPE = re.compile(r"Datatype: ([^,}]*)")
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_PRECISIONS = {
    "int8": "int8",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp8": "fp8",
    "half": "f16",
    "fp16": "f16",
    "float": "f32",
    "fp32": "f32",
}
# Kernels that only move, convert or scale what a layer reads or writes, and carry its name among others.
_AUXILIARY = {"kgen", "NoOp", "Reformat", "Scale", "PointWise", "PointWiseV2", "Shuffle", "signal", "wait"}
_MYELIN_SUFFIX = re.compile(r"_myl\d+_\d+$")


@dataclass(frozen=True)
class Kernel:
    """A line of the log: what runs, the precision of its first input, and the ONNX nodes in it."""

    name: str
    kind: str
    precision: str
    nodes: tuple[str, ...]


def read_kernels(log: Iterable[str]) -> list[Kernel]:
    """The kernels that a build's messages list, in order of execution."""
    kernels = []
    for message in log:
        for line in message.splitlines():
            match = _LINE.match(line.strip())
            if match is None:
                continue
            datatype = _DATATYPE.search(match["inputs"])
            words = datatype[1].lower().split() if datatype else []
            precision = next((_PRECISIONS[word] for word in words if word in _PRECISIONS), "unknown")
            nodes = (*map(str.strip, _MYELIN_SUFFIX.sub("", match["name"]).split("+")), *_ONNX_NODE.findall(line))
            kernels.append(Kernel(match["name"], match["kind"], precision, nodes))
    return kernels


def read_layers(
    model: ir.Model, kernels: Sequence[Kernel], image_size: tuple[int, int], rows: Mapping[str, int]
) -> list[Layer]:
    """What became of every convolution and matrix product of ``model``.

    Args:
        model: the graph that was built.
        kernels: of that build's log.
        image_size: nominal (height, width) of the network's input, for MACs where the graph leaves it open.
        rows: how many boxes a head's layers are counted with, by first part of the layer's name ("box", "densepose").

    Returns:
        Layers in the graph's order; precision "unknown" for one that the log does not tell of.
    """
    by_node: dict[str, Kernel] = {}
    for kernel in kernels:
        if kernel.kind not in _AUXILIARY:
            for name in kernel.nodes:
                by_node.setdefault(name, kernel)
    shapes = _shapes(model, image_size)
    layers = []
    for node in model.graph:
        if node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        name = str(node.name)
        found = by_node.get(name)
        precision = found.precision if found else "unknown"
        macs = _macs(node, shapes, rows.get(name.split("/")[0], 1))
        layers.append(Layer(name, node.op_type, precision, found.kind if found else "", macs))
    return layers


def _shapes(model: ir.Model, image_size: tuple[int, int]) -> dict[str, list[int | None]]:
    """Every value's shape for pictures of the nominal size; None where it depends on what is found in them."""
    import onnx
    import onnx_ir as ir

    proto = ir.to_proto(model)
    for value in proto.graph.input:
        if value.name == "image":
            for dimension, size in zip(value.type.tensor_type.shape.dim, (1, 3, *image_size), strict=True):
                dimension.dim_value = size
    custom = {name for node in proto.graph.node if node.domain for name in node.output}
    declared = [value for value in proto.graph.value_info if value.name in custom]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(declared)
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    return {
        value.name: [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    } | {tensor.name: list(tensor.dims) for tensor in inferred.initializer}


def _macs(node: ir.Node, shapes: Mapping[str, list[int | None]], boxes: int) -> int:
    output, weight = (shapes.get(str(value.name)) for value in (node.outputs[0], node.inputs[1]) if value is not None)
    if not output or not weight or any(size is None for size in (*output[1:], *weight)):
        return 0
    sizes = [boxes if size is None else size for size in output]
    if node.op_type == "Conv":  # weight: [out, in / groups, ...]; per output pixel every weight is used once
        return sizes[0] * int(np.prod(sizes[2:])) * int(np.prod([size or 0 for size in weight]))
    transposed = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int() == 1
    return int(np.prod(sizes)) * int(weight[-1 if transposed else -2] or 0)
