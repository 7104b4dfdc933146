"""Which tensors of a graph calibration watches: everything that quantization may later put a scale on."""

from __future__ import annotations

import onnx_ir as ir

from ...model.custom_ops import BOX_DETECTIONS, GENERATE_PROPOSALS, MULTILEVEL_ROI_ALIGN
from .branches import branch_layers

#: Layers whose weights are quantized; input 0 is the activation, input 1 the weight (an initializer).
LAYERS = ("Conv", "Gemm", "MatMul")
#: Where several maps meet, and their scales with them.
JOINS = ("Add", "Concat")
#: What only moves, repeats or selects values: behind it a tensor has the same values, and needs no scale of its own.
TRANSPARENT = ("MaxPool", "Resize", "Expand", "Reshape", "Transpose", "Flatten", "Split")


def source(value: ir.Value) -> ir.Value:
    """The tensor whose values these are, behind transparent operators."""
    producer = value.producer()
    while producer is not None and producer.op_type in TRANSPARENT and producer.domain == "":
        if producer.op_type == "Resize" and producer.attributes["mode"].as_string() != "nearest":
            break  # interpolation makes new values
        assert producer.inputs[0] is not None
        value = producer.inputs[0]
        producer = value.producer()
    return value


def layers(model: ir.Model) -> list[ir.Node]:
    """Convolutions and matrix products with constant weights, in topological order, but for those of side branches."""
    aside = set(branch_layers(model))
    return [
        node
        for node in model.graph
        if node.op_type in LAYERS
        and node.name not in aside
        and len(node.inputs) > 1
        and node.inputs[1] is not None
        and node.inputs[1].is_initializer()
    ]


def activations(model: ir.Model) -> list[str]:
    """Names of the float tensors to watch: what layers read, what joins read and write, what RoIAlign reads."""
    found: dict[str, None] = {}
    layer_nodes = {id(node) for node in layers(model)}
    for node in model.graph:
        values: list[ir.Value | None] = []
        if id(node) in layer_nodes:
            values = [node.inputs[0]]
        elif node.op_type in JOINS:
            values = [*node.inputs, *node.outputs]
        elif MULTILEVEL_ROI_ALIGN.matches(node):
            values = [*MULTILEVEL_ROI_ALIGN.levels(node.inputs), *node.outputs]
        for value in values:
            if value is not None and not value.is_initializer():
                found[str(source(value).name)] = None
    return list(found)


def boxes(model: ir.Model) -> list[str]:
    """Names of the boxes and counts that RoIAligns read."""
    found: dict[str, None] = {}
    for node in model.graph:
        if MULTILEVEL_ROI_ALIGN.matches(node):
            values = [MULTILEVEL_ROI_ALIGN.input(node.inputs, role) for role in ("boxes", "count")]
            found.update(dict.fromkeys(str(value.name) for value in values if value is not None))
    return list(found)


def results(model: ir.Model) -> list[str]:
    """Names of what plain ONNX operators give to the custom nodes that find boxes, and to the user: logits, maps."""
    finders = (GENERATE_PROPOSALS, BOX_DETECTIONS)
    values = [value for node in model.graph if any(op.matches(node) for op in finders) for value in node.inputs]
    found: dict[str, None] = {}
    for value in [*values, *model.graph.outputs]:
        producer = value.producer() if value is not None else None
        if value is not None and producer is not None and producer.domain == "":
            found[str(value.name)] = None
    return list(found)
