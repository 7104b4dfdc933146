"""From the torch model to ``graph.onnx``: convolutional parts as plain ONNX, joined by our custom nodes.

The graph takes ``image`` (float32 ``[1, 3, H, W]``, RGB minus the mean, zero-padded), ``sizes`` (int32 ``[4]``: height
and width of the resized and of the original picture), ``max_proposals``, ``max_detections`` (int32 ``[1]``),
``score_threshold`` and ``nms_threshold`` (float32 ``[1]``). It gives ``boxes`` (float32 ``[D, 4]``, xyxy in the
original picture), ``scores`` ``[D]``, ``count`` (int32 ``[1]``) and the raw maps of every person; its metadata property
``densepose_engine`` says the rest as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ..errors import ExportError
from .config import ModelConfig, PoolerConfig, ResNetConfig
from .metadata import GRAPH_VERSION, METADATA
from .model import DensePoseRCNN
from .parts import OPSET, Box, DensePose, Trunk, convert
from .rewrite import rewrite

DOMAIN = "densepose"
DIVISOR = 32
# Users turn max_people up at run time without exporting again; 100 is detectron2's own default.
_LEAST_PEOPLE = 100
_EXAMPLE_BOXES = 3  # torch.export takes 0 and 1 for constants
_EXAMPLE_SIZE = (2 * DIVISOR, 3 * DIVISOR)


def export_graph(model: DensePoseRCNN, input_size: tuple[int, int] | None, provenance: Mapping[str, Any]) -> ir.Model:
    """The ONNX model of ``model``.

    Args:
        model: with its weights loaded.
        input_size: (height, width) of the network's input, multiples of 32; None for a graph of any such size.
        provenance: what the metadata should say of where configuration and weights come from.

    Raises:
        ExportError: torch cannot convert the model, or ``input_size`` is not usable.
    """
    if input_size is not None and (min(input_size) < DIVISOR or any(side % DIVISOR for side in input_size)):
        raise ExportError(f"input size {input_size[0]}x{input_size[1]}: both sides must be multiples of {DIVISOR}")
    config = model.config
    model = rewrite(model)

    trunk, box, densepose = Trunk(model), Box(model), DensePose(model)
    levels = [f"p{level}" for level in range(2, 7)]
    rpn = [f"rpn_{index}" for index in range(len(config.rpn.in_features))]
    features = "densepose_features"
    image_axes: dict[int, Any] | None = None
    if input_size is None:
        image_axes = {2: DIVISOR * torch.export.Dim("rows", min=1), 3: DIVISOR * torch.export.Dim("columns", min=1)}
    trunk_part = convert(
        trunk,
        torch.zeros(1, 3, *(input_size or _EXAMPLE_SIZE)),
        image_axes,
        [*levels, *rpn, *([features] if trunk.decodes else [])],
    )
    boxes_axis = {0: torch.export.Dim("boxes", min=1)}
    channels, side = config.neck.out_channels, config.box.pooler.resolution
    pooled = torch.zeros(_EXAMPLE_BOXES, channels, side, side)
    box_part = convert(box, pooled, boxes_axis, ["class_logits", "box_deltas"])
    if trunk.decodes and config.densepose.decoder is not None:
        channels = config.densepose.decoder.out_channels
    side = config.densepose.pooler.resolution
    pooled = torch.zeros(_EXAMPLE_BOXES, channels, side, side)
    maps = list(model.densepose(pooled[:1]))
    densepose_part = convert(densepose, pooled, boxes_axis, maps)

    image = _value("image", ir.DataType.FLOAT, [1, 3, *(input_size or ("rows", "columns"))])
    sizes = _value("sizes", ir.DataType.INT32, [4])
    max_proposals = _value("max_proposals", ir.DataType.INT32, [1])
    max_detections = _value("max_detections", ir.DataType.INT32, [1])
    score_threshold = _value("score_threshold", ir.DataType.FLOAT, [1])
    nms_threshold = _value("nms_threshold", ir.DataType.FLOAT, [1])

    max_people = max(_LEAST_PEOPLE, config.box.max_detections)
    once = trunk_part.connect(image)
    proposals = _generate_proposals(config, [once[name] for name in rpn], sizes, max_proposals)
    boxes, _, count = proposals.outputs
    box_align = _roi_align("box", config.box.pooler, [once[n] for n in config.box.in_features], boxes, count)
    head = box_part.connect(box_align.outputs[0])
    detections = ir.node(
        "BoxDetections",
        [*head.values(), boxes, count, sizes, score_threshold, nms_threshold, max_detections],
        {"bbox_weights": _floats(config.box.bbox_reg_weights), "capacity": max_people},
        domain=DOMAIN,
        num_outputs=4,
        name="detections/BoxDetections",
    )
    pooler = config.densepose.pooler
    sources = [features] if trunk.decodes else config.densepose.in_features[: len(pooler.strides)]
    people, people_original, scores, people_count = detections.outputs
    densepose_align = _roi_align("densepose", pooler, [once[n] for n in sources], people, people_count)
    result_maps = densepose_part.connect(densepose_align.outputs[0])

    f32, i32 = ir.DataType.FLOAT, ir.DataType.INT32
    box_side, side = config.box.pooler.resolution, pooler.resolution
    _declare(
        proposals,
        ("proposals", f32, ["proposals", 4]),
        ("proposal_scores", f32, ["proposals"]),
        ("proposal_count", i32, [1]),
    )
    _declare(box_align, ("box_pooled", f32, ["proposals", config.neck.out_channels, box_side, box_side]))
    _declare(
        detections,
        ("boxes_network", f32, ["people", 4]),
        ("boxes", f32, ["people", 4]),
        ("scores", f32, ["people"]),
        ("count", i32, [1]),
    )
    _declare(densepose_align, ("densepose_pooled", f32, ["people", channels, side, side]))

    parts = (trunk_part, box_part, densepose_part)
    graph = ir.Graph(
        inputs=[image, sizes, max_proposals, max_detections, score_threshold, nms_threshold],
        outputs=[people_original, scores, people_count, *result_maps.values()],
        nodes=[
            *trunk_part.nodes,
            proposals,
            box_align,
            *box_part.nodes,
            detections,
            densepose_align,
            *densepose_part.nodes,
        ],
        initializers=[value for part in parts for value in part.initializers],
        opset_imports={"": OPSET, DOMAIN: 1},
        name="densepose_rcnn",
    )
    left = sorted({node.op_type for node in graph} & {"BatchNormalization", "ConvTranspose", "Pad"})
    if left:
        raise ExportError(f"{', '.join(left)} left in the graph, where a rewrite should have replaced it")
    cut_points = {
        "neck": levels,
        "rpn": rpn,
        "proposals": ["proposals", "proposal_count"],
        "box_pooled": ["box_pooled"],
        "box": ["class_logits", "box_deltas"],
        "detections": ["boxes_network", "count"],
        "densepose_features": list(sources),
        "densepose_pooled": ["densepose_pooled"],
        "densepose": maps,
    }
    exported = ir.Model(graph, ir_version=10, producer_name="densepose-engine")
    exported.metadata_props[METADATA] = json.dumps(
        {
            **_describe(config, input_size, max_people),
            "maps": maps,
            "cut_points": cut_points,
            "provenance": dict(provenance),
        },
        sort_keys=True,
    )
    return exported


def _declare(node: ir.Node, *outputs: tuple[str, ir.DataType, list[Any]]) -> None:
    """Name, type and shape of a custom node's outputs, which no ONNX tool can infer."""
    for value, (name, dtype, shape) in zip(node.outputs, outputs, strict=True):
        value.name, value.dtype, value.shape = name, dtype, ir.Shape(shape)


