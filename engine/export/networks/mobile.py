"""Mobile backbones as DensePoseFnL takes them from timm (second generation) and geffnet (first), by their names there.

What the networks are made of stands in ``mobile_architectures``; here are the four kinds of blocks, and the trunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from ..config.model_config import MobileBackboneConfig
from .layers import FrozenBatchNorm2d
from .mobile_architectures import MOBILE_ARCHITECTURES
from .mobile_blocks import Block, MobileArchitecture, mobile_blocks, stem_channels, tapped_blocks
from .mobile_layers import ACTIVATIONS, CondConv2d, MixedConv2d, PaddedConv2d, SqueezeExcitation, split_channels

Norm = Callable[[int], nn.Module]


class MobileBlock(nn.Module):
    """What all blocks have in common: features before the last projection, and the projection.

    The features are what timm calls the ``expansion`` feature location, which DensePoseFnL taps.
    """

    has_residual = False

    def expand(self, x: Tensor) -> Tensor:
        """The features that the projection reads."""
        raise NotImplementedError

    def project(self, x: Tensor, expanded: Tensor) -> Tensor:
        """The block's output from its input and its expanded features."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x, self.expand(x))


def _pointwise(in_channels: int, out_channels: int, pieces: int, stride: int = 1) -> PaddedConv2d | MixedConv2d:
    """A 1×1 convolution, in pieces of the channels where there are several."""
    if pieces == 1:
        return PaddedConv2d(in_channels, out_channels, 1, stride)
    sizes = zip(split_channels(in_channels, pieces), split_channels(out_channels, pieces), strict=True)
    return MixedConv2d([PaddedConv2d(i, o, 1) for i, o in sizes])


def _depthwise(channels: int, kernels: tuple[int, ...], stride: int, same: bool) -> PaddedConv2d | MixedConv2d:
    if len(kernels) == 1:
        return PaddedConv2d(channels, channels, kernels[0], stride, channels, same)
    sizes = zip(split_channels(channels, len(kernels)), kernels, strict=True)
    return MixedConv2d([PaddedConv2d(c, c, kernel, stride, c, same) for c, kernel in sizes])


def _excitation(architecture: MobileArchitecture, block: Block) -> SqueezeExcitation | None:
    if not block.excitation_channels:
        return None
    kind = architecture.excitation
    activation = kind.activation or block.activation
    return SqueezeExcitation(block.inner_channels, block.excitation_channels, activation, kind.gate)


class DepthwiseSeparableBlock(MobileBlock):
    """Depthwise then pointwise convolution, the latter without activation (timm ``DepthwiseSeparableConv``)."""

    def __init__(self, architecture: MobileArchitecture, block: Block, norm: Norm) -> None:
        super().__init__()
        channels, same = block.in_channels, architecture.same_padding
        self.conv_dw = _depthwise(channels, block.row.kernels, block.stride, same)
        self.bn1 = norm(channels)
        self.act1 = ACTIVATIONS[block.activation]()
        self.se = _excitation(architecture, block)
        self.conv_pw = _pointwise(channels, block.out_channels, block.row.project_groups)
        self.bn2 = norm(block.out_channels)
        self.has_residual = block.skip

    def expand(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_dw(x)))
        return x if self.se is None else self.se(x)

    def project(self, x: Tensor, expanded: Tensor) -> Tensor:
        y = self.bn2(self.conv_pw(expanded))
        return x + y if self.has_residual else y


class InvertedResidual(MobileBlock):
    """Expand, depthwise, project (MobileNetV2, https://arxiv.org/abs/1801.04381; timm ``InvertedResidual``)."""

    def __init__(self, architecture: MobileArchitecture, block: Block, norm: Norm) -> None:
        super().__init__()
        row, width = block.row, block.inner_channels
        self.conv_pw = _pointwise(block.in_channels, width, row.expand_groups)
        self.bn1 = norm(width)
        self.act1 = ACTIVATIONS[block.activation]()
        self.conv_dw = _depthwise(width, row.kernels, block.stride, architecture.same_padding)
        self.bn2 = norm(width)
        self.act2 = ACTIVATIONS[block.activation]()
        self.se = _excitation(architecture, block)
        self.conv_pwl = _pointwise(width, block.out_channels, row.project_groups)
        self.bn3 = norm(block.out_channels)
        self.has_residual = block.skip

    def expand(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_pw(x)))
        x = self.act2(self.bn2(self.conv_dw(x)))
        return x if self.se is None else self.se(x)

    def project(self, x: Tensor, expanded: Tensor) -> Tensor:
        y = self.bn3(self.conv_pwl(expanded))
        return x + y if self.has_residual else y


class ConditionalResidual(InvertedResidual):
    """An inverted residual of mixed experts (timm ``CondConvResidual``); one mixture for its three convolutions."""

    def __init__(self, architecture: MobileArchitecture, block: Block, norm: Norm) -> None:
        super().__init__(architecture, block, norm)
        for name in ("conv_pw", "conv_dw", "conv_pwl"):
            conv = CondConv2d(cast(PaddedConv2d, getattr(self, name)), block.row.experts)
            setattr(self, name, conv)
        self.routing_fn = nn.Linear(block.in_channels, block.row.experts)

    def routing(self, x: Tensor) -> Tensor:
        """``(N, experts)`` weights of the experts for the block's input."""
        return self.routing_fn(x.mean(dim=(2, 3))).sigmoid()

    def expand(self, x: Tensor) -> Tensor:
        routing = self.routing(x)
        x = self.act1(self.bn1(self.conv_pw(x, routing)))
        x = self.act2(self.bn2(self.conv_dw(x, routing)))
        return x if self.se is None else self.se(x)

    def project(self, x: Tensor, expanded: Tensor) -> Tensor:
        y = self.bn3(self.conv_pwl(expanded, self.routing(x)))
        return x + y if self.has_residual else y


