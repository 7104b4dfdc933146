"""The custom nodes of a graph: what each is called, and what each of its inputs and outputs is for.

Whoever places layouts, scales or casts, cuts the graph or taps it asks here for "levels" or "count"; nobody counts
inputs from an end. Works on nodes of onnx_ir and on any sequences of inputs, whatever library they are of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

#: The ONNX domain of all custom nodes.
DOMAIN = "densepose"
#: The role of an op's leading inputs where it reads several feature maps: as many as its attribute ``strides`` has.
LEVELS = "levels"
#: What the attribute ``layout`` of such an op may say.
LAYOUTS = ("NCHW", "NHWC")

T = TypeVar("T")


class Node(Protocol):
    """What is asked of a node of a graph; ``onnx_ir.Node`` and ``onnx.NodeProto`` are such."""

    @property
    def domain(self) -> str: ...

    @property
    def op_type(self) -> str: ...


@dataclass(frozen=True)
class CustomOp:
    """An op by its ONNX type ``name``, and the roles of its ``inputs`` and ``outputs`` in their order.

    ``inputs`` may begin with ``LEVELS``, which stands for one input or more. ``writes_maps``: its output 0 is maps
    ``[N, C, H, W]`` in the layout of its attribute. ``any_level_type``: levels may be float16 or bytes, and then what
    it makes is of the same type; all else that custom nodes read and make is float32 or int32. ``limits``: least and
    most of integer attributes, far beyond real ones: a damaged graph must not ask for terabytes.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    writes_maps: bool = False
    any_level_type: bool = False
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def reads_levels(self) -> bool:
        """Whether it reads feature maps, in the layout of its attribute ``layout``."""
        return self.inputs[0] == LEVELS

    def matches(self, node: Node) -> bool:
        """Whether ``node`` is one of these."""
        return node.domain == DOMAIN and node.op_type == self.name

    def level_count(self, count: int) -> int:
        """How many of a node's ``count`` inputs are levels: the first ones.

        Raises:
            ValueError: a node of this op cannot have so many inputs.
        """
        levels = count - len(self.inputs) + 1 if self.reads_levels else 0
        if levels < 1 if self.reads_levels else count != len(self.inputs):
            raise ValueError(f"a {self.name} node has {count} inputs, which are {', '.join(self.inputs)}")
        return levels

    def levels(self, inputs: Sequence[T]) -> Sequence[T]:
        """The feature maps among a node's inputs; none, if it reads no maps."""
        return inputs[: self.level_count(len(inputs))]

    def position(self, role: str, count: int) -> int:
        """The index of the input ``role`` of a node with ``count`` inputs."""
        levels = self.level_count(count)
        return self.inputs.index(role) + max(levels - 1, 0)

    def input(self, inputs: Sequence[T], role: str) -> T:
        """The one of a node's inputs that is ``role``."""
        return inputs[self.position(role, len(inputs))]

    def output(self, outputs: Sequence[T], role: str) -> T:
        """The one of a node's outputs that is ``role``."""
        return outputs[self.outputs.index(role)]

    def by_role(self, outputs: Sequence[T]) -> dict[str, T]:
        """A node's outputs by their roles; the last ones may be left out."""
        return dict(zip(self.outputs, outputs, strict=False))


_STRIDES, _BOXES = (1, 1024), (1, 100_000)

GENERATE_PROPOSALS = CustomOp(
    "GenerateProposals",
    inputs=(LEVELS, "sizes", "max_proposals"),
    outputs=("boxes", "scores", "count"),
    limits={"strides": _STRIDES, "pre_nms_topk": _BOXES, "capacity": _BOXES},
)
MULTILEVEL_ROI_ALIGN = CustomOp(
    "MultilevelRoiAlign",
    inputs=(LEVELS, "boxes", "count"),
    outputs=("pooled",),
    writes_maps=True,
    any_level_type=True,
    limits={"strides": _STRIDES, "pooled_size": (1, 256), "sampling_ratio": (0, 64)},
)
BOX_DETECTIONS = CustomOp(
    "BoxDetections",
    inputs=(
        *("class_logits", "box_deltas", "boxes", "count"),
        *("sizes", "score_threshold", "nms_threshold", "max_detections"),
    ),
    outputs=("boxes_network", "boxes", "scores", "count", "classes"),
    limits={"capacity": _BOXES},
)
#: Every op that a graph may hold. ``ChartResult`` and ``ClosestVertices`` follow the graph and are no nodes.
CUSTOM_OPS = (GENERATE_PROPOSALS, MULTILEVEL_ROI_ALIGN, BOX_DETECTIONS)


def custom_op(node: Node) -> CustomOp | None:
    """Which op a node is; None for a standard ONNX operator."""
    return next((op for op in CUSTOM_OPS if op.matches(node)), None)


@dataclass(frozen=True)
class Setting:
    """A small input of the graph: ``dtype`` is a numpy name, ``length`` that of its only axis."""

    dtype: str
    length: int


#: What the graph takes beside ``image``; custom nodes read each of them under the same name.
SETTINGS = {
    "sizes": Setting("int32", 4),  # height and width of the resized picture, then of the original one
    "max_proposals": Setting("int32", 1),
    "max_detections": Setting("int32", 1),
    "score_threshold": Setting("float32", 1),
    "nms_threshold": Setting("float32", 1),
}
IMAGE = "image"
#: What the graph gives beside the maps: the roles of BoxDetections' outputs that leave the graph.
DETECTIONS = ("boxes", "scores", "count")
#: One more that leaves it, of a model of several classes; a node for one class has no such output.
CLASSES = "classes"
