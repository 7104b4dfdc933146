"""From the torch model to ``graph.onnx``: convolutional parts as plain ONNX, joined by our custom nodes.

The graph takes ``image`` (float32 ``[1, 3, H, W]``, RGB minus the mean, zero-padded), ``sizes`` (int32 ``[4]``: height
and width of the resized and of the original picture), ``max_proposals``, ``max_detections`` (int32 ``[1]``),
``score_threshold`` and ``nms_threshold`` (float32 ``[1]``). It gives ``boxes`` (float32 ``[D, 4]``, xyxy in the
original picture), ``scores`` ``[D]``, ``count`` (int32 ``[1]``), of a model of several classes ``classes`` (int32
``[D]``), and the raw maps of every person; its metadata property ``densepose_engine`` says the rest as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ...errors import ExportError
from ...model.custom_ops import (
    BOX_DETECTIONS,
    CLASSES,
    DETECTIONS,
    DOMAIN,
    GENERATE_PROPOSALS,
    IMAGE,
    LEVELS,
    MULTILEVEL_ROI_ALIGN,
    SETTINGS,
    CustomOp,
)
from ...model.decoder import DecoderDescription
from ...model.description import GRAPH_VERSION, Capacity, InputDescription, ModelDescription
from ...model.frame import FrameSettings
from ...model.graph_file import METADATA, write_description
from ..config.model_config import EmbeddingPredictorConfig, ModelConfig, PoolerConfig, ResNetConfig
from ..model import DensePoseRCNN
from .decoder import add_decoder_tensors, describe_decoder
from .parts import OPSET, Box, DensePose, Part, Trunk, convert
from .rewrite import rewrite

__all__ = ["DIVISOR", "DOMAIN", "GRAPH_VERSION", "METADATA", "describe_architecture", "export_graph"]

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
    parts = _Parts.of(rewrite(model), input_size)
    max_people = max(_LEAST_PEOPLE, config.box.max_detections)
    graph = _join(parts, config, input_size, max_people)
    left = sorted({node.op_type for node in graph} & {"BatchNormalization", "ConvTranspose", "Pad"})
    if left:
        raise ExportError(f"{', '.join(left)} left in the graph, where a rewrite should have replaced it")
    decoder, tensors = describe_decoder(model)
    add_decoder_tensors(graph, tensors)
    exported = ir.Model(graph, ir_version=10, producer_name="densepose-engine")
    write_description(exported, _describe(config, parts, input_size, max_people, decoder, provenance))
    return exported


@dataclass(frozen=True)
class _Parts:
    """The converted parts, and the names of the tensors between them.

    ``sources``: what the DensePose head pools from, of ``channels`` channels.
    """

    trunk: Part
    box: Part
    densepose: Part
    levels: list[str]
    rpn: list[str]
    sources: list[str]
    channels: int
    maps: list[str]

    @classmethod
    def of(cls, model: DensePoseRCNN, input_size: tuple[int, int] | None) -> _Parts:
        config = model.config
        trunk, box, densepose = Trunk(model), Box(model), DensePose(model)
        levels = [f"p{level}" for level in range(2, 7)]
        rpn = [f"rpn_{index}" for index in range(len(config.rpn.in_features))]
        channels, pooler = config.neck.out_channels, config.densepose.pooler
        sources = list(config.densepose.in_features[: len(pooler.strides)])
        if trunk.decodes and config.densepose.decoder is not None:
            sources, channels = ["densepose_features"], config.densepose.decoder.out_channels
        image_axes: dict[int, Any] | None = None
        if input_size is None:
            image_axes = {2: DIVISOR * torch.export.Dim("rows", min=1), 3: DIVISOR * torch.export.Dim("columns", min=1)}
        trunk_part = convert(
            trunk,
            torch.zeros(1, 3, *(input_size or _EXAMPLE_SIZE)),
            image_axes,
            [*levels, *rpn, *(sources if trunk.decodes else [])],
        )
        boxes_axis = {0: torch.export.Dim("boxes", min=1)}
        pooled = _pooled(config.neck.out_channels, config.box.pooler)
        box_part = convert(box, pooled, boxes_axis, ["class_logits", "box_deltas"])
        pooled = _pooled(channels, pooler)
        maps = list(model.densepose(pooled[:1]))
        densepose_part = convert(densepose, pooled, boxes_axis, maps)
        return cls(trunk_part, box_part, densepose_part, levels, rpn, sources, channels, maps)


def _pooled(channels: int, pooler: PoolerConfig) -> torch.Tensor:
    """What a head reads of some boxes."""
    return torch.zeros(_EXAMPLE_BOXES, channels, pooler.resolution, pooler.resolution)


def _join(parts: _Parts, config: ModelConfig, input_size: tuple[int, int] | None, max_people: int) -> ir.Graph:
    """The parts with the custom nodes between them."""
    image = _value(IMAGE, ir.DataType.FLOAT, [1, 3, *(input_size or ("rows", "columns"))])
    settings = {
        name: _value(name, ir.DataType.from_numpy(np.dtype(one.dtype)), [one.length]) for name, one in SETTINGS.items()
    }
    once = parts.trunk.connect(image)
    proposals = _generate_proposals(config, [once[name] for name in parts.rpn], settings)
    boxes, count = (GENERATE_PROPOSALS.output(proposals.outputs, role) for role in ("boxes", "count"))
    box_align = _roi_align("box", config.box.pooler, [once[n] for n in config.box.in_features], boxes, count)
    detections = _custom_node(
        BOX_DETECTIONS,
        {**parts.box.connect(box_align.outputs[0]), "boxes": boxes, "count": count, **settings},
        {"bbox_weights": _floats(config.box.bbox_reg_weights), "capacity": max_people},
        "detections",
        # Of one class there is nothing to say, and its graphs are those from before there were several.
        without=() if config.box.num_classes > 1 else (CLASSES,),
    )
    people = BOX_DETECTIONS.by_role(detections.outputs)
    sources = [once[name] for name in parts.sources]
    pooler = config.densepose.pooler
    densepose_align = _roi_align("densepose", pooler, sources, people["boxes_network"], people["count"])
    maps = parts.densepose.connect(densepose_align.outputs[0])
    _declare_outputs(proposals, box_align, detections, densepose_align, parts, config)
    before, after = [proposals, box_align], [detections, densepose_align]
    return ir.Graph(
        inputs=[image, *settings.values()],
        outputs=[*(people[role] for role in (*DETECTIONS, CLASSES) if role in people), *maps.values()],
        nodes=[*parts.trunk.nodes, *before, *parts.box.nodes, *after, *parts.densepose.nodes],
        initializers=[value for part in (parts.trunk, parts.box, parts.densepose) for value in part.initializers],
        opset_imports={"": OPSET, DOMAIN: 1},
        name="densepose_rcnn",
    )


def _declare_outputs(
    proposals: ir.Node,
    box_align: ir.Node,
    detections: ir.Node,
    densepose_align: ir.Node,
    parts: _Parts,
    config: ModelConfig,
) -> None:
    """Name, type and shape of the custom nodes' outputs, which no ONNX tool can infer."""
    f32, i32 = ir.DataType.FLOAT, ir.DataType.INT32
    _declare(
        proposals,
        ("proposals", f32, ["proposals", 4]),
        ("proposal_scores", f32, ["proposals"]),
        ("proposal_count", i32, [1]),
    )
    side = config.box.pooler.resolution
    _declare(box_align, ("box_pooled", f32, ["proposals", config.neck.out_channels, side, side]))
    people: list[tuple[str, ir.DataType, list[Any]]] = [
        ("boxes_network", f32, ["people", 4]),
        ("boxes", f32, ["people", 4]),
        ("scores", f32, ["people"]),
        ("count", i32, [1]),
        (CLASSES, i32, ["people"]),
    ]
    _declare(detections, *people[: len(detections.outputs)])
    side = config.densepose.pooler.resolution
    _declare(densepose_align, ("densepose_pooled", f32, ["people", parts.channels, side, side]))


