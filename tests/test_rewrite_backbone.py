"""The mobile backbones' rewrites give the same numbers, in float64."""

from __future__ import annotations

import pytest
import torch
from backbone_digest import picture
from torch import nn
from weights import state_dict

from densepose_engine.export.config.model_config import MobileBackboneConfig, PredictorConfig
from densepose_engine.export.graph.rewrite import MergedPredictor
from densepose_engine.export.graph.rewrite_backbone import merge_mixed, rewrite_backbone
from densepose_engine.export.networks.mobile import ConditionalResidual, MobileBackbone
from densepose_engine.export.networks.mobile_layers import CondConv2d, MixedConv2d, PaddedConv2d
from densepose_engine.export.networks.predictors import ChartPredictor


def of_modules(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def grouped(inputs: int, outputs: int, kernels: list[int], stride: int, same: bool, depthwise: bool) -> MixedConv2d:
    torch.manual_seed(0)
    convs = [PaddedConv2d(inputs, outputs, k, stride, inputs if depthwise else 1, same) for k in kernels]
    return MixedConv2d(convs).double().requires_grad_(False)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_mixed_depthwise_kernels_are_one_padded_kernel(stride: int, same: bool) -> None:
    mixed = grouped(4, 4, [3, 5, 7, 9, 11], stride, same, depthwise=True)
    merged = merge_mixed(mixed).double()
    assert merged.weight.shape == (20, 1, 11, 11)
    x = torch.randn(2, 20, 16, 12, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in zip(merged.weight.split(4), mixed, strict=True):
            assert int((ours != 0).sum()) == theirs.weight.numel()
    merged.weight.copy_(merged.weight.double())
    torch.testing.assert_close(merged(x), mixed(x), rtol=1e-6, atol=1e-6)


def test_mixed_pointwise_convolutions_are_one_with_groups() -> None:
    mixed = grouped(6, 10, [1, 1], 1, False, depthwise=False)
    merged = merge_mixed(mixed).double()
    assert (merged.groups, merged.weight.shape) == (2, (20, 6, 1, 1))
    x = torch.randn(2, 12, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(merged(x), mixed(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["mixnet_s", "mixnet_l", "tf_efficientnet_cc_b0_4e"])
def test_rewritten_backbones_give_the_same(name: str) -> None:
    model = MobileBackbone(MobileBackboneConfig(name, 1e-3)).eval().requires_grad_(False)
    model.load_state_dict(state_dict(model))
    model, x = model.double(), picture().double()
    expected = model(x)
    mixed = of_modules(model, MixedConv2d)
    rewrite_backbone(model)
    model = model.double()
    assert of_modules(model, MixedConv2d) == 0
    assert mixed > 0 or of_modules(model, CondConv2d) == 24
    for block in model.modules():
        if isinstance(block, ConditionalResidual):
            assert of_modules(block, nn.BatchNorm2d) == 0
            assert isinstance(block.conv_pw, CondConv2d) and block.conv_pw.bias is not None
    for ours, theirs in zip(model(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", ["nearest_conv3", "conv3"])
def test_the_first_generations_map_heads_are_one_convolution(kind: str) -> None:
    torch.manual_seed(0)
    config = PredictorConfig(15, 24, 4, 1, None, False, 0.01, kind)  # type: ignore[arg-type]
    predictor = ChartPredictor(8, config).requires_grad_(False)
    merged = MergedPredictor(predictor)
    assert of_modules(merged, nn.Conv2d) == 1
    x = torch.randn(3, 8, 6, 5)
    expected = predictor(x)
    scale = config.map_scale
    assert {n: tuple(m.shape[2:]) for n, m in expected.items()} == dict.fromkeys(expected, (6 * scale, 5 * scale))
    for name, value in merged(x).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
