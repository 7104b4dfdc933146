"""Necks: from the backbone's four maps to the pyramid p2 (stride 4) to p6 (stride 64).

The backbone is a child called ``bottom_up``, as in detectron2, so that parameter names match.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.model_config import ModelConfig, NeckConfig, ResNetConfig
from .layers import Conv2d, last_level_max_pool, upsample_nearest
from .mobile import MobileBackbone
from .resnet import ResNet


class FPN(nn.Module):
    """Feature pyramid network (https://arxiv.org/abs/1612.03144; detectron2 ``modeling/backbone/fpn.py``)."""

    def __init__(self, bottom_up: ResNet | MobileBackbone, config: NeckConfig) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self.average = config.fuse_type == "avg"
        for level, channels in enumerate(bottom_up.out_channels, start=2):
            lateral = Conv2d(channels, config.out_channels, 1, norm=config.norm)
            output = Conv2d(config.out_channels, config.out_channels, 3, padding=1, norm=config.norm)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Pyramid of ``(N, C, H/stride, W/stride)`` maps by name."""
        features = self.bottom_up(image)
        levels: dict[str, Tensor] = {}
        merged: Tensor | None = None
        for level in (5, 4, 3, 2):
            lateral = self.get_submodule(f"fpn_lateral{level}")(features[level - 2])
            if merged is not None:
                lateral = lateral + upsample_nearest(merged)
                if self.average:
                    lateral = lateral / 2
            merged = lateral
            levels[f"p{level}"] = self.get_submodule(f"fpn_output{level}")(merged)
        levels["p6"] = last_level_max_pool(levels["p5"])
        return dict(sorted(levels.items()))


class SeparableConv(nn.Sequential):
    """Depthwise 3×3 and pointwise convolution, BatchNorm, ReLU (DensePoseFnL ``Conv3x3BnReLU``)."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
            ),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class FastNormalizedFusion(nn.Module):
    """Weighted mean of maps, weights kept non-negative (https://arxiv.org/abs/1911.09070, section 3.3).

    The weights are normalized before they meet the maps: they are constants, so the division leaves the graph.
    """

    eps: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))
        self.register_buffer("eps", torch.tensor(1e-4))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        weight = F.relu(self.weight)
        weight = weight / (weight.sum() + self.eps)
        fused = maps[0] * weight[0]
        for index in range(1, len(maps)):
            fused = fused + maps[index] * weight[index]
        return fused


class BiFPN(nn.Module):
    """One bidirectional pyramid layer (https://arxiv.org/abs/1911.09070; DensePoseFnL ``fpn.py``)."""

    def __init__(self, bottom_up: ResNet | MobileBackbone, config: NeckConfig) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        channels = config.out_channels
        self.l2, self.l3, self.l4, self.l5 = (nn.Conv2d(c, channels, 1) for c in bottom_up.out_channels)

        self.fuse_p4_tr, self.p4_tr = FastNormalizedFusion(2), SeparableConv(channels)
        self.fuse_p3_tr, self.p3_tr = FastNormalizedFusion(2), SeparableConv(channels)

        self.fuse_p2_out, self.p2_out = FastNormalizedFusion(2), SeparableConv(channels)
        self.fuse_p3_out, self.p3_out = FastNormalizedFusion(3), SeparableConv(channels)
        self.fuse_p4_out, self.p4_out = FastNormalizedFusion(3), SeparableConv(channels)
        self.fuse_p5_out, self.p5_out = FastNormalizedFusion(2), SeparableConv(channels)

        self.down_p2 = SeparableConv(channels, stride=2)
        self.down_p3 = SeparableConv(channels, stride=2)
        self.down_p4 = SeparableConv(channels, stride=2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Pyramid of ``(N, C, H/stride, W/stride)`` maps by name."""
        tap2, tap3, tap4, tap5 = self.bottom_up(image)
        p2, p3, p4, p5 = self.l2(tap2), self.l3(tap3), self.l4(tap4), self.l5(tap5)

        p4_tr = self.p4_tr(self.fuse_p4_tr((p4, upsample_nearest(p5))))
        p3_tr = self.p3_tr(self.fuse_p3_tr((p3, upsample_nearest(p4_tr))))

        p2_out = self.p2_out(self.fuse_p2_out((p2, upsample_nearest(p3_tr))))
        p3_out = self.p3_out(self.fuse_p3_out((p3, p3_tr, self.down_p2(p2_out))))
        p4_out = self.p4_out(self.fuse_p4_out((p4, p4_tr, self.down_p3(p3_out))))
        p5_out = self.p5_out(self.fuse_p5_out((p5, self.down_p4(p4_out))))
        return {"p2": p2_out, "p3": p3_out, "p4": p4_out, "p5": p5_out, "p6": last_level_max_pool(p5_out)}


def build_pyramid(config: ModelConfig) -> FPN | BiFPN:
    """Backbone and neck together: what detectron2 calls the backbone."""
    backbone = config.backbone
    bottom_up = ResNet(backbone) if isinstance(backbone, ResNetConfig) else MobileBackbone(backbone)
    return FPN(bottom_up, config.neck) if config.neck.kind == "fpn" else BiFPN(bottom_up, config.neck)