class EdgeResidual(MobileBlock):
    """One k×k convolution in place of the first two of an inverted residual (timm ``EdgeResidual``).

    timm gives the stride to the k×k convolution, geffnet to the 1×1; their parameters have the same names and shapes.
    """

    def __init__(self, architecture: MobileArchitecture, block: Block, norm: Norm, stride_in_projection: bool) -> None:
        super().__init__()
        width, (kernel,) = block.inner_channels, block.row.kernels
        first, second = (1, block.stride) if stride_in_projection else (block.stride, 1)
        self.conv_exp = PaddedConv2d(block.in_channels, width, kernel, first, same=architecture.same_padding)
        self.bn1 = norm(width)
        self.act1 = ACTIVATIONS[block.activation]()
        self.se = _excitation(architecture, block)
        self.conv_pwl = _pointwise(width, block.out_channels, block.row.project_groups, second)
        self.bn2 = norm(block.out_channels)
        self.has_residual = block.skip

    def expand(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_exp(x)))
        return x if self.se is None else self.se(x)

    def project(self, x: Tensor, expanded: Tensor) -> Tensor:
        y = self.bn2(self.conv_pwl(expanded))
        return x + y if self.has_residual else y


class ConvBlock(MobileBlock):
    """Convolution, BatchNorm, activation (timm ``ConvBnAct``); nothing is projected."""

    def __init__(self, architecture: MobileArchitecture, block: Block, norm: Norm) -> None:
        super().__init__()
        (kernel,) = block.row.kernels
        self.conv = PaddedConv2d(
            block.in_channels, block.out_channels, kernel, block.stride, same=architecture.same_padding
        )
        self.bn1 = norm(block.out_channels)
        self.act1 = ACTIVATIONS[block.activation]()

    def expand(self, x: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv(x)))

    def project(self, x: Tensor, expanded: Tensor) -> Tensor:
        return expanded


def _build_block(architecture: MobileArchitecture, block: Block, norm: Norm, stride_in_projection: bool) -> MobileBlock:
    if block.row.kind == "er":
        return EdgeResidual(architecture, block, norm, stride_in_projection)
    if block.row.kind == "ir" and block.row.experts > 1:
        return ConditionalResidual(architecture, block, norm)
    kinds = {"ds": DepthwiseSeparableBlock, "ir": InvertedResidual, "cn": ConvBlock}
    return kinds[block.row.kind](architecture, block, norm)


class MobileBackbone(nn.Module):
    """A mobile trunk that gives four maps, at strides 4, 8, 16 and 32.

    In the second generation these are the features before the last projection of the last block before every halving
    (timm's ``features_only``, ``feature_location="expansion"``), so the last block's projection is loaded (the
    checkpoint has it) but never run; in the first generation's FPN they are stages' outputs.
    """

    def __init__(self, config: MobileBackboneConfig) -> None:
        super().__init__()
        architecture = MOBILE_ARCHITECTURES[config.name]
        stages = mobile_blocks(architecture)[: config.kept_stages]
        channels = stem_channels(architecture)
        self.conv_stem = PaddedConv2d(3, channels, 3, 2, same=architecture.same_padding)
        self.bn1 = self._norm(config, 0)(channels)
        self.act1 = ACTIVATIONS[architecture.activation]()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    *(
                        _build_block(architecture, block, self._norm(config, index), config.stride_in_projection)
                        for block in blocks
                    )
                )
                for index, blocks in enumerate(stages, start=1)
            )
        )
        self._output_stages = frozenset(config.output_stages or ())
        self._tapped: frozenset[tuple[int, int]] = frozenset()
        if config.output_stages is not None:
            self.out_channels = tuple(stages[index][-1].out_channels for index in config.output_stages)
        else:
            places = tapped_blocks(stages)
            self._tapped = frozenset(places)
            self.out_channels = tuple(stages[stage][index].inner_channels for stage, index in places)

    @staticmethod
    def _norm(config: MobileBackboneConfig, part: int) -> Norm:
        """Makes the BatchNorms of the stem (part 0) or of a stage (its index plus 1)."""
        if part < config.frozen_parts:
            return lambda channels: FrozenBatchNorm2d(channels, config.batch_norm_eps)
        return lambda channels: nn.BatchNorm2d(channels, config.batch_norm_eps)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.act1(self.bn1(self.conv_stem(image)))
        taps = []
        last = len(self.blocks) - 1
        for index, stage in enumerate(self.blocks):
            blocks = cast(list[MobileBlock], list(cast(nn.Sequential, stage)))
            for place, block in enumerate(blocks):
                if (index, place) not in self._tapped:
                    x = block(x)
                    continue
                expanded = block.expand(x)
                taps.append(expanded)
                if (index, place) != (last, len(blocks) - 1):
                    x = block.project(x, expanded)
            if index in self._output_stages:
                taps.append(x)
        return tuple(taps)
