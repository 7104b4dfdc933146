"""What a mobile backbone is made of, as data, and the numbers that follow from it. No torch here.

A :class:`Row` stands for a run of equal blocks; :func:`mobile_blocks` applies the architecture's multipliers and gives
every :class:`Block`. ``mobile_architectures`` holds the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["ds", "ir", "er", "cn"]
Activation = Literal["relu", "relu6", "swish", "hard_swish"]
#: Squeeze-and-excitation's second activation, which gives the factors of the channels.
Gate = Literal["sigmoid", "hard_sigmoid"]


@dataclass(frozen=True)
class Row:
    """Equal blocks one after another; the first may have another stride and other input channels than the others.

    ``kind``: "ds" depthwise separable, "ir" inverted residual, "er" edge residual (its expansion is a k×k convolution),
    "cn" a convolution with BatchNorm and activation.
    """

    kind: BlockKind
    kernels: tuple[int, ...]  #: several for MixNet's mixed depthwise kernels
    expansion: float  #: inner over input channels ("ir", "er")
    channels: int  #: of the output
    repeats: int = 1
    stride: int = 1  #: of the first block
    excitation: float = 0.0  #: ratio of the squeeze-and-excitation; 0: none
    activation: Activation | None = None  #: None: the architecture's
    skip: bool = True  #: whether a block that keeps its shape adds its input
    expand_groups: int = 1  #: pieces of the expanding 1×1 convolution, each with weights of its own (MixNet)
    project_groups: int = 1  #: the same of the projecting one
    experts: int = 1  #: above 1: CondConv
    expanded_from: int | None = None  #: channels that ``expansion`` refers to where they are not the input's


@dataclass(frozen=True)
class Excitation:
    """How a family of networks makes its squeeze-and-excitation."""

    base: Literal["input", "inner"] = "input"  #: the channels that the ratio refers to: the block's or the expanded
    rounding: Literal["nearest", "multiple_of_8"] = "nearest"
    activation: Activation | None = None  #: between its two convolutions; None: the block's
    gate: Gate = "sigmoid"


@dataclass(frozen=True)
class MobileArchitecture:
    """A backbone made of stages of :class:`Row`; only a stage's first row may have a stride."""

    stem_channels: int
    activation: Activation
    stages: tuple[tuple[Row, ...], ...]
    excitation: Excitation = Excitation()
    same_padding: bool = False  #: TensorFlow's padding: with stride 2 one pixel more behind than before
    width: float = 1.0
    depth: float = 1.0
    depth_rounding: Literal["up", "nearest"] = "up"


@dataclass(frozen=True)
class Block:
    """One block with its numbers worked out."""

    row: Row
    in_channels: int
    inner_channels: int  #: of "ds" the input's, of "cn" the output's
    out_channels: int
    stride: int
    activation: Activation
    excitation_channels: int  #: between its two convolutions; 0: none
    skip: bool

    @property
    def tap_channels(self) -> int:
        """Channels of what DensePoseFnL taps: the features before the block's last projection (of "cn", its output)."""
        return self.inner_channels


def round_channels(value: float) -> int:
    """The nearest multiple of 8, at least 8, and never less than nine tenths of ``value``."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def stem_channels(architecture: MobileArchitecture) -> int:
    """Output channels of the stem."""
    return round_channels(architecture.stem_channels * architecture.width)


def mobile_blocks(architecture: MobileArchitecture) -> tuple[tuple[Block, ...], ...]:
    """The blocks of every stage, multipliers applied."""
    channels = stem_channels(architecture)
    stages = []
    for rows in architecture.stages:
        blocks = []
        for row, repeats in zip(rows, _repeats(architecture, rows), strict=True):
            for index in range(repeats):
                block = _block(architecture, row, channels, row.stride if index == 0 else 1)
                blocks.append(block)
                channels = block.out_channels
        stages.append(tuple(blocks))
    return tuple(stages)


def _repeats(architecture: MobileArchitecture, rows: tuple[Row, ...]) -> list[int]:
    """Blocks per row: the stage's total is scaled, then dealt out from the last row backwards by what is left."""
    left = sum(row.repeats for row in rows)
    scaled = left * architecture.depth
    total = math.ceil(scaled) if architecture.depth_rounding == "up" else max(1, round(scaled))
    dealt: list[int] = []
    for row in reversed(rows):
        share = max(1, round(row.repeats / left * total))
        dealt.insert(0, share)
        left, total = left - row.repeats, total - share
    return dealt


def _block(architecture: MobileArchitecture, row: Row, in_channels: int, stride: int) -> Block:
    out_channels = round_channels(row.channels * architecture.width)
    inner = {"ds": in_channels, "cn": out_channels}.get(row.kind)
    if inner is None:
        expanded = in_channels
        if row.expanded_from is not None:
            expanded = round_channels(row.expanded_from * architecture.width)
        inner = round_channels(expanded * row.expansion)
    reduced = (in_channels if architecture.excitation.base == "input" else inner) * row.excitation
    rounding = round_channels if architecture.excitation.rounding == "multiple_of_8" else round
    return Block(
        row=row,
        in_channels=in_channels,
        inner_channels=inner,
        out_channels=out_channels,
        stride=stride,
        activation=row.activation or architecture.activation,
        excitation_channels=rounding(reduced) if row.excitation else 0,
        skip=row.skip and row.kind != "cn" and stride == 1 and in_channels == out_channels,
    )


def tapped_blocks(stages: tuple[tuple[Block, ...], ...]) -> tuple[tuple[int, int], ...]:
    """(stage, block) of the four taps, at strides 4, 8, 16, 32: the last block before each halving, and the last."""
    places = [(stage, index) for stage, blocks in enumerate(stages) for index in range(len(blocks))]
    stride, taps = 2, []
    for place, following in zip(places, [*places[1:], None], strict=True):
        stride *= stages[place[0]][place[1]].stride
        last = following is None or stages[following[0]][following[1]].stride > 1
        if last and stride >= 4:
            taps.append(place)
    return tuple(taps)


def stage_strides(stages: tuple[tuple[Block, ...], ...]) -> tuple[int, ...]:
    """Stride of every stage's output."""
    stride, strides = 2, []
    for blocks in stages:
        stride *= math.prod(block.stride for block in blocks)
        strides.append(stride)
    return tuple(strides)
