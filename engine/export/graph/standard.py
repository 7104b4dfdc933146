"""The same network in plain ONNX operators: every custom node becomes a subgraph that any runtime knows.

It is what an engine is measured against, and a way to run the network where our operators cannot go. Inputs, outputs
and metadata are those of the graph with custom nodes. Numbers that are not finite are not sorted out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ...model.custom_ops import BOX_DETECTIONS, CLASSES, DOMAIN, GENERATE_PROPOSALS, MULTILEVEL_ROI_ALIGN

#: An ONNX file's metadata property that says which operators it is made of.
OPS = "densepose_engine.ops"
STANDARD = "standard"

_LARGEST_LOG = math.log(1000.0 / 16)  # detectron2's clamp of logarithmic sides
_LOWEST = -1e30  # below every score that counts; what must not be kept is set below it
_END = np.iinfo(np.int64).max


class _Builder:
    """Makes nodes in the place of one custom node; every call returns its (first) output."""

    def __init__(self, stage: str) -> None:
        self.tape = ir.tape.Tape()
        self._stage = stage
        self._number = 0

    def __call__(
        self, op: str, *inputs: ir.Value | np.ndarray | float | int | list[int], **attributes: Any
    ) -> ir.Value:
        return self.several(op, 1, *inputs, **attributes)[0]

    def several(
        self, op: str, outputs: int, *inputs: ir.Value | np.ndarray | float | int | list[int], **attributes: Any
    ) -> Sequence[ir.Value]:
        self._number += 1
        name = f"{self._stage}/{op}_{self._number}"
        values = [x if isinstance(x, ir.Value) else self._constant(x, f"{name}.{i}") for i, x in enumerate(inputs)]
        made = self.tape.op_multi_out(op, values, attributes=attributes, num_outputs=outputs, name=name)
        for index, value in enumerate(made):
            value.name = f"{name}:{index}"
        return made

    def _constant(self, content: np.ndarray | float | int | list[int], name: str) -> ir.Value:
        # Numbers that come from Python: integers are indices and shapes, all else is float32.
        array = content if isinstance(content, np.ndarray) else np.asarray(content)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        return self.tape.initializer(ir.tensor(array, name=name), name=name)

    # ---- what several of the nodes need ------------------------------------------------------------------------------

    def columns(self, boxes: ir.Value) -> Sequence[ir.Value]:
        """Four values ``[N, 1]`` of ``[N, 4]``."""
        return self.several("Split", 4, boxes, axis=1, num_outputs=4)

    def element(self, vector: ir.Value, index: int) -> ir.Value:
        """``[1]`` of an int32 vector, as float32."""
        return self("Cast", self("Slice", vector, [index], [index + 1], [0]), to=ir.DataType.FLOAT)

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """Length of an axis, int64 ``[1]``."""
        length = None if value.shape is None else value.shape[axis]
        if isinstance(length, int):
            return self._constant([length], f"{self._stage}/size_{len(self.tape.initializers)}")
        return self("Shape", value, start=axis, end=axis + 1)

    def decode(self, boxes: ir.Value, deltas: ir.Value, weights: Sequence[float]) -> ir.Value:
        """Boxes moved and scaled by regression deltas."""
        x0, y0, x1, y1 = self.columns(boxes)
        scaled = self("Div", deltas, np.asarray(weights, np.float32))
        moves = self.columns(scaled)
        low, high = [], []
        for start, end, move, log in ((x0, x1, moves[0], moves[2]), (y0, y1, moves[1], moves[3])):
            side = self("Sub", end, start)
            center = self("Add", self("Mul", move, side), self("Add", start, self("Mul", side, 0.5)))
            half = self("Mul", self("Mul", self("Exp", self("Min", log, _LARGEST_LOG)), side), 0.5)
            low.append(self("Sub", center, half))
            high.append(self("Add", center, half))
        return self("Concat", *low, *high, axis=1)

    def clip(self, boxes: ir.Value, height: ir.Value, width: ir.Value) -> ir.Value:
        """Boxes limited to a picture."""
        limits = self("Concat", width, height, width, height, axis=0)
        return self("Min", self("Max", boxes, 0.0), limits)

    def smaller_side(self, boxes: ir.Value) -> ir.Value:
        """``[N]``."""
        x0, y0, x1, y1 = self.columns(boxes)
        return self("Reshape", self("Min", self("Sub", x1, x0), self("Sub", y1, y0)), [-1])

    def best(self, boxes: ir.Value, scores: ir.Value, most: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The ``most`` (int64 ``[1]``) best boxes and scores, best first."""
        count = self("Min", self("Shape", scores), most)
        top, index = self.several("TopK", 2, scores, count, axis=0, largest=1, sorted=1)
        return self("Gather", boxes, index, axis=0), top

    def suppress(
        self,
        boxes: ir.Value,
        scores: ir.Value,
        most: ir.Value,
        iou: ir.Value | np.ndarray,
        threshold: ir.Value | np.ndarray,
    ) -> ir.Value:
        """Indices of what NMS keeps."""
        kept = self(
            "NonMaxSuppression",
            self("Unsqueeze", boxes, [0]),
            self("Unsqueeze", scores, [0, 1]),
            most,
            iou,
            threshold,
            center_point_box=0,
        )
        return self("Gather", kept, 2, axis=1)


