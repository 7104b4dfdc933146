"""One frame's sizes and settings: what a picture is resized to, and at which thresholds it is looked at.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from ..files.fields import is_integer, shown

if TYPE_CHECKING:
    from .description import Capacity, InputDescription

_NOMINAL = (480, 640)  # a camera's picture, for a network that takes pictures of any size


@functools.lru_cache(maxsize=64)
def shortest_edge_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """The size at which the shorter side is ``min_size``, or less where the longer one would pass ``max_size``.

    The same numbers as ``ResizeShortestEdge.get_output_shape`` in detectron2's data/transforms/augmentation_impl.py,
    with its order of floating-point operations; ``min_size`` 0 leaves the picture as it is, as there. A side that would
    round to 0, which detectron2 cannot resize to, is 1.

    Raises:
        ValueError: a side of the picture is not positive, or a limit is negative.
    """
    _check_positive(height=height, width=width)
    if min_size < 0 or max_size < 1:
        raise ValueError(f"min_size must be at least 0 and max_size at least 1, not {min_size} and {max_size}")
    if min_size == 0:
        return height, width
    scale = min_size / min(height, width)
    new_height, new_width = (float(min_size), scale * width) if height < width else (scale * height, float(min_size))
    longer = max(new_height, new_width)
    if longer > max_size:
        scale = max_size / longer
        new_height, new_width = new_height * scale, new_width * scale
    return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)


@functools.lru_cache(maxsize=64)
def letterbox_size(height: int, width: int, input_height: int, input_width: int) -> tuple[int, int]:
    """The largest size of the same shape that fits into an input of ``input_height`` x ``input_width``, at least 1 x 1.

    Raises:
        ValueError: a size is not positive.
    """
    _check_positive(height=height, width=width, input_height=input_height, input_width=input_width)
    scale = min(input_height / height, input_width / width)
    new_height, new_width = int(height * scale + 0.5), int(width * scale + 0.5)
    return min(max(new_height, 1), input_height), min(max(new_width, 1), input_width)


@functools.lru_cache(maxsize=64)
def padded_size(height: int, width: int, divisor: int) -> tuple[int, int]:
    """``height`` and ``width`` rounded up to multiples of ``divisor``, the coarsest stride; 0 and 1 pad nothing.

    Raises:
        ValueError: a size is not positive, or the divisor negative.
    """
    _check_positive(height=height, width=width)
    if divisor < 0:
        raise ValueError(f"divisor must be at least 0, not {divisor}")
    divisor = max(divisor, 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


@dataclass(frozen=True)
class FrameSize:
    """A picture's own size, the one that it is resized to, and that of the network's input, which it is padded to."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(cls, height: int, width: int, network: InputDescription) -> FrameSize:
        """Of a picture of ``height`` x ``width``. Raises ``ValueError`` where a side is not positive."""
        if network.size is not None:
            return cls((height, width), letterbox_size(height, width, *network.size), network.size)
        resized = shortest_edge_size(height, width, network.min_size, network.max_size)
        return cls((height, width), resized, padded_size(*resized, network.divisor))

    @property
    def graph_input(self) -> tuple[int, int, int, int]:
        """The graph's input ``sizes``."""
        return (*self.resized, *self.original)


def nominal_size(network: InputDescription) -> tuple[int, int]:
    """The input's size that figures are given for: its own, or for any size that of a picture of 640 x 480 pixels."""
    return FrameSize.of(*_NOMINAL, network).padded


class InferSettings(TypedDict, total=False):
    """What a caller of ``Engine.infer`` can ask for; None, as nothing, is the model's own."""

    score_threshold: float | None
    nms_threshold: float | None
    max_people: int | None
    max_proposals: int | None
    mesh: str | None


@dataclass(frozen=True)
class FrameSettings:
    """At which thresholds a frame is looked at, and how much of it; see ``Engine.infer``.

    ``score_threshold``, ``nms_threshold``: in [0, 1]; ``max_people``, ``max_proposals``: at least 0.
    """

    score_threshold: float
    nms_threshold: float
    max_people: int
    max_proposals: int

    def within(self, capacity: Capacity) -> FrameSettings:
        """The same, with no more people and proposals than the graph has room for."""
        return FrameSettings(
            self.score_threshold,
            self.nms_threshold,
            min(self.max_people, capacity.max_people),
            min(self.max_proposals, capacity.max_proposals),
        )

    def changed(
        self,
        capacity: Capacity,
        *,
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_people: int | None = None,
        max_proposals: int | None = None,
    ) -> FrameSettings:
        """The same, with what a caller wants in place of what is not None.

        Raises:
            ValueError: a setting is of another type, out of range, or more than the graph has room for.
        """
        return FrameSettings(
            self.score_threshold if score_threshold is None else _share("score_threshold", score_threshold),
            self.nms_threshold if nms_threshold is None else _share("nms_threshold", nms_threshold),
            self.max_people if max_people is None else _count("max_people", max_people, capacity.max_people),
            self.max_proposals
            if max_proposals is None
            else _count("max_proposals", max_proposals, capacity.max_proposals),
        )

    @property
    def graph_inputs(self) -> dict[str, float | int]:
        """By the names of the graph's inputs."""
        return {
            "score_threshold": self.score_threshold,
            "nms_threshold": self.nms_threshold,
            "max_detections": self.max_people,
            "max_proposals": self.max_proposals,
        }


def _share(name: str, value: Any) -> float:
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], not {shown(value)}")
    return float(number)


def _count(name: str, value: Any, capacity: int) -> int:
    number = value.item() if isinstance(value, np.generic) else value
    if not is_integer(number) or not 0 <= number <= capacity:
        raise ValueError(f"{name} must be an integer in [0, {capacity}], the graph's limit, not {shown(value)}")
    return int(number)
