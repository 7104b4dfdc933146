"""ResNet as detectron2 builds it.

Like every backbone it takes a normalized picture, float32 ``(N, 3, H, W)`` with H and W multiples of 32, and returns
the four maps at strides 4, 8, 16 and 32 that the neck consumes; ``out_channels`` holds their channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..config.model_config import ResNetConfig
from .architectures import RESNET_BLOCKS
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