def _value(name: str, dtype: ir.DataType, shape: list[Any]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _floats(values: Any) -> list[float]:
    """Through float32, which is what the kernels and detectron2's tensors hold."""
    return [float(value) for value in np.asarray(values, np.float32).ravel()]


def _generate_proposals(config: ModelConfig, maps: list[ir.Value], sizes: ir.Value, max_proposals: ir.Value) -> ir.Node:
    rpn = config.rpn
    return ir.node(
        "GenerateProposals",
        [*maps, sizes, max_proposals],
        {
            "strides": list(rpn.anchors.strides),
            "anchors": [x for level in rpn.anchors.cell_anchors() for x in _floats(level)],
            "anchor_offset": float(rpn.anchors.offset),
            "bbox_weights": _floats(rpn.bbox_reg_weights),
            "nms_threshold": float(rpn.nms_threshold),
            "min_size": float(rpn.min_box_size),
            "pre_nms_topk": rpn.pre_nms_topk,
            "capacity": rpn.max_proposals,
            "layout": "NCHW",
        },
        domain=DOMAIN,
        num_outputs=3,
        name="proposals/GenerateProposals",
    )


def _roi_align(stage: str, pooler: PoolerConfig, levels: list[ir.Value], boxes: ir.Value, count: ir.Value) -> ir.Node:
    return ir.node(
        "MultilevelRoiAlign",
        [*levels, boxes, count],
        {
            "strides": list(pooler.strides),
            "pooled_size": pooler.resolution,
            "sampling_ratio": pooler.sampling_ratio,
            "aligned": int(pooler.aligned),
            "canonical_box_size": 224,
            "canonical_level": 4,
            "zero_point": 0,
            "layout": "NCHW",
        },
        domain=DOMAIN,
        name=f"{stage}/MultilevelRoiAlign",
    )


def _describe(config: ModelConfig, input_size: tuple[int, int] | None, max_people: int) -> dict[str, Any]:
    """What an engine needs to know beside the graph."""
    mean = list(config.input.pixel_mean)
    return {
        "graph_version": GRAPH_VERSION,
        "architecture": describe_architecture(config),
        "input": {
            "size": list(input_size) if input_size else None,
            "mean_rgb": mean[::-1] if config.input.format == "BGR" else mean,
            "min_size": config.input.min_size_test,
            "max_size": config.input.max_size_test,
            "divisor": DIVISOR,
        },
        "defaults": {
            "score_threshold": config.box.score_threshold,
            "nms_threshold": config.box.nms_threshold,
            "max_people": config.box.max_detections,
            "max_proposals": config.rpn.max_proposals,
        },
        "capacity": {"max_people": max_people, "max_proposals": config.rpn.max_proposals},
    }


def describe_architecture(config: ModelConfig) -> str:
    """A short name such as "efficientnet_lite0-bifpn64-deeplab"."""
    backbone = config.backbone
    name = f"resnet{backbone.depth}" if isinstance(backbone, ResNetConfig) else backbone.name
    head = "v1convx" if config.densepose.deeplab is None else "deeplab"
    if config.densepose.shared_block is not None:
        head = {"parsing": "shared", "mobile": "mobileshared"}[config.densepose.shared_block.kind]
    return f"{name}-{config.neck.kind}{config.neck.out_channels}-{head}"