# ---- the nodes -------------------------------------------------------------------------------------------------------


def _generate_proposals(make: _Builder, node: ir.Node) -> list[ir.Value]:
    inputs = _inputs(node)
    levels = GENERATE_PROPOSALS.levels(inputs)
    sizes, max_proposals = (GENERATE_PROPOSALS.input(inputs, role) for role in ("sizes", "max_proposals"))
    attributes = node.attributes
    cells = np.asarray(attributes["anchors"].as_floats(), np.float32).reshape(len(levels), -1, 4)
    anchors = cells.shape[1]
    height, width = make.element(sizes, 0), make.element(sizes, 1)
    most = make("Cast", max_proposals, to=ir.DataType.INT64)
    all_boxes, all_scores = [], []
    for level, stride, cell in zip(levels, attributes["strides"].as_ints(), cells, strict=True):
        rows = make("Slice", level, [0], [anchors], [1])
        scores = make("Reshape", make("Transpose", rows, perm=[0, 2, 3, 1]), [-1])
        rows = make("Slice", level, [anchors], [_END], [1])
        shape = make(
            "Concat",
            make._constant([1, anchors, 4], f"{level.name}/split"),
            make.size(level, 2),
            make.size(level, 3),
            axis=0,
        )
        deltas = make("Reshape", rows, shape)
        deltas = make("Reshape", make("Transpose", deltas, perm=[0, 3, 4, 1, 2]), [-1, 4])
        count = make("Min", make("Shape", scores), [attributes["pre_nms_topk"].as_int()])
        scores, index = make.several("TopK", 2, scores, count, axis=0, largest=1, sorted=1)
        deltas = make("Gather", deltas, index, axis=0)
        pixel = make("Div", index, [anchors])
        across = make.size(level, 3)
        x, y = make("Mod", pixel, across), make("Div", pixel, across)
        offset = attributes["anchor_offset"].as_float()
        points = [
            make(
                "Unsqueeze", make("Mul", make("Add", make("Cast", p, to=ir.DataType.FLOAT), offset), float(stride)), [1]
            )
            for p in (x, y)
        ]
        boxes = make("Gather", cell, make("Mod", index, [anchors]), axis=0)
        boxes = make("Add", boxes, make("Concat", *points, *points, axis=1))
        boxes = make.clip(make.decode(boxes, deltas, attributes["bbox_weights"].as_floats()), height, width)
        large = make("Greater", make.smaller_side(boxes), attributes["min_size"].as_float())
        ranked = make("Where", large, scores, 2 * _LOWEST)
        # No level gives more than is wanted of all of them.
        iou = np.asarray([attributes["nms_threshold"].as_float()], np.float32)
        kept = make.suppress(boxes, ranked, most, iou, np.asarray([_LOWEST], np.float32))
        all_boxes.append(make("Gather", boxes, kept, axis=0))
        all_scores.append(make("Gather", scores, kept, axis=0))
    boxes, scores = make.best(make("Concat", *all_boxes, axis=0), make("Concat", *all_scores, axis=0), most)
    return [boxes, scores, make("Cast", make("Shape", scores), to=ir.DataType.INT32)]


