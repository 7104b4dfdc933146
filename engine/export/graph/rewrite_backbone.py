"""Exact rewrites of the mobile backbones: mixed kernels as one convolution, BatchNorm folded into CondConv's experts.

As in ``rewrite``, each is linear algebra on weights in float64. Squeeze-and-excitation stays as it is, a branch of its
own beside the map that it weights: its convolutions see one pixel, and the product is what calibration may quantize.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..networks.mobile import ConditionalResidual, MobileBackbone
from ..networks.mobile_layers import CondConv2d, MixedConv2d, PaddedConv2d


def rewrite_backbone(backbone: MobileBackbone) -> None:
    """Apply every rewrite, in place."""
    for module in list(backbone.modules()):
        if isinstance(module, ConditionalResidual):
            fold_experts(module)
        for name, child in module.named_children():
            if isinstance(child, MixedConv2d):
                module.add_module(name, merge_mixed(child))


def merge_mixed(mixed: MixedConv2d) -> PaddedConv2d:
    """The one convolution that a mixed one is.

    Depthwise: kernels padded with zeros to the largest. Pointwise: as many groups as pieces, which must be of one size
    (they are: all channels are multiples of 8, and there are two pieces).
    """
    convs = [conv for conv in mixed if isinstance(conv, PaddedConv2d)]
    first = convs[0]
    in_channels, out_channels = (sum(getattr(conv, name) for conv in convs) for name in ("in_channels", "out_channels"))
    depthwise = first.groups == first.in_channels and first.groups > 1
    groups = in_channels if depthwise else len(convs)
    if not depthwise and any(conv.weight.shape != first.weight.shape for conv in convs):
        raise AssertionError("the pieces of a pointwise convolution differ in size")
    largest = max(convs, key=lambda conv: conv.kernel_size[0])
    kernel = largest.kernel_size[0]
    same = largest.lopsided is not None
    merged = PaddedConv2d(in_channels, out_channels, kernel, largest.stride[0], groups, same)
    weight = torch.cat([_padded(conv, largest) for conv in convs])
    with torch.no_grad():
        merged.weight.copy_(weight)
    return merged.requires_grad_(False)


def _reach(conv: PaddedConv2d) -> tuple[int, int]:
    """Pixels before and after that one output pixel looks at, from where its own stride puts it."""
    return conv.lopsided or (int(conv.padding[0]), int(conv.padding[0]))


def _padded(conv: PaddedConv2d, largest: PaddedConv2d) -> Tensor:
    """The kernel with zeros around it, so that it reads what it read with the padding of the largest one."""
    before = _reach(largest)[0] - _reach(conv)[0]
    after = largest.kernel_size[0] - conv.kernel_size[0] - before
    return nn.functional.pad(conv.weight, (before, after, before, after))


def fold_experts(block: ConditionalResidual) -> None:
    """Fold the three BatchNorms of a CondConv block into its experts, in place.

    The factor is the same for all experts, and the shift does not depend on the mixture, so it is a plain bias.
    """
    for conv_name, norm_name in (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")):
        conv, norm = block.get_submodule(conv_name), block.get_submodule(norm_name)
        assert isinstance(conv, CondConv2d)
        weight, bias, mean, variance = (
            getattr(norm, name).double() for name in ("weight", "bias", "running_mean", "running_var")
        )
        factor = weight / torch.sqrt(variance + norm.eps)
        experts, out_channels = conv.weight.shape[0], conv.kernel[0]
        folded = conv.weight.double().reshape(experts, out_channels, -1) * factor[:, None]
        with torch.no_grad():
            conv.weight.copy_(folded.reshape(experts, -1))
        conv.bias = (bias - mean * factor).to(conv.weight.dtype)
        block.add_module(norm_name, nn.Identity())
