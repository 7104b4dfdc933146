"""The mobile backbones: timm's names and numbers for all 24, and how a configuration chooses among them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_digest import digest_of_names, picture, sampled
from torch.nn import functional as F
from weights import state_dict

from densepose_engine.errors import ConfigError
from densepose_engine.export.config.model_config import MobileBackboneConfig, ModelConfig, load_config
from densepose_engine.export.model import DensePoseRCNN
from densepose_engine.export.networks import mobile
from densepose_engine.export.networks.mobile import MobileBackbone
from densepose_engine.export.networks.mobile_architectures import MOBILE_ARCHITECTURES
from densepose_engine.export.networks.mobile_blocks import Excitation, mobile_blocks, round_channels, tapped_blocks
from densepose_engine.export.networks.mobile_layers import PaddedConv2d, same_padding

DATA = Path(__file__).parent / "data"
TIMM = json.loads((DATA / "backbones.json").read_text())
GENERATION_2, MOBILE_A = (DATA / f"keys/{n}.yaml" for n in ("mobile_parsing_rcnn_b_spnasnet_100", "gen1_mobile_rcnn_a"))
#: Millions of parameters of Mobile-RCNN A as DensePoseFnL's model zoo gives them.
ZOO = {
    "efficientnet_b0": "12.10",
    "efficientnet_b1": "13.03",
    "efficientnet_b2": "13.68",
    "fbnetc_100": "11.49",
    "mixnet_l": "14.62",
    "mixnet_m": "12.39",
    "mixnet_s": "11.52",
    "mixnet_xl": "19.10",
    "mnasnet_a1": "10.94",
    "mnasnet_b1": "11.31",
    "spnasnet_100": "11.35",
    "tf_efficientnet_b3": "16.03",
    "tf_efficientnet_cc_b0_4e": "18.32",
    "tf_efficientnet_el": "17.89",
    "tf_efficientnet_em": "14.57",
    "tf_efficientnet_es": "13.12",
    "tf_mobilenetv3_large_075": "10.92",
    "tf_mobilenetv3_large_100": "12.04",
    "tf_mobilenetv3_large_minimal_100": "10.48",
    "tf_mobilenetv3_small_075": "9.74",
    "tf_mobilenetv3_small_100": "10.07",
    "tf_mobilenetv3_small_minimal_100": "9.58",
}


def backbone(name: str, **changes: object) -> MobileBackbone:
    """With the deterministic weights, as timm has it where nothing is changed."""
    eps = 1e-3 if "tf" in name else 1e-5
    model = MobileBackbone(dataclasses.replace(MobileBackboneConfig(name, eps), **changes))  # type: ignore[arg-type]
    model.load_state_dict(state_dict(model), strict=True)
    return model.eval().requires_grad_(False)


def tap_errors(model: MobileBackbone, name: str) -> list[float]:
    """Largest error of every tap, relative to its largest value."""
    errors = []
    for tap, expected in zip(model(picture()), TIMM[name]["taps"], strict=True):
        assert list(tap.shape) == expected["shape"]
        values = np.array(expected["values"])
        errors.append(float(np.abs(np.array(sampled(tap)) - values).max() / values[-1]))
    return errors


def test_there_are_24() -> None:
    assert len(MOBILE_ARCHITECTURES) == 24
    assert set(TIMM) == set(MOBILE_ARCHITECTURES)
    assert set(MOBILE_ARCHITECTURES) - set(ZOO) == {"efficientnet_lite0", "mobilenetv3_rw"}


@pytest.mark.parametrize("name", sorted(MOBILE_ARCHITECTURES))
def test_names_and_taps_are_timms(name: str) -> None:
    model = backbone(name)
    assert digest_of_names(model) == TIMM[name]["names"]
    assert sum(parameter.numel() for parameter in model.parameters()) == TIMM[name]["parameters"]
    assert max(tap_errors(model, name)) < 1e-5


@pytest.mark.parametrize("name", sorted(ZOO))
def test_mobile_rcnn_a_has_the_zoos_parameters(name: str) -> None:
    overrides = ["MODEL.EFFICIENTNETS.NAME", name]
    if "small" in name:  # it halves in its first stage
        for key in ("MODEL.EFFICIENTNETS.OUT_FEATURES", "MODEL.FPN.IN_FEATURES"):
            overrides += [key, "['s0', 's1', 's2', 's4']"]
    with torch.device("meta"):
        model = DensePoseRCNN(load_config(MOBILE_A, overrides))
    assert f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f}" == ZOO[name]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("mixnet_s", "activation", "swish"),  # the stem's
        ("tf_mobilenetv3_small_075", "same_padding", False),
        ("mobilenetv3_rw", "excitation", Excitation("inner", gate="sigmoid")),
        ("tf_mobilenetv3_large_100", "excitation", Excitation("inner", "multiple_of_8", None, "hard_sigmoid")),
    ],
)  # fmt: skip
def test_the_values_notice_a_wrong_network(
    name: str, field: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dataclasses.replace(MOBILE_ARCHITECTURES[name], **{field: value})  # type: ignore[arg-type]
    monkeypatch.setattr(mobile, "MOBILE_ARCHITECTURES", {name: wrong})
    assert max(tap_errors(backbone(name), name)) > 1e-4


def test_the_values_notice_eps_and_where_an_edge_residual_halves() -> None:
    assert max(tap_errors(backbone("tf_efficientnet_es", batch_norm_eps=1e-5), "tf_efficientnet_es")) > 1e-5
    assert max(tap_errors(backbone("tf_efficientnet_es", stride_in_projection=True), "tf_efficientnet_es")) > 1e-2


def test_taps_stand_before_every_halving() -> None:
    def channels(name: str) -> list[tuple[int, int, int]]:
        stages = mobile_blocks(MOBILE_ARCHITECTURES[name])
        return [(stage, index, stages[stage][index].inner_channels) for stage, index in tapped_blocks(stages)]

    assert channels("efficientnet_lite0") == [(1, 1, 144), (2, 1, 240), (4, 2, 672), (6, 0, 1152)]
    assert channels("spnasnet_100") == [(1, 2, 72), (2, 3, 120), (4, 3, 288), (6, 0, 1152)]
    # It halves in its first stage, whose features are then the finest level.
    assert channels("tf_mobilenetv3_small_100") == [(0, 0, 16), (1, 1, 88), (3, 1, 144), (5, 0, 576)]


@pytest.mark.parametrize(
    ("value", "rounded"), [(1, 8), (12, 16), (17.6, 16), (18, 24), (19.2, 24), (35.2, 32), (90, 88)]
)
def test_channels_are_multiples_of_8_that_lose_no_tenth(value: float, rounded: int) -> None:
    assert round_channels(value) == rounded


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_tensorflows(kernel: int, stride: int) -> None:
    # The definition: as many outputs as strides fit, what is missing is padded, the odd pixel behind.
    size = 10
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    assert same_padding(kernel, stride) == (total // 2, total - total // 2)
    conv = PaddedConv2d(3, 4, kernel, stride, same=True)
    x = torch.randn(1, 3, size, size)
    before, after = same_padding(kernel, stride)
    torch.testing.assert_close(conv(x), F.conv2d(F.pad(x, (before, after, before, after)), conv.weight, stride=stride))


def test_an_unknown_name_lists_all_24() -> None:
    with pytest.raises(ConfigError, match=r"MODEL.TIMMNETS.NAME is 'resnet18'") as caught:
        load_config(GENERATION_2, ["MODEL.TIMMNETS.NAME", "resnet18"])
    assert all(repr(name) in str(caught.value) for name in MOBILE_ARCHITECTURES)
    with pytest.raises(ConfigError, match=r"MODEL.EFFICIENTNETS.NAME is 'resnet18'") as caught:
        load_config(MOBILE_A, ["MODEL.EFFICIENTNETS.NAME", "resnet18"])
    assert all(repr(name) in str(caught.value) for name in MOBILE_ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "pretrained", "norm", "eps"),
    [
        ("spnasnet_100", "True", "FrozenBN", 1e-5),
        ("tf_efficientnet_es", "False", "FrozenBN", 1e-3),
        ("tf_efficientnet_es", "True", "SyncBN", 1e-3),
        ("fbnetc_100", "True", "FrozenBN", 1e-3),
        ("fbnetc_100", "True", "BN", 1e-5),
        ("fbnetc_100", "False", "FrozenBN", 1e-5),
        ("mobilenetv3_rw", "True", "FrozenBN", 1e-3),
        ("mobilenetv3_rw", "True", "SyncBN", 1e-5),
    ],
)
def test_eps_follows_from_the_configuration(name: str, pretrained: str, norm: str, eps: float) -> None:
    keys = {"NAME": name, "PRETRAINED": pretrained, "NORM": norm}
    config = load_config(
        GENERATION_2, [text for key, value in keys.items() for text in (f"MODEL.TIMMNETS.{key}", value)]
    )
    assert isinstance(config.backbone, MobileBackboneConfig)
    assert config.backbone.batch_norm_eps == eps
    with torch.device("meta"):
        norms = {m.eps for m in MobileBackbone(config.backbone).modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert norms == {eps}


def first_generation(name: str = "gen1_mobile_rcnn_a", *overrides: str) -> ModelConfig:
    return load_config(DATA / f"keys/{name}.yaml", overrides)


def test_the_first_generations_trunk_is_cut_behind_its_last_output() -> None:
    trunk = first_generation("gen1_mobile_rcnn_a", "MODEL.EFFICIENTNETS.OUT_FEATURES", "['s1','s2','s3','s5','s6']")
    assert isinstance(trunk.backbone, MobileBackboneConfig)
    assert (trunk.backbone.output_stages, trunk.backbone.kept_stages) == ((1, 2, 3, 5), 7)
    assert len(MobileBackbone(trunk.backbone).blocks) == 7
    shorter = first_generation().backbone
    assert isinstance(shorter, MobileBackboneConfig)
    assert len(MobileBackbone(shorter).blocks) == 6


def test_stages_of_wrong_strides_are_refused_with_those_that_fit() -> None:
    with pytest.raises(ConfigError, match=r"IN_FEATURES.*strides 4, 8, 16, 32.* one each of s0, s1, s2/s3, s4/s5"):
        first_generation("gen1_mobile_rcnn_a", "MODEL.EFFICIENTNETS.NAME", "tf_mobilenetv3_small_100")


def test_the_first_generations_bifpn_ignores_the_name_but_for_tf() -> None:
    key = "MODEL.EFFICIENTNETS.NAME"
    for name, eps in (("mixnet_s", 1e-5), ("nothing", 1e-5), ("tf_efficientnet_es", 1e-3)):
        trunk = first_generation("gen1_mobile_rcnn_b", key, name).backbone
        assert isinstance(trunk, MobileBackboneConfig)
        assert (trunk.name, trunk.batch_norm_eps) == ("spnasnet_100", eps)


@pytest.mark.parametrize(("freeze_at", "parts"), [("1", 3), ("-1", 1), ("0", 2), ("-2", 0)])
def test_frozen_stages_have_no_counters(freeze_at: str, parts: int) -> None:
    keys = ["MODEL.EFFICIENTNETS.NORM", "SyncBN", "MODEL.BACKBONE.FREEZE_AT", freeze_at]
    config = first_generation("gen1_mobile_rcnn_a", "MODEL.EFFICIENTNETS.NAME", "mobilenetv3_rw", *keys)
    with torch.device("meta"):
        names = DensePoseRCNN(config).backbone.bottom_up.state_dict()
    counted = {".".join(name.split(".")[:2]) for name in names if name.endswith("num_batches_tracked")}
    everything = ["bn1.num_batches_tracked", *(f"blocks.{index}" for index in range(6))]
    assert counted == set(everything[parts:])