def _multilevel_roi_align(make: _Builder, node: ir.Node) -> list[ir.Value]:
    inputs = _inputs(node)
    levels, boxes = MULTILEVEL_ROI_ALIGN.levels(inputs), MULTILEVEL_ROI_ALIGN.input(inputs, "boxes")
    attributes = node.attributes
    strides = attributes["strides"].as_ints()
    scale = zero = None
    if levels[0].dtype in (ir.DataType.UINT8, ir.DataType.INT8):
        # No runtime's own RoiAlign reads integers: around it they are float.
        reader = next(use.node for use in node.outputs[0].uses())
        assert reader.op_type == "DequantizeLinear"
        scale, zero = reader.inputs[1], reader.inputs[2]
        levels = [make("DequantizeLinear", level, scale, zero) for level in levels]  # type: ignore[arg-type]

    def pool(level: ir.Value, stride: int, boxes: ir.Value) -> ir.Value:
        side = attributes["pooled_size"].as_int()
        batch = make("Expand", np.zeros(1, np.int64), make("Shape", boxes, start=0, end=1))
        return make(
            "RoiAlign",
            level,
            boxes,
            batch,
            coordinate_transformation_mode="half_pixel" if attributes["aligned"].as_int() else "output_half_pixel",
            mode="avg",
            output_height=side,
            output_width=side,
            sampling_ratio=attributes["sampling_ratio"].as_int(),
            spatial_scale=1.0 / stride,
        )

    if len(levels) == 1:
        pooled = pool(levels[0], strides[0], boxes)
    else:
        x0, y0, x1, y1 = make.columns(boxes)
        side = make("Sqrt", make("Mul", make("Sub", x1, x0), make("Sub", y1, y0)))
        # One level up at each of these sides: floor(canonical level + log2(side / canonical size)) without logarithms.
        shift = int(math.log2(strides[0])) - attributes["canonical_level"].as_int()
        limits = attributes["canonical_box_size"].as_int() * 2.0 ** (shift + np.arange(1, len(levels)))
        above = make("Cast", make("GreaterOrEqual", side, limits[None]), to=ir.DataType.INT64)
        chosen = make("ReduceSum", above, [1], keepdims=0)
        parts, rows = [], []
        for number, (level, stride) in enumerate(zip(levels, strides, strict=True)):
            index = make("Reshape", make("NonZero", make("Equal", chosen, number)), [-1])
            parts.append(pool(level, stride, make("Gather", boxes, index, axis=0)))
            rows.append(index)
        order = make("Concat", *rows, axis=0)
        places = make("Range", 0, make("Squeeze", make("Shape", order), [0]), 1)
        inverse = make("ScatterElements", order, order, places, axis=0)
        pooled = make("Gather", make("Concat", *parts, axis=0), inverse, axis=0)
    if scale is not None and zero is not None:
        pooled = make("QuantizeLinear", pooled, scale, zero)
    return [pooled]


def _box_detections(make: _Builder, node: ir.Node) -> list[ir.Value]:
    given = dict(zip(BOX_DETECTIONS.inputs, _inputs(node), strict=True))
    height, width = make.element(given["sizes"], 0), make.element(given["sizes"], 1)
    capacity = [node.attributes["capacity"].as_int()]
    most = make("Min", make("Cast", given["max_detections"], to=ir.DataType.INT64), capacity)
    boxes, scores, classes = _best_candidates(make, node, given, most, height, width)
    full_height, full_width = make.element(given["sizes"], 2), make.element(given["sizes"], 3)
    across, down = make("Div", full_width, width), make("Div", full_height, height)
    original = make("Mul", boxes, make("Concat", across, down, across, down, axis=0))
    original = make.clip(original, full_height, full_width)
    index = make("Reshape", make("NonZero", make("Greater", make.smaller_side(original), 0.0)), [-1])
    kept = [make("Gather", value, index, axis=0) for value in (boxes, original, scores)]
    kept.append(make("Cast", make("Shape", kept[2]), to=ir.DataType.INT32))
    if CLASSES in BOX_DETECTIONS.by_role(node.outputs):
        found = make("Sub", index, index) if classes is None else make("Gather", classes, index, axis=0)
        kept.append(make("Cast", found, to=ir.DataType.INT32))
    return kept


