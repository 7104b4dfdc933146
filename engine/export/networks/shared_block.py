"""The layers between pooling and predictor in DensePoseFnL's first generation, with its parameter names.

N is the number of boxes, P the side of the pooled features.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..config.model_config import SharedBlockConfig
from .heads import ImageLevelFeatures, NonLocalBlock


def _activated(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.ReLU())


def _stack(in_channels: int, channels: int, kernel: int, count: int) -> nn.Sequential:
    """Convolutions at the even places, ReLUs at the odd."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers)


class ParsingSharedBlock(nn.Module):
    """Convolutions, ASPP without norm, attention, convolutions, each where the configuration asks for it."""

    def __init__(self, channels: int, config: SharedBlockConfig) -> None:
        super().__init__()
        self.conv_before_aspp_nl: nn.Sequential | None = None
        if config.convs_before:
            self.conv_before_aspp_nl = _stack(channels, config.conv_dim, config.conv_kernel, config.convs_before)
            channels = config.conv_dim
        width = config.aspp_dim
        self._branches: tuple[str, ...] = ()
        if width is not None:
            self.aspp1 = _activated(nn.Conv2d(channels, width, 1))
            self.aspp2, self.aspp3, self.aspp4 = (
                _activated(nn.Conv2d(channels, width, 3, padding=d, dilation=d)) for d in config.dilations
            )
            self.aspp5 = ImageLevelFeatures(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, width, 1), nn.ReLU())
            self.aspp_agg = _activated(nn.Conv2d(5 * width, config.conv_dim, 1))
            self._branches = ("aspp1", "aspp2", "aspp3", "aspp4", "aspp5")
        self.non_local: NonLocalBlock | None = None
        if config.non_local_dim is not None:
            norm = "BN" if config.non_local_norm else ""
            self.non_local = NonLocalBlock(config.conv_dim, config.non_local_dim, norm, config.non_local_pooled)
        self.conv_after_aspp_nl: nn.Sequential | None = None
        if config.convs_after:
            self.conv_after_aspp_nl = _stack(config.conv_dim, config.conv_dim, config.conv_kernel, config.convs_after)
        self.out_channels = config.conv_dim

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, P, P)`` to ``(N, out_channels, P, P)``."""
        if self.conv_before_aspp_nl is not None:
            x = self.conv_before_aspp_nl(x)
        if self._branches:
            x = self.aspp_agg(torch.cat([self.get_submodule(name)(x) for name in self._branches], dim=1))
        if self.non_local is not None:
            x = self.non_local(x)
        return x if self.conv_after_aspp_nl is None else self.conv_after_aspp_nl(x)


class _ChannelwiseASPP(nn.Module):
    """An ASPP whose branches look at each channel alone."""

    def __init__(self, channels: int, config: SharedBlockConfig) -> None:
        super().__init__()
        self.aspp1 = _activated(nn.Conv2d(channels, channels, 1, groups=channels))
        self.aspp2, self.aspp3, self.aspp4 = (
            _activated(nn.Conv2d(channels, channels, 3, padding=d, dilation=d, groups=channels))
            for d in config.dilations
        )
        pooled = nn.Conv2d(channels, channels, 1, groups=channels)
        self.aspp5 = ImageLevelFeatures(nn.AdaptiveAvgPool2d(1), pooled, nn.ReLU())
        self.aspp_agg = _activated(nn.Conv2d(5 * channels, config.conv_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.aspp1, self.aspp2, self.aspp3, self.aspp4, self.aspp5)
        return self.aspp_agg(torch.cat([branch(x) for branch in branches], dim=1))


class MobileParsingSharedBlock(nn.Module):
    """Its cheap variant: but for the ASPP's last convolution no channel sees another."""

    def __init__(self, channels: int, config: SharedBlockConfig) -> None:
        super().__init__()
        self.aspp = None if config.aspp_dim is None else _ChannelwiseASPP(channels, config)
        width, kernel = config.conv_dim, config.conv_kernel
        self.conv_after_aspp_nl: nn.Sequential | None = None
        if config.convs_after:
            self.conv_after_aspp_nl = nn.Sequential(
                *(
                    nn.Sequential(
                        OrderedDict(
                            conv_dw=nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width),
                            act1=nn.ReLU(),
                            conv_pw=nn.Conv2d(width, width, 1, groups=width),
                            act2=nn.ReLU(),
                        )
                    )
                    for _ in range(config.convs_after)
                )
            )
        self.out_channels = width

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, P, P)`` to ``(N, out_channels, P, P)``."""
        if self.aspp is not None:
            x = self.aspp(x)
        return x if self.conv_after_aspp_nl is None else self.conv_after_aspp_nl(x)


def build_shared_block(channels: int, config: SharedBlockConfig) -> ParsingSharedBlock | MobileParsingSharedBlock:
    """The block that the configuration names, with random weights."""
    return (ParsingSharedBlock if config.kind == "parsing" else MobileParsingSharedBlock)(channels, config)
