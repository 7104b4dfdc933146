"""Exact rewrites of the torch model before it becomes a graph: the same function, in fewer and cheaper operators.

Each is linear algebra on weights in float64, so outputs move by float32 rounding only (tests hold them to it).
BatchNorm is folded by the exporter itself, which sees the data flow; ``graph`` checks that none is left.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model import DensePoseRCNN
from ..networks.heads import RPNHead
from ..networks.layers import upsample_bilinear
from ..networks.mobile import MobileBackbone
from ..networks.necks import BiFPN, FastNormalizedFusion, SeparableConv
from ..networks.predictors import MapPredictor
from .rewrite_backbone import rewrite_backbone


def rewrite(model: DensePoseRCNN) -> DensePoseRCNN:
    """A copy of ``model`` with every rewrite applied.

    It takes RGB pictures from which only the mean was subtracted, ``rpn`` gives one map per level (see
    :class:`MergedRPNHead`), and everything else is as before.
    """
    model = copy.deepcopy(model)
    fold_normalization(model)
    if isinstance(model.backbone.bottom_up, MobileBackbone):
        rewrite_backbone(model.backbone.bottom_up)
    if isinstance(model.backbone, BiFPN):
        fold_fusion_weights(model.backbone)
    generator, heads = model.proposal_generator, model.roi_heads
    generator.add_module("rpn_head", MergedRPNHead(generator.rpn_head))
    predictor = heads.map_predictor
    assert isinstance(predictor, MapPredictor)
    if heads.densepose_head is predictor:
        heads.densepose_head = nn.Identity()
    heads.add_module("densepose_predictor", MergedPredictor(predictor))
    return model


def fold_normalization(model: DensePoseRCNN) -> None:
    """Move the division by the standard deviation and the channel order into the first convolution, in place.

    The mean cannot follow: detectron2 pads with zeros after normalization, and a bias would be wrong at that border.
    """
    stem = _stem(model.backbone.bottom_up)
    weight = stem.weight.double() / torch.tensor(model.config.input.pixel_std, dtype=torch.float64)[:, None, None]
    if model.config.input.format == "BGR":
        weight = weight.flip(1)
    _assign(stem.weight, weight)


def _stem(backbone: nn.Module) -> nn.Conv2d:
    return next(m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _assign(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)


class Sum(nn.Module):
    """What is left of a fusion once its weights are folded."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        total = maps[0]
        for one in maps[1:]:
            total = total + one
        return total


# What each fusion of BiFPN adds up, and who reads the sum (necks.BiFPN.forward). Doubling the size and ReLU commute
# with a positive factor, so a factor on a summand can be a factor on the convolution that made it.
_FUSIONS = {
    "fuse_p4_tr": (("l4", "l5"), "p4_tr"),
    "fuse_p3_tr": (("l3", "p4_tr"), "p3_tr"),
    "fuse_p2_out": (("l2", "p3_tr"), "p2_out"),
    "fuse_p3_out": (("l3", "p3_tr", "down_p2"), "p3_out"),
    "fuse_p4_out": (("l4", "p4_tr", "down_p3"), "p4_out"),
    "fuse_p5_out": (("l5", "down_p4"), "p5_out"),
}


def fold_fusion_weights(neck: BiFPN) -> bool:
    """Turn every weighted fusion into a plain sum, in place; False (and nothing done) where a weight is not positive.

    A map that several fusions read can have one factor only, and each fusion fixes the ratios between its summands.
    As a graph (maps as nodes, ratios as edges) that is a tree, so one factor per map satisfies them all; what is left
    over of each fusion, one factor on its sum, goes into the convolution that reads it.
    """
    weights: dict[str, list[float]] = {}
    for name in _FUSIONS:
        fusion = neck.get_submodule(name)
        assert isinstance(fusion, FastNormalizedFusion)
        raw = F.relu(fusion.weight.double())
        weights[name] = (raw / (raw.sum() + fusion.eps.double())).tolist()
    if min(min(w) for w in weights.values()) <= 0:
        return False

    factors = {"l5": 1.0}
    waiting = deque(_FUSIONS)
    while waiting:
        name = waiting.popleft()
        summands, _ = _FUSIONS[name]
        known = next((i for i, s in enumerate(summands) if s in factors), None)
        if known is None:
            waiting.append(name)
            continue
        unit = factors[summands[known]] / weights[name][known]
        for summand, weight in zip(summands, weights[name], strict=True):
            factors.setdefault(summand, weight * unit)

    for name, factor in factors.items():
        _scale_output(neck.get_submodule(name), factor)
    for name, (summands, reader) in _FUSIONS.items():
        _scale_input(neck.get_submodule(reader), weights[name][0] / factors[summands[0]])
        setattr(neck, name, Sum())
    return True