def _best_candidates(
    make: _Builder,
    node: ir.Node,
    given: Mapping[str, ir.Value],
    most: ir.Value,
    height: ir.Value,
    width: ir.Value,
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """The ``most`` best boxes in the resized picture, scores and, of several classes, classes that NMS keeps."""
    logits, deltas, proposals = (given[role] for role in ("class_logits", "box_deltas", "boxes"))
    weights = node.attributes["bbox_weights"].as_floats()
    thresholds = given["nms_threshold"], given["score_threshold"]
    classes = _columns(logits) - 1
    probabilities = make("Softmax", logits, axis=1)
    if classes == 1:
        scores = make("Reshape", make("Slice", probabilities, [0], [1], [1]), [-1])
        boxes = make.clip(make.decode(proposals, deltas, weights), height, width)
        kept = make.suppress(boxes, scores, most, *thresholds)
        return *make.best(make("Gather", boxes, kept, axis=0), make("Gather", scores, kept, axis=0), most), None
    scores = make("Transpose", make("Slice", probabilities, [0], [classes], [1]), perm=[1, 0])
    # A batch for each class, because NonMaxSuppression has boxes of its own for batches only.
    if _columns(deltas) == 4:
        boxes = make.clip(make.decode(proposals, deltas, weights), height, width)
        boxes = make("Expand", make("Unsqueeze", boxes, [0]), [classes, 1, 1])
    else:
        moves = make("Transpose", make("Reshape", deltas, [-1, classes, 4]), perm=[1, 0, 2])
        repeated = make("Tile", proposals, [classes, 1])
        boxes = make.clip(make.decode(repeated, make("Reshape", moves, [-1, 4]), weights), height, width)
        boxes = make("Reshape", boxes, [classes, -1, 4])
    kept = make("NonMaxSuppression", boxes, make("Unsqueeze", scores, [1]), most, *thresholds, center_point_box=0)
    class_of = make("Gather", kept, 0, axis=1)
    place = make("Concat", make("Slice", kept, [0], [1], [1]), make("Slice", kept, [2], [3], [1]), axis=1)
    boxes, scores = make("GatherND", boxes, place), make("GatherND", scores, place)
    count = make("Min", make("Shape", scores), most)
    scores, index = make.several("TopK", 2, scores, count, axis=0, largest=1, sorted=1)
    return make("Gather", boxes, index, axis=0), scores, make("Gather", class_of, index, axis=0)


def _columns(value: ir.Value) -> int:
    assert value.shape is not None and isinstance(value.shape[1], int)  # the box head's layers are
    return value.shape[1]


_EXPANSIONS: Mapping[str, tuple[str, Callable[[_Builder, ir.Node], list[ir.Value]]]] = {
    GENERATE_PROPOSALS.name: ("proposals", _generate_proposals),
    MULTILEVEL_ROI_ALIGN.name: ("", _multilevel_roi_align),
    BOX_DETECTIONS.name: ("detections", _box_detections),
}


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def expand_custom_nodes(model: ir.Model) -> None:
    """Replace every custom node of an exported (perhaps quantized) graph by standard operators, in place.

    Nodes must be in layout NCHW, as ``export`` makes them.
    """
    graph = model.graph
    for node in list(graph):
        if node.domain != DOMAIN:
            continue
        stage, expansion = _EXPANSIONS[node.op_type]
        make = _Builder(stage or str(node.outputs[0].name).split("/")[0])
        made = expansion(make, node)
        for old, new in zip(node.outputs, made, strict=True):
            new.type, new.shape = old.type, old.shape
        for value in make.tape.initializers:
            graph.register_initializer(value)
        ir.convenience.replace_nodes_and_values(graph, node, [node], make.tape.nodes, node.outputs, made)
    del graph.opset_imports[DOMAIN]
    model.metadata_props[OPS] = STANDARD