def _declare(node: ir.Node, *outputs: tuple[str, ir.DataType, list[Any]]) -> None:
    for value, (name, dtype, shape) in zip(node.outputs, outputs, strict=True):
        value.name, value.dtype, value.shape = name, dtype, ir.Shape(shape)


def _value(name: str, dtype: ir.DataType, shape: list[Any]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def _floats(values: Any) -> list[float]:
    """Through float32, which is what the kernels and detectron2's tensors hold."""
    return [float(value) for value in np.asarray(values, np.float32).ravel()]


def _custom_node(
    op: CustomOp,
    given: Mapping[str, ir.Value | Sequence[ir.Value]],
    attributes: Mapping[str, Any],
    stage: str,
    without: Sequence[str] = (),
) -> ir.Node:
    """A node of ``op`` from what its inputs are given by their roles; what it does not read may be among them.

    ``without``: roles of outputs that it leaves out, which must be the last ones.
    """
    inputs: list[ir.Value] = []
    for role in op.inputs:
        value = given[role]
        inputs += [value] if isinstance(value, ir.Value) else value
    name = f"{stage}/{op.name}"
    return ir.node(op.name, inputs, attributes, domain=DOMAIN, num_outputs=len(op.outputs) - len(without), name=name)


def _generate_proposals(config: ModelConfig, maps: list[ir.Value], settings: Mapping[str, ir.Value]) -> ir.Node:
    rpn = config.rpn
    return _custom_node(
        GENERATE_PROPOSALS,
        {LEVELS: maps, **settings},
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
        "proposals",
    )


def _roi_align(stage: str, pooler: PoolerConfig, levels: list[ir.Value], boxes: ir.Value, count: ir.Value) -> ir.Node:
    return _custom_node(
        MULTILEVEL_ROI_ALIGN,
        {LEVELS: levels, "boxes": boxes, "count": count},
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
        stage,
    )


def _describe(
    config: ModelConfig,
    parts: _Parts,
    input_size: tuple[int, int] | None,
    max_people: int,
    decoder: DecoderDescription,
    provenance: Mapping[str, Any],
) -> ModelDescription:
    """What an engine needs to know beside the graph."""
    first, second, third = config.input.pixel_mean
    return ModelDescription(
        architecture=describe_architecture(config),
        input=InputDescription(
            size=input_size,
            mean_rgb=(third, second, first) if config.input.format == "BGR" else (first, second, third),
            min_size=config.input.min_size_test,
            max_size=config.input.max_size_test,
            divisor=DIVISOR,
        ),
        defaults=FrameSettings(
            score_threshold=config.box.score_threshold,
            nms_threshold=config.box.nms_threshold,
            max_people=config.box.max_detections,
            max_proposals=config.rpn.max_proposals,
        ),
        capacity=Capacity(max_people=max_people, max_proposals=config.rpn.max_proposals),
        maps=tuple(parts.maps),
        # By name, as the provenance is: the same checkpoint gives the same bytes.
        cut_points={
            "box": ("class_logits", "box_deltas"),
            "box_pooled": ("box_pooled",),
            "densepose": tuple(parts.maps),
            "densepose_features": tuple(parts.sources),
            "densepose_pooled": ("densepose_pooled",),
            "detections": ("boxes_network", "count"),
            "neck": tuple(parts.levels),
            "proposals": ("proposals", "proposal_count"),
            "rpn": tuple(parts.rpn),
        },
        provenance=json.loads(json.dumps(provenance, sort_keys=True)),
        decoder=decoder,
    )


def describe_architecture(config: ModelConfig) -> str:
    """A short name such as "efficientnet_lite0-bifpn64-deeplab"; of embeddings with "-cse" at its end."""
    backbone = config.backbone
    name = f"resnet{backbone.depth}" if isinstance(backbone, ResNetConfig) else backbone.name
    head = "v1convx" if config.densepose.deeplab is None else "deeplab"
    if config.densepose.shared_block is not None:
        head = {"parsing": "shared", "mobile": "mobileshared"}[config.densepose.shared_block.kind]
    maps = "-cse" if isinstance(config.densepose.predictor, EmbeddingPredictorConfig) else ""
    return f"{name}-{config.neck.kind}{config.neck.out_channels}-{head}{maps}"