def _scale_output(module: nn.Module, factor: float) -> None:
    """Multiply what the module gives by a positive factor."""
    affine = module[1] if isinstance(module, SeparableConv) else module
    assert isinstance(affine, (nn.BatchNorm2d, nn.Conv2d))
    assert affine.bias is not None
    _assign(affine.weight, affine.weight.double() * factor)
    _assign(affine.bias, affine.bias.double() * factor)


def _scale_input(module: nn.Module, factor: float) -> None:
    """Make the module behave as if its input were multiplied by the factor."""
    assert isinstance(module, SeparableConv)
    depthwise = module[0].get_submodule("0")
    assert isinstance(depthwise, nn.Conv2d)
    _assign(depthwise.weight, depthwise.weight.double() * factor)


class MergedRPNHead(nn.Module):
    """Both 1×1 convolutions of the RPN as one: ``(1, 5A, H, W)``, A objectness logits, then 4A deltas."""

    def __init__(self, head: RPNHead) -> None:
        super().__init__()
        self.conv = head.conv
        parts = (head.objectness_logits, head.anchor_deltas)
        self.objectness_deltas = _conv(
            torch.cat([part.weight for part in parts]), torch.cat([_bias(part) for part in parts])
        )

    def forward(self, level: Tensor) -> Tensor:
        return self.objectness_deltas(self.conv(level))


def _conv(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of stride 1 that keeps the size."""
    out_channels, in_channels, kernel, _ = weight.shape
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    _assign(conv.weight, weight)
    _assign(_bias(conv), bias)
    return conv.requires_grad_(False)


def transposed_as_conv(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a stride-1 convolution whose ``pixel_shuffle(2)`` is the given transposed convolution of stride 2.

    Args:
        weight: ``(C_in, C_out, K, K)`` with even K, padding K/2 - 1 (the output is exactly twice the input's size).
        bias: ``(C_out,)``.

    Returns:
        Weight ``(4 C_out, C_in, k, k)`` with k = 2 (K // 4) + 1, and bias ``(4 C_out,)``; output channel 4c + 2y + x
        is the pixel (y, x) of each 2×2 block of channel c. No vendor runs a transposed convolution in INT8.
    """
    in_channels, out_channels, kernel, _ = weight.shape
    padding, radius = kernel // 2 - 1, kernel // 4
    side = 2 * radius + 1
    result = weight.new_zeros(out_channels, 2, 2, in_channels, side, side)
    # Output pixel 2m + phase reads input m + d through tap phase + padding - 2d.
    taps = [
        (phase, d + radius, phase + padding - 2 * d)
        for phase in (0, 1)
        for d in range(-radius, radius + 1)
        if 0 <= phase + padding - 2 * d < kernel
    ]
    for phase_y, y, tap_y in taps:
        for phase_x, x, tap_x in taps:
            result[:, phase_y, phase_x, :, y, x] = weight[:, :, tap_y, tap_x].T
    return result.reshape(4 * out_channels, in_channels, side, side), bias.repeat_interleave(4)


def nearest_as_conv(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same as :func:`transposed_as_conv` for a 3×3 convolution ``(C_out, C_in, 3, 3)`` of a map doubled in size.

    Both pixels of a pair read three pixels of the doubled map, which are two of the map: taps fall together.
    """
    out_channels, in_channels, _, _ = weight.shape
    result = weight.new_zeros(out_channels, 2, 2, in_channels, 3, 3)
    taps = [(phase, (phase + tap - 1) // 2 + 1, tap) for phase in (0, 1) for tap in range(3)]
    for phase_y, y, tap_y in taps:
        for phase_x, x, tap_x in taps:
            result[:, phase_y, phase_x, :, y, x] += weight[:, :, tap_y, tap_x]
    return result.reshape(4 * out_channels, in_channels, 3, 3), bias.repeat_interleave(4)


class MergedPredictor(nn.Module):
    """All convolutions of the predictor as one and, where the maps are twice as large, a depth-to-space."""

    def __init__(self, predictor: MapPredictor) -> None:
        super().__init__()
        layers = predictor.layers()
        kind = predictor.config.kind
        pairs = [(layer.weight.double(), _bias(layer).double()) for layer in layers.values()]
        if kind != "conv3":
            pairs = [(transposed_as_conv if kind == "transposed" else nearest_as_conv)(*pair) for pair in pairs]
        self.conv = _conv(torch.cat([w for w, _ in pairs]), torch.cat([b for _, b in pairs]))
        self._block = 1 if kind == "conv3" else 2
        self._names = list(layers)
        self._channels = [layer.out_channels for layer in layers.values()]
        self._up_scale = predictor.config.up_scale
        self._predictor = (predictor,)  # in a tuple: its own convolutions are no longer part of the model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.conv(x)
        if self._block > 1:
            maps = F.pixel_shuffle(maps, self._block)
        maps = upsample_bilinear(maps, self._up_scale)
        return self._predictor[0].combine(dict(zip(self._names, maps.split(self._channels, dim=1), strict=True)))
