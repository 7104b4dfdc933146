"""Building blocks that detectron2 shares between backbones, necks and heads, with its parameter names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .architectures import GROUP_NORM_GROUPS

_BATCH_NORM_EPS = 1e-5


class FrozenBatchNorm2d(nn.Module):
    """Batch normalization with fixed statistics (detectron2 ``layers/batch_norm.py``).

    The names are BatchNorm's without ``num_batches_tracked``, which detectron2 does not store here; a subclass of
    ``nn.BatchNorm2d`` would ask for it when weights are loaded strictly.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = _BATCH_NORM_EPS) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def make_norm(norm: str, channels: int) -> nn.Module | None:
    """The layer that a ``NORM`` key asks for, or None for ``""``.

    ``norm`` is one of ``architectures.NORMS`` (``config.py`` refuses others). SyncBN is BN at inference.
    """
    if norm == "":
        return None
    if norm == "GN":
        return nn.GroupNorm(GROUP_NORM_GROUPS, channels)
    if norm == "FrozenBN":
        return FrozenBatchNorm2d(channels)
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS)


class Conv2d(nn.Conv2d):
    """A convolution with an optional norm (child ``norm``) and activation, as detectron2's ``layers.Conv2d``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: str = "",
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """``bias`` None means: only where there is no norm."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=norm == "" if bias is None else bias,
        )
        self.norm = make_norm(norm, out_channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x


def last_level_max_pool(p5: Tensor) -> Tensor:
    """p6 of both necks: every second pixel of p5 (detectron2 ``LastLevelMaxPool``; its window is one pixel)."""
    return F.max_pool2d(p5, kernel_size=1, stride=2)


def upsample_nearest(x: Tensor) -> Tensor:
    """Doubles height and width by repeating pixels."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def upsample_bilinear(x: Tensor, scale: int) -> Tensor:
    """Scales height and width by an integer with ``align_corners=False``; scale 1 is the identity."""
    if scale == 1:
        return x
    return F.interpolate(x, scale_factor=float(scale), mode="bilinear", align_corners=False)


class UpsampleBilinear(nn.Module):
    """:func:`upsample_bilinear` as a module, for ``nn.Sequential``."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return upsample_bilinear(x, self.scale)
