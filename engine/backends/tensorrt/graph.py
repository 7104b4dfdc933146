"""What TensorRT wants of a graph: every type written out, because strongly typed networks convert nothing unasked.

Between the custom nodes everything becomes float16, the scales of Q/DQ pairs too, so that what is not INT8 is float16.
The custom nodes keep float32 for boxes and scores; ``MultilevelRoiAlign`` takes its features as they come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...model.custom_ops import BOX_DETECTIONS, SETTINGS, custom_op
from ...model.graph_file import read_description

if TYPE_CHECKING:
    import onnx_ir as ir

# The inputs of standard operators that are float32 by definition, whatever the data's type.
_FLOAT32_INPUTS = {"Resize": (1, 2)}


def prepare(graph: bytes, precision: str, max_people: int | None, deepstream: bool = False) -> bytes:
    """The serialized ONNX ``graph`` (with Q/DQ in it for "int8") as TensorRT is to have it.

    ``max_people``: None lets the DensePose head run for as many people as there are, a number always for that many.
    ``deepstream``: the picture is the only input, and every output has a leading batch axis of 1, as DeepStream wants.
    """
    import onnx
    import onnx_ir as ir

    model = ir.from_proto(onnx.load_model_from_string(graph))
    for node in model.graph:
        if BOX_DETECTIONS.matches(node):
            node.attributes["dynamic"] = ir.AttrInt64("dynamic", int(max_people is None))
            if max_people is not None:
                node.attributes["capacity"] = ir.AttrInt64("capacity", max_people)
            # A dynamic plugin has one more output, from which TensorRT reads how many people there are. A graph of one
            # class has no output for classes; the plugin has.
            roles = (*BOX_DETECTIONS.outputs, *(["size"] if max_people is None else []))
            given = len(node.outputs)
            node.resize_outputs(len(roles))
            for role, value in list(zip(roles, node.outputs, strict=True))[given:]:
                value.name, value.dtype = f"{node.name}/{role}", ir.DataType.INT32
                value.shape = ir.Shape([] if role == "size" else ["people"])
    if precision != "fp32":
        _to_float16(model)
        # The first in which Q/DQ pairs may be float16; nothing else in these graphs means anything else there.
        model.opset_imports[""] = max(model.opset_imports[""], 19)
    if deepstream:
        _for_deepstream(model)
    return ir.to_proto(model).SerializeToString()


def fixed_size(graph: bytes) -> bool:
    """Whether the graph takes pictures of one size only."""
    import onnx

    image = onnx.load_model_from_string(graph).graph.input[0]
    return all(side.HasField("dim_value") for side in image.type.tensor_type.shape.dim)


def _for_deepstream(model: ir.Model) -> None:
    import onnx_ir as ir

    image, *settings = model.graph.inputs
    assert image.shape is not None
    height, width = (int(side) for side in image.shape[2:])  # type: ignore[arg-type]
    defaults = read_description(model.metadata_props).defaults
    people = next(node.attributes["capacity"].as_int() for node in model.graph if BOX_DETECTIONS.matches(node))
    # Pictures are resized before they come here: boxes are in pixels of the network's input.
    sizes = {"sizes": (height, width, height, width)}
    values = {**defaults.graph_inputs, **sizes, "max_detections": people}
    for value in settings:
        name = str(value.name)
        model.graph.inputs.remove(value)
        constant = np.asarray(values[name], SETTINGS[name].dtype).reshape(SETTINGS[name].length)
        value.const_value = ir.tensor(constant, name=name)
        model.graph.register_initializer(value)
    axis = ir.Value(name="batch_axis", const_value=ir.tensor(np.array([0], np.int64), name="batch_axis"))
    model.graph.register_initializer(axis)
    for index, value in enumerate(model.graph.outputs):
        name = str(value.name)
        value.name = f"{name}/unbatched"
        node = ir.node("Unsqueeze", [value, axis], name=f"{name}/batch")
        node.outputs[0].name, node.outputs[0].type = name, value.type
        model.graph.append(node)
        model.graph.outputs[index] = node.outputs[0]


def _to_float16(model: ir.Model) -> None:
    import onnx_ir as ir

    halves: dict[ir.Value, ir.Value] = {}  # constants and what was float32 to begin with, as float16
    floats: dict[ir.Value, ir.Value] = {}  # what has become float16, as float32
    half: set[ir.Value] = set()

    def cast(value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}/to_{dtype.name.lower()}")
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].dtype = f"{node.name}:0", value.shape, dtype
        model.graph.insert_before(before, node)
        return node.outputs[0]

    def constant(value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        array = _round(value.const_value.numpy())
        made = ir.Value(name=f"{value.name}/float16", const_value=ir.tensor(array, name=f"{value.name}/float16"))
        made.shape, made.dtype = ir.Shape(array.shape), ir.DataType.FLOAT16
        model.graph.register_initializer(made)
        return made

    for node in list(model.graph):
        op = custom_op(node)
        halved = range(len(node.inputs))  # the inputs that are to be float16
        if op is not None:
            halved = range(op.level_count(len(node.inputs)) if op.any_level_type else 0)
        if node.domain == "" and node.op_type in ("Cast", "CastLike"):
            raise AssertionError(f"{node.name}: exported graphs have no casts")
        for index, value in enumerate(node.inputs):
            if value is None or index in _FLOAT32_INPUTS.get(node.op_type, ()):
                continue
            wants_half = index in halved
            if wants_half and value not in half and value.dtype == ir.DataType.FLOAT:
                if value not in halves:
                    is_constant = value.const_value is not None
                    halves[value] = constant(value) if is_constant else cast(value, ir.DataType.FLOAT16, node)
                    half.add(halves[value])
                node.replace_input_with(index, halves[value])
            elif not wants_half and value in half:
                if value not in floats:
                    floats[value] = cast(value, ir.DataType.FLOAT, node)
                node.replace_input_with(index, floats[value])
        if op is None or op.any_level_type:
            _mark(node, half)
    for index, value in enumerate(model.graph.outputs):
        if value in half:
            name = str(value.name)
            value.name = f"{name}/float16"
            node = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{name}/to_float")
            node.outputs[0].name, node.outputs[0].shape, node.outputs[0].dtype = name, value.shape, ir.DataType.FLOAT
            model.graph.append(node)
            model.graph.outputs[index] = node.outputs[0]
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            model.graph.initializers.pop(name)


def _mark(node: ir.Node, half: set[ir.Value]) -> None:
    """What this operator makes is float16, if it makes floats at all."""
    import onnx_ir as ir

    integers = node.op_type == "QuantizeLinear"
    if custom_op(node) is not None:
        integers = node.inputs[0] not in half
    if node.op_type == "DequantizeLinear" or not integers:
        for value in node.outputs:
            if value.dtype in (None, ir.DataType.FLOAT):
                value.dtype = ir.DataType.FLOAT16
                half.add(value)


def _round(array: np.ndarray) -> np.ndarray:
    """To float16, without infinities, and without making a small scale zero: TensorRT refuses one."""
    limits = np.finfo(np.float16)
    rounded = np.clip(array, limits.min, limits.max).astype(np.float16)
    vanished = (rounded == 0) & (array > 0)
    return np.where(vanished, limits.smallest_subnormal, rounded).astype(np.float16)
