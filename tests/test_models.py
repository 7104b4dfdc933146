"""The torch models: detectron2's names and shapes, its numbers at every stage, and that they can be exported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages import TOLERANCE, relative_errors, stage_outputs, with_weights
from torch import nn
from torch.nn import functional as F
from vertex_stages import vertex_differences

from densepose_engine.export.config.model_config import (
    EmbedderConfig,
    EmbeddingPredictorConfig,
    ModelConfig,
    PredictorConfig,
    load_config,
)
from densepose_engine.export.model import DensePoseRCNN
from densepose_engine.export.networks import mobile
from densepose_engine.export.networks.embedder import VertexEmbedder
from densepose_engine.export.networks.heads import ASPP, ImageLevelFeatures, NonLocalBlock
from densepose_engine.export.networks.mobile_architectures import MOBILE_ARCHITECTURES
from densepose_engine.export.networks.predictors import ChartPredictor, EmbeddingPredictor

DATA = Path(__file__).parent / "data"
ARCHITECTURES = sorted(path.stem for path in (DATA / "keys").glob("*.json"))
STAGED = sorted(path.stem for path in (DATA / "stages").glob("*_rcnn_*.npz"))
LITE0, SPNASNET = "mobile_parsing_rcnn_b_efficientnet_lite0", "mobile_parsing_rcnn_b_spnasnet_100"
DEEPLAB = "densepose_rcnn_R_50_FPN_DL_s1x"
WITH_VERTICES, SMPL = ["densepose_rcnn_R_50_FPN_soft_s1x", "mobile_parsing_rcnn_b_cse"], "smpl_27554"


def config_of(name: str) -> ModelConfig:
    return load_config(DATA / f"keys/{name}.yaml")


def on_meta(config: ModelConfig) -> DensePoseRCNN:
    with torch.device("meta"):
        return DensePoseRCNN(config)


def stage_errors(config: ModelConfig, name: str) -> dict[str, float]:
    with np.load(DATA / "stages/inputs.npz") as inputs, np.load(DATA / f"stages/{name}.npz") as stages:
        outputs = stage_outputs(with_weights(config), inputs["image"], inputs["boxes"])
        return relative_errors(outputs, dict(stages))


def change(config: Any, **changes: Any) -> Any:
    """A copy of a configuration with changed fields: ``rpn__nms_threshold=1`` changes a field of a field."""
    for path, value in changes.items():
        field, _, rest = path.partition("__")
        config = dataclasses.replace(
            config, **{field: change(getattr(config, field), **{rest: value}) if rest else value}
        )
    return config


def test_there_are_seventeen_architectures_and_nine_stage_files() -> None:
    assert len(ARCHITECTURES) == 17
    assert len(STAGED) == 9
    assert set(WITH_VERTICES) < set(STAGED)
    assert {LITE0, SPNASNET, DEEPLAB} < set(STAGED)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_and_shapes_are_detectron2s(name: str) -> None:
    expected = json.loads((DATA / f"keys/{name}.json").read_text())
    assert {n: list(v.shape) for n, v in on_meta(config_of(name)).state_dict().items()} == expected


@pytest.mark.parametrize("name", STAGED)
def test_every_stage_is_detectron2s(name: str) -> None:
    model = with_weights(config_of(name))
    with np.load(DATA / "stages/inputs.npz") as inputs, np.load(DATA / f"stages/{name}.npz") as file:
        outputs, stages = stage_outputs(model, inputs["image"], inputs["boxes"]), dict(file)
    errors = relative_errors(outputs, stages)
    assert len(errors) == (12 if name in WITH_VERTICES else 23)
    assert max(errors.values()) < TOLERANCE, errors
    if name in WITH_VERTICES:
        pooled = torch.from_numpy(outputs["densepose_pooled"][:2])
        maps = {one: values.numpy() for one, values in model.densepose(pooled).items()}
        found = list(vertex_differences(maps, {SMPL: model.vertex_embeddings(SMPL).numpy()}, stages))
        assert [search for search, _, _ in found] == [f"{SMPL}.0", f"{SMPL}.1"]
        # A pixel or two of the hundreds that are kept.
        assert all(vertices < 4e-3 and mask < 4e-3 for _, vertices, mask in found), found


@pytest.mark.parametrize(
    ("name", "changes", "first_wrong_stage"),
    [
        (LITE0, {"input__pixel_mean": (103.53, 116.28, 123.675)}, "p2"),
        (LITE0, {"rpn__in_features": ("p2", "p3", "p4", "p5", "p5")}, "objectness_4"),
        (LITE0, {"box__pooler__aligned": False}, "box_pooled"),
        (LITE0, {"box__pooler__sampling_ratio": 1}, "box_pooled"),
        (LITE0, {"densepose__pooler__aligned": False}, "densepose_pooled"),
        (LITE0, {"densepose__deeplab__dilations": (6, 12, 56)}, "coarse_segm"),
        (DEEPLAB, {"densepose__deeplab__dilations": (6, 12, 18)}, "coarse_segm"),
        (DEEPLAB, {"backbone__stride_in_1x1": False}, "p2"),
        (WITH_VERTICES[0], {"densepose__pooler__sampling_ratio": 1}, "embedding"),
    ],
)
def test_the_stage_files_notice_a_wrong_model(name: str, changes: dict[str, Any], first_wrong_stage: str) -> None:
    errors = stage_errors(change(config_of(name), **changes), name)
    assert errors[first_wrong_stage] > 10 * TOLERANCE, errors


@pytest.mark.parametrize(("name", "activation"), [(LITE0, "relu"), (SPNASNET, "relu6")])
def test_the_stage_files_notice_a_wrong_activation(name: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = name.removeprefix("mobile_parsing_rcnn_b_")
    wrong = dataclasses.replace(MOBILE_ARCHITECTURES[backbone], activation=activation)
    monkeypatch.setattr(mobile, "MOBILE_ARCHITECTURES", {backbone: wrong})
    assert stage_errors(config_of(name), name)["p2"] > 10 * TOLERANCE


def test_model_is_for_inference_only() -> None:
    model = on_meta(config_of(LITE0))
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_features_and_strides_of_the_poolers() -> None:
    levels = {f"p{i}": torch.full((1, 64, 2**i, 2**i), float(i)) for i in range(2, 7)}
    mobile = on_meta(config_of(LITE0))
    assert mobile.box_strides == (4, 8, 16, 32)
    assert mobile.densepose_strides == (4,)
    assert [f[0, 0, 0, 0].item() for f in mobile.box_features(levels)] == [2, 3, 4, 5]
    assert [f[0, 0, 0, 0].item() for f in mobile.densepose_features(levels)] == [2]
    legacy = on_meta(config_of("densepose_rcnn_R_50_FPN_s1x_legacy"))
    assert legacy.densepose_strides == (4, 8, 16, 32)
    assert [f[0, 0, 0, 0].item() for f in legacy.densepose_features(levels)] == [2, 3, 4, 5]


def test_image_level_features_are_what_resizing_one_pixel_gives() -> None:
    torch.manual_seed(0)
    layers = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.ReLU()]
    x = torch.randn(2, 8, 6, 7)
    expected = F.interpolate(nn.Sequential(*layers)(x), size=(6, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ImageLevelFeatures(*layers)(x), expected, rtol=1e-6, atol=1e-7)
    assert ASPP(32, (6, 12, 18), "")(torch.randn(2, 32, 5, 5)).shape == (2, 32, 5, 5)


def test_attention_is_the_plain_softmax_of_products() -> None:
    # The stage file cannot tell a scaled softmax: its weights make the scores so large that one key takes all.
    torch.manual_seed(0)
    block = NonLocalBlock(32).double().requires_grad_(False)
    x = torch.randn(2, 32, 4, 6, dtype=torch.float64)
    queries, keys, values = block.theta(x), block.phi(x), block.g(x)
    assert keys.shape == values.shape == (2, 16, 2, 3)
    scores = torch.einsum("nchw,ncij->nhwij", queries, keys)
    assert 0.2 < scores.std() < 2
    attention = scores.exp() / scores.exp().sum(dim=(3, 4), keepdim=True)
    expected = x + block.W(torch.einsum("nhwij,ncij->nchw", attention, values))
    torch.testing.assert_close(block(x), expected)


def predictor(**changes: Any) -> ChartPredictor:
    torch.manual_seed(0)
    config = PredictorConfig(2, 24, 4, 2, None, False, 0.01)
    return ChartPredictor(8, dataclasses.replace(config, **changes)).requires_grad_(False)


@pytest.mark.parametrize(
    ("changes", "extra"),
    [
        ({}, set()),
        ({"uv_confidence": "iid_iso"}, {"sigma_2"}),
        ({"uv_confidence": "indep_aniso"}, {"sigma_2", "kappa_u", "kappa_v"}),
        ({"segm_confidence": True}, {"fine_segm_confidence", "coarse_segm_confidence"}),
    ],
)
def test_predictor_gives_the_maps_that_the_configuration_asks_for(changes: dict[str, Any], extra: set[str]) -> None:
    maps = predictor(**changes)(torch.randn(3, 8, 6, 6))
    assert set(maps) == {"coarse_segm", "fine_segm", "u", "v"} | extra
    channels = {"coarse_segm": 2, "fine_segm_confidence": 1, "coarse_segm_confidence": 1}
    assert {n: tuple(m.shape) for n, m in maps.items()} == {n: (3, channels.get(n, 25), 24, 24) for n in maps}


def test_segmentation_confidences_scale_the_logits() -> None:
    model, x = predictor(segm_confidence=True, segm_confidence_epsilon=0.125), torch.randn(2, 8, 4, 4)
    maps = model(x)
    plain = predictor()
    plain.load_state_dict(model.state_dict(), strict=False)
    for name in ("fine_segm", "coarse_segm"):
        layer = getattr(model, f"{name}_confidence_lowres")
        logits = F.interpolate(layer(x), scale_factor=2, mode="bilinear", align_corners=False)
        confidence = torch.log1p(torch.exp(logits)) + 0.125
        torch.testing.assert_close(maps[f"{name}_confidence"], confidence)
        torch.testing.assert_close(maps[name], plain(x)[name] * confidence)
        assert maps[f"{name}_confidence"].min() > 0.125


def embedding_predictor(**changes: Any) -> EmbeddingPredictor:
    torch.manual_seed(0)
    embedder = EmbedderConfig("torus", "vertex_direct", 5, None)
    config = EmbeddingPredictorConfig(3, 6, 4, 2, False, 0.125, (embedder,), (0,))
    return EmbeddingPredictor(8, dataclasses.replace(config, **changes)).requires_grad_(False)


def test_embeddings_and_their_confidences() -> None:
    x = torch.randn(2, 8, 4, 4)
    model, plain = embedding_predictor(segm_confidence=True), embedding_predictor()
    assert set(model.state_dict()) - set(plain.state_dict()) == {
        "coarse_segm_confidence_lowres.weight",
        "coarse_segm_confidence_lowres.bias",
    }
    plain.load_state_dict(model.state_dict(), strict=False)
    maps, raw = model(x), plain(x)
    assert list(maps) == ["coarse_segm", "embedding", "coarse_segm_confidence"]
    assert {name: tuple(one.shape) for name, one in raw.items()} == {
        "coarse_segm": (2, 3, 16, 16),
        "embedding": (2, 6, 16, 16),
    }
    logits = F.interpolate(model.coarse_segm_confidence_lowres(x), scale_factor=2, mode="bilinear", align_corners=False)
    confidence = torch.log1p(torch.exp(logits)) + 0.125
    torch.testing.assert_close(maps["coarse_segm_confidence"], confidence)
    torch.testing.assert_close(maps["coarse_segm"], raw["coarse_segm"] * confidence)
    torch.testing.assert_close(maps["embedding"], raw["embedding"], rtol=0, atol=0)


@pytest.mark.parametrize("feature_dim", [None, 7])
def test_vertex_embeddings_have_length_1(feature_dim: int | None) -> None:
    kind = "vertex_direct" if feature_dim is None else "vertex_feature"
    embedder = VertexEmbedder(EmbedderConfig("torus", kind, 50, feature_dim), 4)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    state = {n: torch.randn(v.shape, generator=generator) for n, v in embedder.state_dict().items()}
    state["features" if feature_dim else "embeddings"][3] = 0
    embedder.load_state_dict(state)
    rows = (state["features"] @ state["embeddings"] if feature_dim else state["embeddings"]).double()
    rows[3] = 0
    expected = rows / torch.maximum(rows.norm(dim=1, keepdim=True), torch.tensor(1e-6))
    found = embedder()
    assert found.dtype == torch.float32 and found.shape == (50, 4)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-6)
    assert (found[3] == 0).all()


def test_a_box_predictor_has_boxes_of_each_class_or_of_all() -> None:
    config = config_of("densepose_rcnn_R_50_FPN_soft_animals_I0_finetune_16k")
    assert config.box.num_classes == 9
    for agnostic, deltas in ((False, 36), (True, 4)):
        model = DensePoseRCNN(change(config, box__class_agnostic=agnostic, densepose__decoder=None))
        width = config.box.pooler.resolution
        logits, moves = model.box(torch.zeros(3, 256, width, width))
        assert logits.shape == (3, 10) and moves.shape == (3, deltas)


def test_variants_without_a_stage_file_have_detectron2s_names() -> None:
    base = config_of("densepose_rcnn_R_50_FPN_s1x")
    names = on_meta(change(base, backbone__norm="BN")).state_dict()
    assert "backbone.bottom_up.res2.0.conv1.norm.num_batches_tracked" in names
    names = on_meta(change(base, backbone__norm="GN", neck__norm="GN")).state_dict()
    assert "backbone.fpn_lateral2.norm.weight" in names
    assert "backbone.fpn_lateral2.bias" not in names
    assert "backbone.bottom_up.stem.conv1.norm.running_mean" not in names
    names = on_meta(change(base, rpn__conv_dims=(-1, 128))).state_dict()
    assert names["proposal_generator.rpn_head.conv.conv1.weight"].shape == (128, 256, 3, 3)
    assert names["proposal_generator.rpn_head.anchor_deltas.weight"].shape == (12, 128, 1, 1)
    names = on_meta(change(base, backbone__num_groups=32, backbone__width_per_group=8)).state_dict()
    assert names["backbone.bottom_up.res2.0.conv2.weight"].shape == (256, 8, 3, 3)


def test_average_fusion_halves_every_sum() -> None:
    base = change(config_of("densepose_rcnn_R_50_FPN_s1x"), neck__out_channels=32, densepose__decoder=None)
    summed, averaged = (DensePoseRCNN(change(base, neck__fuse_type=kind)).backbone for kind in ("sum", "avg"))
    averaged.load_state_dict(summed.state_dict())
    for level in (2, 3, 4, 5):  # without biases the pyramid is linear: halving each sum halves p4 once
        for neck in (summed, averaged):
            for kind in ("lateral", "output"):
                getattr(neck, f"fpn_{kind}{level}").bias.zero_()
    image = torch.randn(1, 3, 64, 64)
    first, second = summed(image), averaged(image)
    torch.testing.assert_close(second["p5"], first["p5"])
    torch.testing.assert_close(second["p4"], first["p4"] / 2)
    assert not torch.allclose(second["p3"], first["p3"] / 2)


class Part(nn.Module):
    """One method of the model as a module, the way the graph is made of them."""

    def __init__(self, model: DensePoseRCNN, run: Callable[[DensePoseRCNN, torch.Tensor], Any]) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self.model, x)


def dense_part(model: DensePoseRCNN, image: torch.Tensor) -> Any:
    levels = model.pyramid(image)
    return levels, model.rpn(levels), model.densepose_features(levels)


def test_parts_export_with_any_picture_size_and_any_number_of_boxes() -> None:
    config = config_of("mobile_parsing_rcnn_b_wc2m")
    model = with_weights(config)
    height, width, boxes = (torch.export.Dim(n, min=3, max=40) for n in ("height", "width", "boxes"))
    box_size, densepose_size = config.box.pooler.resolution, config.densepose.pooler.resolution
    cases = [
        (Part(model, dense_part), {2: 32 * height, 3: 32 * width}, (1, 3, 96, 128), (1, 3, 160, 96)),
        (Part(model, DensePoseRCNN.box), {0: boxes}, (4, 64, box_size, box_size), (7, 64, box_size, box_size)),
        (
            Part(model, DensePoseRCNN.densepose),
            {0: boxes},
            (4, 64, densepose_size, densepose_size),
            (3, 64, densepose_size, densepose_size),
        ),
    ]
    for part, dynamic, traced, other in cases:
        exported = torch.export.export(part, (torch.randn(traced),), dynamic_shapes={"x": dynamic}, strict=False)
        x = torch.randn(other)
        torch.testing.assert_close(exported.module()(x), part(x), rtol=0, atol=0)


def test_heads_take_no_boxes() -> None:
    model = DensePoseRCNN(config_of("mobile_parsing_rcnn_b_wc2m"))
    logits, deltas = model.box(torch.zeros(0, 64, 7, 7))
    assert logits.shape == (0, 2)
    assert deltas.shape == (0, 4)
    assert {tuple(m.shape[:1]) for m in model.densepose(torch.zeros(0, 64, 32, 32)).values()} == {(0,)}
