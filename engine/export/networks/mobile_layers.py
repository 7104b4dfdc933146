"""Layers of the mobile backbones, with timm's parameter names: SAME padding, mixed kernels, CondConv, excitation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mobile_blocks import Activation, Gate

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "swish": nn.SiLU,
    "hard_swish": nn.Hardswish,
}
_GATES: dict[Gate, Callable[[], nn.Module]] = {"sigmoid": nn.Sigmoid, "hard_sigmoid": nn.Hardsigmoid}


def same_padding(kernel: int, stride: int) -> tuple[int, int]:
    """Pixels (before, after) of TensorFlow's SAME padding; with stride 2 the size must be even, as all of ours are."""
    total = max(0, kernel - stride)
    return total // 2, total - total // 2


class PaddedConv2d(nn.Conv2d):
    """A convolution without bias that keeps the size, or halves it; ``same`` as TensorFlow pads.

    ``lopsided`` holds the padding of a side before and after where these differ, which ``nn.Conv2d`` cannot do.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, same: bool = False
    ) -> None:
        before, after = same_padding(kernel, stride) if same else (kernel // 2, kernel // 2)
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=before if before == after else 0,
            groups=groups,
            bias=False,
        )
        self.lopsided = (before, after) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.lopsided is None else F.pad(x, self.lopsided * 2))


def split_channels(channels: int, pieces: int) -> list[int]:
    """Channels of every piece; the first takes what is left over."""
    sizes = [channels // pieces] * pieces
    sizes[0] += channels - sum(sizes)
    return sizes


class MixedConv2d(nn.ModuleList):
    """Convolutions side by side, each of its own piece of the channels (MixNet, https://arxiv.org/abs/1907.09595)."""

    def __init__(self, convs: Sequence[PaddedConv2d]) -> None:
        super().__init__(convs)
        self._sizes = [conv.in_channels for conv in convs]

    def forward(self, x: Tensor) -> Tensor:
        pieces = x.split(self._sizes, dim=1)
        return torch.cat([conv(piece) for conv, piece in zip(self, pieces, strict=True)], dim=1)


class CondConv2d(nn.Module):
    """A convolution whose kernel is a mixture of experts, each picture's own (https://arxiv.org/abs/1904.04971).

    ``weight`` is ``[experts, out × in/groups × k × k]``; ``bias`` (None in a checkpoint; where BatchNorm is folded, see
    ``rewrite_backbone``) is the same for all experts.
    """

    bias: Tensor | None

    def __init__(self, conv: PaddedConv2d, experts: int) -> None:
        super().__init__()
        out_channels, *rest = conv.weight.shape
        self.kernel = (out_channels, *rest)
        self.weight = nn.Parameter(0.1 * torch.randn(experts, conv.weight.numel()))
        self.register_buffer("bias", None)
        self.stride, self.groups = conv.stride[0], conv.groups
        before = int(conv.padding[0])
        self.padding = conv.lopsided or (before, before)

    def forward(self, x: Tensor, routing: Tensor) -> Tensor:
        """``x`` is ``(N, C, H, W)``, ``routing`` ``(N, experts)``."""
        pictures, (out_channels, *rest) = x.shape[0], self.kernel
        kernels = (routing @ self.weight).reshape(pictures * out_channels, *rest)
        before, after = self.padding
        if before != after:
            x, before = F.pad(x, (before, after, before, after)), 0
        if pictures == 1:
            return F.conv2d(x, kernels, self.bias, self.stride, before, groups=self.groups)
        # A group of its own for every picture: one convolution for them all.
        bias = None if self.bias is None else self.bias.repeat(pictures)
        merged = x.reshape(1, -1, *x.shape[2:])
        mixed = F.conv2d(merged, kernels, bias, self.stride, before, groups=self.groups * pictures)
        return mixed.reshape(pictures, out_channels, *mixed.shape[2:])


class SqueezeExcitation(nn.Module):
    """Weights the channels by what their means say (https://arxiv.org/abs/1709.01507; timm ``SqueezeExcite``)."""

    def __init__(self, channels: int, reduced: int, activation: Activation, gate: Gate) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act1 = ACTIVATIONS[activation]()
        self.conv_expand = nn.Conv2d(reduced, channels, 1)
        self.gate = _GATES[gate]()

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(mean))))
