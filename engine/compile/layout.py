"""Layout at the custom nodes' boundaries, placed by ``build`` for vendors whose convolutions work channels-last anyway.

The graph stays NCHW by declaration; a Transpose around each custom node says that the node itself reads and writes
NHWC. The vendor's compiler then drops each Transpose against its own internal layout, and RoIAlign finds the channels
of a pixel side by side, which makes it several times faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..model.custom_ops import custom_op
from ..model.description import InputQuantization, PackedMaps

#: The output that ``pack_maps`` makes.
PACKED = "maps"
_TO_NHWC, _TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def place_nhwc(model: ir.Model) -> None:
    """Make every custom node that reads maps read (and, if it writes maps, write) NHWC, in place."""
    transposed: dict[ir.Value, ir.Value] = {}  # one Transpose per map, however many nodes read it
    for node in list(model.graph):
        op = custom_op(node)
        if op is None or not op.reads_levels:
            continue
        if node.attributes["layout"].as_string() == "NHWC":
            continue
        for index, source in enumerate(op.levels(node.inputs)):
            assert source is not None
            if source not in transposed:
                transpose = _transpose(source, _TO_NHWC, f"{source.name}/nhwc")
                model.graph.insert_before(node, transpose)
                transposed[source] = transpose.outputs[0]
            node.replace_input_with(index, transposed[source])
        node.attributes["layout"] = ir.AttrString("layout", "NHWC")
        if op.writes_maps:
            _write_nhwc(model.graph, node)


def _write_nhwc(graph: ir.Graph, node: ir.Node) -> None:
    output = node.outputs[0]
    # Quantized features are dequantized first: OpenVINO swaps a Transpose and the conversion behind it, and then no
    # longer sees that the next convolution reads integers.
    readers = [use.node for use in output.uses()]
    if len(readers) == 1 and readers[0].op_type == "DequantizeLinear":
        output.shape = _permuted(output.shape, _TO_NHWC)
        node = readers[0]
    _transpose_back(graph, node)


def _transpose_back(graph: ir.Graph, node: ir.Node) -> None:
    """``node`` writes NHWC now; everybody who reads it gets NCHW."""
    output = node.outputs[0]
    output.shape = _permuted(output.shape, _TO_NHWC)
    name = output.name
    back = _transpose(output, _TO_NCHW, f"{name}/nchw")
    ir.convenience.replace_all_uses_with(output, back.outputs[0])
    back.replace_input_with(0, output)
    graph.insert_after(node, back)
    # Who cuts the graph at this name wants the map as everybody else sees it.
    output.name, back.outputs[0].name = f"{name}/nhwc", name


def _transpose(source: ir.Value, permutation: list[int], name: str) -> ir.Node:
    node = ir.node("Transpose", [source], {"perm": permutation}, name=name)
    node.outputs[0].name = f"{name}:0"
    if source.dtype is not None:
        node.outputs[0].dtype = source.dtype
        node.outputs[0].shape = _permuted(source.shape, permutation)
    return node


def _permuted(shape: ir.Shape | None, permutation: list[int]) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[axis] for axis in permutation])


def flatten_nhwc(model: ir.Model) -> None:
    """Let fully connected layers read a map's values pixel by pixel instead of channel by channel, in place.

    Their weights change places with them, so only the order of a sum changes; what the convolution before them wrote
    need not be moved.
    """
    for node in list(model.graph):
        if node.op_type not in ("Reshape", "Flatten"):
            continue
        source, flat = node.inputs[0], node.outputs[0]
        if source is None or source.shape is None or flat.shape is None:
            continue
        if (len(source.shape), len(flat.shape)) != (4, 2):
            continue
        sides = source.shape[1:]
        weights = [_fully_connected_weight(use.node, flat) for use in flat.uses()]
        if not all(isinstance(side, int) for side in sides) or any(weight is None for weight in weights):
            continue
        for weight in weights:
            assert weight is not None and weight.const_value is not None
            by_channel = weight.const_value.numpy().reshape(-1, *sides)
            by_pixel = by_channel.transpose(0, 2, 3, 1).reshape(by_channel.shape[0], -1)
            weight.const_value = ir.tensor(np.ascontiguousarray(by_pixel), name=weight.name)
        transpose = _transpose(source, _TO_NHWC, f"{node.name}/nhwc")
        model.graph.insert_before(node, transpose)
        node.replace_input_with(0, transpose.outputs[0])


def _fully_connected_weight(node: ir.Node, source: ir.Value) -> ir.Value | None:
    """The constant ``[out, in]``, quantized or not, that nobody else reads, of a layer ``source @ weight.T``."""
    attribute = node.attributes.get("transB")
    if node.op_type != "Gemm" or node.inputs[0] is not source or attribute is None or attribute.as_int() != 1:
        return None
    weight = node.inputs[1]
    while weight is not None and len(weight.uses()) == 1:
        if weight.const_value is not None:
            return weight
        producer = weight.producer()
        if producer is None or producer.op_type != "DequantizeLinear":
            return None
        axis = producer.attributes.get("axis")
        if axis is None or axis.as_int() != 0:
            return None
        weight = producer.inputs[0]
    return None


def pack_maps(model: ir.Model, maps: Sequence[str]) -> PackedMaps | None:
    """Let the graph give all of a person's maps as its convolution makes them, in one output ``maps``, in place.

    Cutting them apart, undoing the pixel shuffle and moving the channels would cost as much as the DensePose head's
    largest convolution; ``ChartResult`` reads them as they are. Exact. Returns how they are packed, or None where the
    maps are not one tensor cut along its channels, which leaves the graph as it is.
    """
    graph = model.graph
    outputs = [value for value in graph.outputs if value.name in maps]
    split = outputs[0].producer() if outputs else None
    if split is None or split.op_type != "Split" or [value.name for value in split.outputs] != list(maps):
        return None
    source, block = split.inputs[0], 1
    sides = [None if value.shape is None else value.shape[1] for value in split.outputs]
    channels = tuple(side for side in sides if isinstance(side, int))
    if source is None or len(channels) < len(sides):
        return None
    shuffle = source.producer()
    if shuffle is not None and shuffle.op_type == "DepthToSpace" and len(source.uses()) == 1:
        mode = shuffle.attributes.get("mode")
        if mode is not None and mode.as_string() == "CRD":
            source, block = shuffle.inputs[0], shuffle.attributes["blocksize"].as_int()
            assert source is not None
    kept = [value for value in graph.outputs if value.name not in maps]
    graph.outputs.clear()
    graph.outputs.extend(kept)
    graph.remove([split] + ([shuffle] if shuffle is not None and block > 1 else []), safe=True)
    transpose = _transpose(source, _TO_NHWC, PACKED)
    graph.append(transpose)
    graph.outputs.extend(transpose.outputs)
    transpose.outputs[0].name = PACKED
    return PackedMaps(channels, block, "NHWC")


def take_bytes(model: ir.Model) -> InputQuantization | None:
    """Let the graph take ``image`` already quantized and channels-last, as its first convolution reads it, in place.

    The engine's preprocessing then writes bytes instead of floats, and nothing is left to convert. Returns the
    quantization; None where the picture is not read through one uint8 quantization.
    """
    graph = model.graph
    image = next(value for value in graph.inputs if value.name == "image")
    readers = [use.node for use in image.uses()]
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
        return None
    quantize = readers[0]
    constants = [value.const_value.numpy() for value in quantize.inputs[1:] if value and value.const_value]
    if len(constants) != 2 or constants[1].dtype != np.uint8 or constants[0].size != 1:
        return None
    dequantize = [use.node for use in quantize.outputs[0].uses()]
    if len(dequantize) != 1 or dequantize[0].op_type != "DequantizeLinear":
        return None
    image.dtype, image.shape = ir.DataType.UINT8, _permuted(image.shape, _TO_NHWC)
    dequantize[0].replace_input_with(0, image)
    graph.remove(quantize, safe=True)
    _transpose_back(graph, dequantize[0])
    return InputQuantization(float(constants[0]), int(constants[1]))
