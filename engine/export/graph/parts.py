"""The convolutional parts of the model, each converted by torch's exporter into nodes that ``graph`` joins."""

from __future__ import annotations

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ...errors import ExportError
from ..model import DensePoseRCNN

OPSET = 18


class Trunk(nn.Module):
    """Everything that runs once per picture: pyramid levels, RPN maps and, where it has weights, the decoder's map."""

    #: First part of a node's name by the path of the module that it comes from; the first prefix that fits counts.
    stages = (
        ("backbone.bottom_up", "backbone"),
        ("backbone", "neck"),
        ("rpn", "rpn"),
        ("decoder", "densepose/decoder"),
    )

    def __init__(self, model: DensePoseRCNN) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.rpn = model.proposal_generator.rpn_head
        self.decoder = model.roi_heads.decoder
        self._config = model.config

    @property
    def decodes(self) -> bool:
        """Whether there is a decoder that does more than hand on a level."""
        return self.decoder is not None and any(True for _ in self.decoder.parameters())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        levels = self.backbone(image)
        rpn = [self.rpn(levels[name]) for name in self._config.rpn.in_features]
        decoded = []
        if self.decodes:
            assert self.decoder is not None
            decoded = [self.decoder([levels[name] for name in self._config.densepose.in_features])]
        return (*levels.values(), *rpn, *decoded)


class Box(nn.Module):
    """Pooled features to class logits and box deltas."""

    stages = (("", "box"),)

    def __init__(self, model: DensePoseRCNN) -> None:
        super().__init__()
        self.head = model.roi_heads.box_head
        self.predictor = model.roi_heads.box_predictor

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.predictor(self.head(pooled))


class DensePose(nn.Module):
    """Pooled features to maps, in the order of the predictor's dictionary."""

    stages = (("predictor", "densepose/predictor"), ("", "densepose"))

    def __init__(self, model: DensePoseRCNN) -> None:
        super().__init__()
        self.shared_block = model.roi_heads.shared_block
        self.head = model.roi_heads.densepose_head
        self.predictor = model.roi_heads.map_predictor  # the head made no maps any more once it was rewritten

    def forward(self, pooled: Tensor) -> tuple[Tensor, ...]:
        x = pooled if self.shared_block is None else self.shared_block(pooled)
        return tuple(self.predictor(self.head(x)).values())


@dataclass
class Part:
    """A converted module; its nodes belong to no graph yet."""

    nodes: list[ir.Node]
    initializers: list[ir.Value]
    input: ir.Value
    outputs: dict[str, ir.Value]

    def connect(self, source: ir.Value) -> dict[str, ir.Value]:
        """Feed the part from ``source``; its outputs by name."""
        ir.convenience.replace_all_uses_with(self.input, source)
        return self.outputs


def convert(
    module: Trunk | Box | DensePose, example: Tensor, axes: dict[int, Any] | None, output_names: Sequence[str]
) -> Part:
    """Convert ``module``, of one input, with torch's exporter.

    Args:
        example: an input; axes in ``axes`` (axis -> ``torch.export.Dim``) stay symbolic, all others become constants.
        output_names: of the part's outputs, unique in the whole graph.

    Raises:
        ExportError: torch cannot convert it; torch's own error is chained.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=(axes or {},),
                input_names=["part_input"],
                output_names=list(output_names),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:
        name = type(module).__name__
        raise ExportError(f"torch {torch.__version__} cannot convert the part {name} of this model: {error}") from error
    assert program is not None
    graph = program.model.graph
    _name(graph, module.stages)
    part = Part(
        nodes=list(graph),
        initializers=list(graph.initializers.values()),
        input=graph.inputs[0],
        outputs=dict(zip(output_names, graph.outputs, strict=True)),
    )
    graph.outputs.clear()
    graph.inputs.clear()
    graph.initializers.clear()
    graph.remove(part.nodes)
    return part


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks about packages that this project does not use are not the user's business."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name(graph: ir.Graph, stages: Sequence[tuple[str, str]]) -> None:
    """Name nodes after the modules that they come from, and drop what the exporter noted about this machine's files."""
    outputs = {id(value) for value in graph.outputs}
    taken: Counter[str] = Counter()
    stage = stages[0][1]
    for node in graph:
        # What the exporter adds on its own account belongs to no module, so it goes by the node before it.
        name = _stage_path(_module_path(node), stages) or f"{stage}/{node.op_type}"
        stage = name.partition("/")[0]
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        node.metadata_props.clear()
        node.doc_string = None
        for index, value in enumerate(node.outputs):
            value.metadata_props.clear()
            if id(value) not in outputs:
                value.name = f"{node.name}:{index}"
    for value in list(graph.initializers.values()):
        reader = next(use.node.name for use in value.uses())
        own = str(value.name).rsplit(".", 1)[-1].replace("weight_bias", "bias")  # as folding BatchNorm names it
        value.name = f"{reader}.{own}"


def _module_path(node: ir.Node) -> str:
    """Dotted path of the torch module; for what is no layer of its own, the operator's type follows."""
    if len(node.inputs) > 1 and (weight := node.inputs[1]) is not None and weight.is_initializer():
        path, _, last = str(weight.name).rpartition(".")
        if last == "weight":
            return path
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']"))
    return f"{scopes[-2]}.{node.op_type}" if len(scopes) > 1 and scopes[-2] else node.op_type


def _stage_path(path: str, stages: Sequence[tuple[str, str]]) -> str | None:
    """The node's name, or None where its module is none of ours."""
    for prefix, stage in stages:
        if path == prefix or path.startswith(prefix + "." if prefix else ""):
            return "/".join(part for part in (stage, path[len(prefix) :].lstrip(".")) if part)
    return None
