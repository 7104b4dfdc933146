"""Exact rewrites: the same function before and after, on weights that would show a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densepose_engine.export.config.model_config import load_config
from densepose_engine.export.graph.rewrite import (
    MergedPredictor,
    MergedRPNHead,
    fold_fusion_weights,
    fold_normalization,
    rewrite,
    transposed_as_conv,
)
from densepose_engine.export.model import DensePoseRCNN
from densepose_engine.export.networks.heads import RPNHead
from densepose_engine.export.networks.necks import BiFPN
from densepose_engine.export.networks.predictors import MapPredictor

KEYS = Path(__file__).parent / "data" / "keys"
MOBILE = "mobile_parsing_rcnn_b_efficientnet_lite0"
# Of the larger models with vertices one will do.
ALL = sorted(path.stem for path in KEYS.glob("*.yaml") if "DL_soft" not in path.stem and "soft_s1x" not in path.stem)


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Weights under which no rewrite is trivial: fusion weights differ, norms shift and scale."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        if not parameter.is_floating_point() or name.endswith("eps"):
            continue
        if "running_var" in name or "fuse" in name:
            parameter.uniform_(0.5, 1.5, generator=generator)
        elif parameter.ndim < 2:
            parameter.normal_(0.1, 0.3, generator=generator)
        else:
            parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)


def make(name: str) -> DensePoseRCNN:
    model = DensePoseRCNN(load_config(KEYS / f"{name}.yaml"))
    with torch.no_grad():
        randomize(model)
    return model


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("kernel", [2, 4, 6, 8])
def test_a_transposed_convolution_is_a_convolution_and_a_depth_to_space(kernel: int) -> None:
    generator = torch.Generator().manual_seed(kernel)
    layer = nn.ConvTranspose2d(5, 3, kernel, stride=2, padding=kernel // 2 - 1).double().requires_grad_(False)
    for parameter in layer.parameters():
        parameter.normal_(generator=generator)
    x = torch.randn(2, 5, 7, 6, generator=generator, dtype=torch.float64)
    weight, bias = transposed_as_conv(layer.weight, layer.bias)
    converted = F.pixel_shuffle(F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2), 2)
    torch.testing.assert_close(converted, layer(x), rtol=0, atol=1e-12)


def test_fusion_weights_fold_into_convolutions() -> None:
    neck = make(MOBILE).backbone
    assert isinstance(neck, BiFPN)
    image = torch.randn(1, 3, 96, 64)
    expected = neck(image)
    assert fold_fusion_weights(neck)
    assert not [name for name, _ in neck.named_parameters() if "fuse" in name]
    for name, level in neck(image).items():
        assert_same(level, expected[name])


@pytest.mark.parametrize("weight", [0.0, -0.4])
def test_a_fusion_weight_that_is_not_positive_stays(weight: float) -> None:
    neck = make(MOBILE).backbone
    neck.fuse_p4_out.weight[1] = weight
    image = torch.randn(1, 3, 64, 64)
    expected = neck(image)
    assert not fold_fusion_weights(neck)
    for name, level in neck(image).items():
        assert torch.equal(level, expected[name])


@pytest.mark.parametrize("name", [MOBILE, "densepose_rcnn_R_50_FPN_s1x"])
def test_normalization_folds_into_the_stem(name: str) -> None:
    """The first is RGB with a deviation, the second BGR without one."""
    model = make(name)
    config = model.config.input
    rgb = torch.rand(1, 3, 64, 96) * 255
    own = rgb if config.format == "RGB" else rgb.flip(1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.pixel_mean, config.pixel_std))
    normalized = F.pad((own - mean) / std, (0, 32, 0, 32))
    expected = model.pyramid(normalized)

    rgb_mean = mean if config.format == "RGB" else mean.flip(0)
    fold_normalization(model)
    for level, value in model.pyramid(F.pad(rgb - rgb_mean, (0, 32, 0, 32))).items():
        assert_same(value, expected[level])


def test_rpn_heads_merge() -> None:
    head = make(MOBILE).proposal_generator.rpn_head
    assert isinstance(head, RPNHead)
    level = torch.randn(1, 64, 9, 11)
    assert_same(MergedRPNHead(head)(level), torch.cat(head(level), dim=1))


@pytest.mark.parametrize(
    "name", [MOBILE, "mobile_parsing_rcnn_b_wc2m", "densepose_rcnn_R_50_FPN_s1x", "mobile_parsing_rcnn_b_cse"]
)
def test_predictors_merge(name: str) -> None:
    predictor = make(name).roi_heads.densepose_predictor
    assert isinstance(predictor, MapPredictor)
    x = torch.randn(2, next(predictor.children()).in_channels, 6, 6)
    expected, merged = predictor(x), MergedPredictor(predictor)(x)
    assert list(merged) == list(expected)
    for map_name, value in merged.items():
        assert_same(value, expected[map_name])


@pytest.mark.parametrize("name", [n for n in ALL if "R_101" not in n])
def test_the_original_is_left_alone(name: str) -> None:
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rewrite(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
