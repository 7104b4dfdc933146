"""DensePoseFnL's first generation: recognized by keys and weights, the second's numbers where they agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from stages import with_weights

from densepose_engine.errors import CheckpointError, ConfigError
from densepose_engine.export import network
from densepose_engine.export.checkpoint.load import load_weights
from densepose_engine.export.config.model_config import config_from_mapping, load_config
from densepose_engine.export.model import DensePoseRCNN

KEYS = Path(__file__).parent / "data/keys"
FIRST_B, SECOND_B = KEYS / "gen1_mobile_rcnn_b.yaml", KEYS / "mobile_parsing_rcnn_b_spnasnet_100.yaml"
HEAD, BLOCK = "MODEL.ROI_DENSEPOSE_HEAD.NAME", "MODEL.ROI_SHARED_BLOCK."
PREDICTOR = "MODEL.ROI_DENSEPOSE_PREDICTOR.NAME"
RATIO, COARSE = BLOCK + "NONLOCAL_REDUCTION_RATIO", "MODEL.ROI_DENSEPOSE_HEAD.NUM_COARSE_SEGM_CHANNELS"
WIDTHS = ("MODEL.FPN.OUT_CHANNELS", "MODEL.ROI_BOX_HEAD.CONV_DIM", BLOCK + "ASPP_DIM", BLOCK + "CONV_HEAD_DIM")
WIDE = [text for key in WIDTHS for text in (key, "256")]
LEGACY = "densepose_rcnn_R_50_FPN_s1x_legacy"
MAP_HEAD = [HEAD, "DensePoseNearestConv3Head", PREDICTOR, "Identity"]
#: What the base configurations of its repository have in common.
BY_HAND: dict[str, Any] = {
    "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
    "RESNETS": {"OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
    "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
    "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]]},
    "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"]},
    "ROI_HEADS": {"NAME": "DensePoseROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"], "NUM_CLASSES": 1},
    "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7, "POOLER_TYPE": "ROIAlign"},
    "ROI_DENSEPOSE_HEAD": {"NAME": "DensePoseV1ConvXHead", "POOLER_TYPE": "ROIAlign"},
}
EFFICIENTNET = {
    "BACKBONE": {"NAME": "build_efficientnet_fpn_backbone", "FREEZE_AT": 1},
    "EFFICIENTNETS": {"NAME": "mobilenetv3_rw", "OUT_FEATURES": ["s1", "s2", "s3", "s5"], "NORM": "SyncBN"},
    "FPN": {"IN_FEATURES": ["s1", "s2", "s3", "s5"]},
}


def millions(model: DensePoseRCNN) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.3f}"


def on_meta(path: Path, *overrides: str) -> DensePoseRCNN:
    with torch.device("meta"):
        return DensePoseRCNN(load_config(path, overrides))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "3.350"),
        (WIDE, "10.534"),
        ([BLOCK + "NAME", "MobileParsingSharedBlock"], "3.088"),
        (MAP_HEAD, "3.309"),
    ],
)  # fmt: skip
def test_variants_of_mobile_rcnn_b_have_the_published_parameters(overrides: list[str], expected: str) -> None:
    assert millions(on_meta(FIRST_B, *overrides)) == expected


def test_names_of_variants() -> None:
    names = set(on_meta(FIRST_B, *MAP_HEAD).state_dict())
    assert "roi_heads.densepose_head.ann_index_lowres.weight" in names
    assert not [name for name in names if "densepose_predictor" in name]
    names = set(on_meta(FIRST_B, BLOCK + "NAME", "MobileParsingSharedBlock").state_dict())
    blocks = {name.removeprefix("roi_heads.shared_block.") for name in names if ".shared_block." in name}
    assert {"aspp.aspp2.0.weight", "aspp.aspp5.1.bias", "aspp.aspp_agg.0.weight"} <= blocks
    assert {f"conv_after_aspp_nl.{i}.{kind}.weight" for i in range(4) for kind in ("conv_dw", "conv_pw")} <= blocks


@pytest.mark.parametrize(("more", "expected"), [({}, "59.731"), (EFFICIENTNET, "38.185")])
def test_hand_written_configurations_get_the_defaults_of_then(more: dict[str, Any], expected: str) -> None:
    model = {**BY_HAND, **(more or {"EFFICIENTNETS": {}})}  # a complete dump names the section, whatever the backbone
    config = config_from_mapping({"MODEL": model})
    assert config.first_generation and config.densepose.decoder is None
    assert (config.densepose.pooler.resolution, config.densepose.predictor.coarse_channels) == (14, 15)
    with torch.device("meta"):
        built = DensePoseRCNN(config)
    assert millions(built) == expected
    assert "proposal_generator.anchor_generator.cell_anchors.4" in built.state_dict()


def test_mobile_rcnn_b_is_the_seconds_under_other_names() -> None:
    renamed = {f"shared_block.aspp{i + 1}.0": f"densepose_head.ASPP.convs.{i}.0" for i in range(4)}
    renamed |= {"shared_block.aspp5.1": "densepose_head.ASPP.convs.4.1"}
    renamed |= {"shared_block.aspp_agg.0": "densepose_head.ASPP.project.0"}
    renamed |= {f"shared_block.conv_after_aspp_nl.{2 * i}": f"densepose_head.body_conv_fcn{i + 1}" for i in range(4)}
    first = with_weights(load_config(FIRST_B))
    state = {}
    for name, value in first.state_dict().items():
        old = next((one for one in renamed if name.startswith(f"roi_heads.{one}.")), None)
        state[name.replace(old, renamed[old]) if old else name] = value
    second = DensePoseRCNN(load_config(SECOND_B))
    load_weights(second, state)
    image, pooled = torch.randn(1, 3, 64, 96), torch.randn(2, 64, 32, 32)
    for ours, theirs in (
        (first.pyramid(image), second.pyramid(image)),
        (first.densepose(pooled), second.densepose(pooled)),
    ):
        assert list(ours) == list(theirs)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name])


def test_anchors_are_the_configurations_whatever_the_checkpoint_says() -> None:
    model = with_weights(load_config(FIRST_B))
    anchors = model.state_dict()["proposal_generator.anchor_generator.cell_anchors.1"].clone()
    np.testing.assert_allclose(anchors[1], [-32, -32, 32, 32])
    state = {n: v for n, v in model.state_dict().items() if ".cell_anchors." not in n}
    load_weights(model, state | {"proposal_generator.anchor_generator.cell_anchors.1": torch.zeros(3, 4)})
    assert torch.equal(model.state_dict()["proposal_generator.anchor_generator.cell_anchors.1"], anchors)


def shapes(path: Path) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in json.loads(path.read_text()).items()}


@pytest.mark.parametrize(
    ("config", "checkpoint", "sentence"),
    [
        (LEGACY.removesuffix("_legacy"), LEGACY, r"DECODER_ON False .*CHANNELS 15 .*RESOLUTION 14"),
        (SECOND_B.stem, FIRST_B.stem, "first generation, whose Parsing R-CNN .* SharedROIHeads"),
        (FIRST_B.stem, SECOND_B.stem, r"configuration is of DensePoseFnL's first generation .* checkpoint is not"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_the_other_generation_is_answered_with_what_to_do(
    config: str, checkpoint: str, sentence: str
) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        load_weights(on_meta(KEYS / f"{config}.yaml"), shapes(KEYS / f"{checkpoint}.json"))


def test_the_keys_that_are_named_make_the_old_checkpoint_fit() -> None:
    path, weights = KEYS / "densepose_rcnn_R_50_FPN_s1x.yaml", shapes(KEYS / "densepose_rcnn_R_50_FPN_s1x_legacy.json")
    with pytest.raises(CheckpointError) as caught:
        load_weights(on_meta(path), weights)
    pairs = re.search(r"--opts (.*)", str(caught.value)).group(1).split()  # type: ignore[union-attr]
    model = on_meta(path, *pairs)
    assert {n: tuple(v.shape) for n, v in model.state_dict().items()} == {n: tuple(v.shape) for n, v in weights.items()}
    legacy = load_config(KEYS / "densepose_rcnn_R_50_FPN_s1x_legacy.yaml")
    assert load_config(path, pairs).densepose == legacy.densepose


def test_a_checkpoint_of_simulated_quantization_is_named() -> None:
    weights = {"backbone.bottom_up.conv_stem.weight_fake_quant.scale": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"--qat.*Give the float checkpoint"):
        load_weights(on_meta(FIRST_B), weights)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([PREDICTOR, "Identity"], PREDICTOR),
        ([HEAD, "DensePoseConv3Head"], PREDICTOR),
        ([HEAD, "DensePoseDeepLabHead"], HEAD),
        ([BLOCK + "NAME", ""], BLOCK + "NAME"),
        ([BLOCK + "ASPP_ON", "False", BLOCK + "CONV_HEAD_DIM", "32"], BLOCK + "ASPP_ON"),
        ([BLOCK + "ASPP_DILATION", "(6, 12)"], BLOCK + "ASPP_DILATION"),
        ([BLOCK + "CONV_HEAD_KERNEL", "2"], BLOCK + "CONV_HEAD_KERNEL"),
        ([BLOCK + "NONLOCAL_ON", "True", RATIO, "0.001"], RATIO),
        (["MODEL.ROI_SHARED_HEAD.IN_FEATURES", "['p6']"], "MODEL.ROI_SHARED_HEAD.IN_FEATURES"),
        ([COARSE, "2"], COARSE),
        (["MODEL.ROI_HEADS.NAME", "MyDensePoseROIHeads"], "MODEL.ROI_HEADS.NAME"),
    ],
)  # fmt: skip
def test_what_the_first_generation_cannot_be_is_refused_by_key(overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(FIRST_B, overrides)
    assert caught.value.key == key


def test_the_heads_of_its_parsing_rcnn_have_sections_of_their_own() -> None:
    config = load_config(
        FIRST_B, ["MODEL.ROI_BOX_HEAD.IN_FEATURES", "['p3', 'p4']", "MODEL.ROI_SHARED_HEAD.IN_FEATURES", "[]"]
    )
    assert config.box.pooler.strides == (8, 16)
    assert config.densepose.pooler.strides == (4, 8, 16, 32)
    assert (config.densepose.pooler.resolution, config.densepose.pooler.aligned) == (32, True)


@pytest.mark.parametrize("path", [FIRST_B, SECOND_B])
def test_network_takes_a_path_or_a_configuration(path: Path) -> None:
    expected = set(json.loads(path.with_suffix(".json").read_text()))
    for config in (path, str(path), load_config(path)):
        model = network(config)
        assert set(model.state_dict()) == expected
        assert not model.training
    levels = model.backbone(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(level.shape[2:]) for name, level in levels.items()} == {
        "p2": (16, 24), "p3": (8, 12), "p4": (4, 6), "p5": (2, 3), "p6": (1, 2)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("segmentation", "kind", "extra"),
    [
        (False, "iid_iso", {"sigma_2"}),
        (True, "iid_iso", {"sigma_2", "fine_segm_confidence", "coarse_segm_confidence"}),
        (False, "indep_aniso", {"sigma_2", "kappa_u", "kappa_v"}),
        (True, "indep_aniso", {"sigma_2", "kappa_u", "kappa_v", "fine_segm_confidence", "coarse_segm_confidence"}),
    ],
    ids=["WC1", "WC1M", "WC2", "WC2M"],
)
@pytest.mark.parametrize("base", ["R_50_FPN_s1x", "R_50_FPN_DL_s1x", "R_101_FPN_s1x", "R_101_FPN_DL_s1x"])
def test_confidences_on_every_base(tmp_path: Path, base: str, segmentation: bool, kind: str, extra: set[str]) -> None:
    head: dict[str, Any] = {"UV_CONFIDENCE": {"ENABLED": True, "TYPE": kind}, "POINT_REGRESSION_WEIGHTS": 0.0005}
    if segmentation:
        head["SEGM_CONFIDENCE"] = {"ENABLED": True}
    path = tmp_path / "wc.yaml"
    tree = {"_BASE_": str(KEYS / f"densepose_rcnn_{base}.yaml"), "MODEL": {"ROI_DENSEPOSE_HEAD": head}}
    path.write_text(yaml.safe_dump(tree))
    names = {name for name in on_meta(path).state_dict() if name.startswith("roi_heads.densepose_predictor.")}
    expected = {"ann_index", "index_uv", "u", "v"} | extra
    assert names == {f"roi_heads.densepose_predictor.{n}_lowres.{p}" for n in expected for p in ("weight", "bias")}
