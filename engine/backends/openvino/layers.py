"""What a compiled model really runs: every convolution and matrix product, in which precision, with how many MACs.

A layer that was meant for INT8 and silently fell back to float shows here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..layers import Layer

_TYPES = ("Convolution", "GroupConvolution", "MatMul")
_INTEGERS = ("u8", "i8")


def read_layers(
    model: Any, compiled: Sequence[Any], image_size: tuple[int, int], rows: Mapping[str, int]
) -> list[Layer]:
    """Ask ``compiled`` (sections of ``model``) what became of every layer.

    Args:
        model: ``openvino.Model``, before compilation.
        compiled: ``openvino.CompiledModel`` of each section.
        image_size: nominal (height, width) of the network's input, for MACs where the graph leaves it open.
        rows: how many boxes a head's layers are counted with, by first part of the layer's name ("box", "densepose").

    Returns:
        Layers in execution order of ``model``.
    """
    runs: dict[str, tuple[str, str]] = {}
    for section in compiled:
        runs = _runtime(section) | runs
    nominal = model.clone()
    image = nominal.input("image").get_partial_shape()
    channels_last = image[3].is_static and image[3].get_length() == 3
    nominal.reshape({"image": [1, *image_size, 3] if channels_last else [1, 3, *image_size]})
    layers = []
    for op in nominal.get_ordered_ops():
        if op.get_type_name() not in _TYPES:
            continue
        name = op.get_friendly_name().removesuffix("/WithoutBiases")
        precision, kernel = runs.get(name, ("unknown", ""))
        macs = _macs(op, rows.get(name.split("/")[0], 1))
        layers.append(Layer(name, op.get_type_name(), precision, kernel, macs))
    return layers


def _runtime(compiled: Any) -> dict[str, tuple[str, str]]:
    """(precision, kernel) by the name of every layer that a kernel says it executes."""
    found: dict[str, tuple[str, str]] = {}
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        kind = info["layerType"].astype(str) if "layerType" in info else ""
        if kind not in ("Convolution", "FullyConnected", "MatMul", "Gemm"):
            continue
        precision = info["runtimePrecision"].astype(str)
        entry = ("int8" if precision in _INTEGERS else precision, info["primitiveType"].astype(str))
        for name in info["originalLayersNames"].astype(str).split(","):
            # Fused neighbors are listed too; the layer itself keeps its name, or gets one of these endings.
            found.setdefault(name.split("/DequantizationMultiply")[0].removesuffix("/WithoutBiases"), entry)
    return found


def _macs(op: Any, boxes: int) -> int:
    output = op.get_output_partial_shape(0)
    sizes = [dimension.get_length() if dimension.is_static else boxes for dimension in output]
    weight = op.input(1).get_partial_shape()
    if op.get_type_name() == "MatMul":
        attributes = op.get_attributes()
        inner = weight[-1 if attributes["transpose_b"] else -2]
        return int(np.prod(sizes)) * (inner.get_length() if inner.is_static else 1)
    # [out, in, ...] or [groups, out / groups, in / groups, ...]: per output pixel every weight is used once.
    return sizes[0] * int(np.prod(sizes[2:])) * int(np.prod(list(weight.to_shape())))
