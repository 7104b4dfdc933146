"""Backbones: ResNet as detectron2 builds it, and the mobile networks that DensePoseFnL takes from timm.

Each takes a normalised picture, float32 ``(N, 3, H, W)`` with H and W multiples of 32, and returns the four maps at
strides 4, 8, 16 and 32 that the neck consumes; ``out_channels`` holds their channels.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from .architectures import MOBILE_ARCHITECTURES, RESNET_BLOCKS, MobileArchitecture
from .config import MobileBackboneConfig, ResNetConfig
from .layers import Conv2d


class BasicStem(nn.Module):
    """7×7 convolution of stride 2, then a 3×3 max pool of stride 2 (detectron2 ``BasicStem``)."""

    def __init__(self, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, out_channels, 7, stride=2, padding=3, bias=False, norm=norm, activation=F.relu)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


class BottleneckBlock(nn.Module):
    """1×1, 3×3, 1×1 convolutions around a shortcut (detectron2 ``BottleneckBlock``).

    ``stride_in_1x1`` puts the stride into the first convolution, as the original MSRA weights need it.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        norm = config.norm
        self.shortcut: Conv2d | None = None
        if in_channels != out_channels:
            self.shortcut = Conv2d(in_channels, out_channels, 1, stride=stride, bias=False, norm=norm)
        stride_1x1, stride_3x3 = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.conv1 = Conv2d(in_channels, width, 1, stride=stride_1x1, bias=False, norm=norm, activation=F.relu)
        self.conv2 = Conv2d(
            width,
            width,
            3,
            stride=stride_3x3,
            padding=1,
            groups=config.num_groups,
            bias=False,
            norm=norm,
            activation=F.relu,
        )
        self.conv3 = Conv2d(width, out_channels, 1, bias=False, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv3(self.conv2(self.conv1(x)))
        return F.relu(residual + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """ResNet and ResNeXt with bottleneck blocks (detectron2 ``build_resnet_backbone``); gives res2 to res5."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stem = BasicStem(config.stem_out_channels, config.norm)
        channels, out_channels = config.stem_out_channels, config.res2_out_channels
        width = config.num_groups * config.width_per_group
        stages = []
        for index, count in enumerate(RESNET_BLOCKS[config.depth]):
            blocks = []
            for block in range(count):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(BottleneckBlock(channels, out_channels, width, stride, config))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
            out_channels, width = out_channels * 2, width * 2
        self.res2, self.res3, self.res4, self.res5 = stages
        self.out_channels = tuple(config.res2_out_channels * 2**i for i in range(4))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        res2 = self.res2(self.stem(image))
        res3 = self.res3(res2)
        res4 = self.res4(res3)
        return res2, res3, res4, self.res5(res4)


_ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride=stride, padding=kernel // 2, groups=channels, bias=False)


class DepthwiseSeparableBlock(nn.Module):
    """Depthwise then pointwise convolution, the latter without activation (timm ``DepthwiseSeparableConv``)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, activation: str) -> None:
        super().__init__()
        self.conv_dw = _depthwise(in_channels, kernel, stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = _ACTIVATIONS[activation]()
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.has_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv_pw(self.act1(self.bn1(self.conv_dw(x)))))
        return x + y if self.has_residual else y


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (MobileNetV2, https://arxiv.org/abs/1801.04381; timm ``InvertedResidual``)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, activation: str
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.conv_pw = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = _ACTIVATIONS[activation]()
        self.conv_dw = _depthwise(width, kernel, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = _ACTIVATIONS[activation]()
        self.conv_pwl = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.has_residual = stride == 1 and in_channels == out_channels

    def expand(self, x: Tensor) -> Tensor:
        """The expanded features that the projection reads: what timm calls the ``expansion`` feature location."""
        x = self.act1(self.bn1(self.conv_pw(x)))
        return self.act2(self.bn2(self.conv_dw(x)))

    def project(self, x: Tensor, expanded: Tensor) -> Tensor:
        """The block's output from its input and its expanded features."""
        y = self.bn3(self.conv_pwl(expanded))
        return x + y if self.has_residual else y

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x, self.expand(x))


class MobileBackbone(nn.Module):
    """A timm backbone as DensePoseFnL taps it: ``features_only``, ``feature_location="expansion"``.

    The taps are the expanded features of the last block before each halving, not the blocks' outputs, so the last
    block's projection is loaded (the checkpoint has it) but never run.
    """

    def __init__(self, architecture: MobileArchitecture) -> None:
        super().__init__()
        channels, activation = architecture.stem_channels, architecture.activation
        self.conv_stem = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = _ACTIVATIONS[activation]()
        stages = []
        for stage in architecture.stages:
            blocks: list[nn.Module] = []
            for index, (kernel, expansion) in enumerate(stage.blocks):
                stride = stage.stride if index == 0 else 1
                if expansion == 0:
                    blocks.append(DepthwiseSeparableBlock(channels, stage.out_channels, kernel, stride, activation))
                else:
                    blocks.append(InvertedResidual(channels, stage.out_channels, kernel, stride, expansion, activation))
                channels = stage.out_channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.out_channels = architecture.tap_channels
        self._tapped = frozenset(architecture.tapped_stages)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.act1(self.bn1(self.conv_stem(image)))
        taps = []
        for index, stage in enumerate(self.blocks):
            if index not in self._tapped:
                x = stage(x)
                continue
            *blocks, last = cast(nn.Sequential, stage)
            for block in blocks:
                x = block(x)
            tapped = cast(InvertedResidual, last)
            expanded = tapped.expand(x)
            taps.append(expanded)
            if index + 1 < len(self.blocks):
                x = tapped.project(x, expanded)
        return tuple(taps)


def build_backbone(config: ResNetConfig | MobileBackboneConfig) -> ResNet | MobileBackbone:
    """The backbone that the configuration names, with random weights."""
    if isinstance(config, ResNetConfig):
        return ResNet(config)
    return MobileBackbone(MOBILE_ARCHITECTURES[config.name])
