"""The torch models against all that the oracle says: names, shapes, and every stage in full."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import TOLERANCE, model_with_weights, relative_errors, stage_outputs, with_weights
from vertex_stages import searched, vertex_differences

from densepose_engine.export.checkpoint.load import load_checkpoint, load_weights
from densepose_engine.export.config.model_config import load_config
from densepose_engine.export.model import DensePoseRCNN

ARCHITECTURES = [
    "densepose_rcnn_R_101_FPN_DL_s1x",
    "densepose_rcnn_R_101_FPN_s1x",
    "densepose_rcnn_R_50_FPN_DL_s1x",
    "densepose_rcnn_R_50_FPN_DL_soft_s1x",
    "densepose_rcnn_R_50_FPN_WC2M_s1x",
    "densepose_rcnn_R_50_FPN_s1x",
    "densepose_rcnn_R_50_FPN_s1x_legacy",
    "densepose_rcnn_R_50_FPN_soft_animals_I0_finetune_16k",
    "densepose_rcnn_R_50_FPN_soft_s1x",
    "mobile_parsing_rcnn_b_cse",
    "mobile_parsing_rcnn_b_efficientnet_lite0",
    "mobile_parsing_rcnn_b_spnasnet_100",
    "mobile_parsing_rcnn_b_wc2m",
    "parsing_rcnn_R_50_FPN_s1x",
]
STAGED = [
    "densepose_rcnn_R_50_FPN_DL_s1x",
    "densepose_rcnn_R_50_FPN_s1x",
    "densepose_rcnn_R_50_FPN_soft_s1x",
    "mobile_parsing_rcnn_b_cse",
    "mobile_parsing_rcnn_b_efficientnet_lite0",
    "mobile_parsing_rcnn_b_spnasnet_100",
    "parsing_rcnn_R_50_FPN_s1x",
]
#: Stages of a file are all its entries but picture, boxes, and what is searched for in the maps.
INPUTS = 2
GENERATION_1 = ["gen1_mobile_rcnn_a", "gen1_mobile_rcnn_b", "gen1_parsing_rcnn_R_50_FPN_s1x"]


def stage_count(stages: Mapping[str, np.ndarray]) -> int:
    return len(stages) - INPUTS - 2 * len(searched(stages))


def test_lists_are_complete(shared: Path) -> None:
    assert sorted(p.stem for p in (shared / "oracle/keys").glob("*.json")) == ARCHITECTURES
    assert sorted(p.stem for p in (shared / "oracle/stages").glob("*.npz")) == STAGED
    assert sorted(p.stem for p in (shared / "oracle/gen1/keys").glob("*.yaml")) == GENERATION_1


@pytest.mark.parametrize("name", GENERATION_1)
def test_first_generation(shared: Path, name: str) -> None:
    model = model_with_weights(shared / f"oracle/gen1/keys/{name}.yaml")
    expected = json.loads((shared / f"oracle/gen1/keys/{name}.json").read_text())
    assert {n: list(v.shape) for n, v in model.state_dict().items()} == expected
    with np.load(shared / f"oracle/gen1/stages/{name}.npz") as file:
        stages = dict(file)
    errors = relative_errors(stage_outputs(model, stages["image"], stages["boxes"]), stages)
    assert len(errors) == len(stages) - 2
    assert max(errors.values()) < TOLERANCE, errors


def normalized_noise(model: DensePoseRCNN) -> torch.Tensor:
    noise = np.random.default_rng(7).uniform(0, 255, (1, 3, 128, 160)).astype(np.float32)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (model.config.input.pixel_mean, model.config.input.pixel_std))
    return (torch.from_numpy(noise) - mean) / std


def check_backbone(model: DensePoseRCNN, folder: Path, name: str, extra: tuple[str, ...] = ()) -> None:
    expected = json.loads((folder / f"{name}.json").read_text())
    assert {f"backbone.{n}": list(v.shape) for n, v in model.backbone.state_dict().items()} == expected
    image = normalized_noise(model)
    outputs = dict(model.backbone(image))
    outputs |= dict(zip(extra, model.backbone.bottom_up(image), strict=False))
    with np.load(folder / f"{name}.npz") as file:
        errors = relative_errors({n: outputs[n].numpy() for n in file}, dict(file))
    assert len(errors) == 2 + len(extra)
    assert max(errors.values()) < TOLERANCE, errors


def test_backbones(shared: Path) -> None:
    folder = shared / "oracle/backbones"
    names = sorted(p.stem for p in folder.glob("*.json"))
    assert len(names) == 9
    for name in names:
        overrides = ["MODEL.TIMMNETS.NAME", name, "MODEL.TIMMNETS.PRETRAINED", "False"]
        config = load_config(shared / "oracle/keys/mobile_parsing_rcnn_b_spnasnet_100.yaml", overrides)
        check_backbone(with_weights(config), folder, name)


def test_first_generations_backbones(shared: Path) -> None:
    folder = shared / "oracle/gen1/backbones"
    names = sorted(p.stem for p in folder.glob("*.json"))
    assert len(names) == 5
    for name in names:
        config = load_config(shared / "oracle/gen1/keys/gen1_mobile_rcnn_a.yaml", ["MODEL.EFFICIENTNETS.NAME", name])
        check_backbone(with_weights(config), folder, name, ("s1", "s2", "s3", "s5"))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_and_shapes(shared: Path, name: str) -> None:
    with torch.device("meta"):
        model = DensePoseRCNN(load_config(shared / f"oracle/keys/{name}.yaml"))
    expected = json.loads((shared / f"oracle/keys/{name}.json").read_text())
    assert {n: list(v.shape) for n, v in model.state_dict().items()} == expected


@pytest.mark.parametrize("name", STAGED)
def test_every_stage(shared: Path, name: str) -> None:
    model = model_with_weights(shared / f"oracle/keys/{name}.yaml")
    with np.load(shared / f"oracle/stages/{name}.npz") as file:
        stages = dict(file)
    outputs = stage_outputs(model, stages["image"], stages["boxes"])
    errors = relative_errors(outputs, stages)
    print(name, {stage: f"{error:.1e}" for stage, error in errors.items()})
    assert len(errors) == stage_count(stages)
    assert max(errors.values()) < TOLERANCE, errors
    if searched(stages):
        pooled = torch.from_numpy(outputs["densepose_pooled"])
        check_vertices(model, {one: maps.numpy() for one, maps in model.densepose(pooled).items()}, stages)


def check_vertices(model: DensePoseRCNN, maps: Mapping[str, np.ndarray], stages: Mapping[str, np.ndarray]) -> None:
    assert model.roi_heads.embedder is not None
    vertices = {mesh: model.vertex_embeddings(mesh).numpy() for mesh in model.roi_heads.embedder.meshes}
    for name, other_vertex, other_mask in vertex_differences(maps, vertices, stages):
        print(f"{name}: {other_vertex:.2%} other vertices and {other_mask:.2%} of the mask, all of them ties")
        assert other_vertex < 1e-3 and other_mask < 1e-3


def test_demo_cse_checkpoint_loads_strictly(shared: Path) -> None:
    folder = shared / "oracle/demo_cse"
    model = DensePoseRCNN(load_config(folder / "demo_cse.yaml"))
    weights = load_checkpoint(folder / "demo_cse.pth")
    load_weights(model, weights)
    given = torch.as_tensor(weights["roi_heads.embedder.embedder_anny_5001.embeddings"])
    found = model.vertex_embeddings("anny_5001")
    assert found.shape == (5001, 16)
    torch.testing.assert_close(found, given, rtol=0, atol=1e-6)  # they have length 1 as they are


def test_demo_checkpoint_loads_strictly(shared: Path) -> None:
    model = DensePoseRCNN(load_config(shared / "oracle/demo/demo.yaml"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_weights(model, load_checkpoint(shared / "oracle/demo/demo.pth"))
    weights = load_checkpoint(shared / "oracle/demo/demo.pth")
    loaded = {n: v for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert all(torch.equal(value, torch.as_tensor(weights[name])) for name, value in loaded.items())
    assert sum(not torch.equal(value, before[name]) for name, value in loaded.items()) > 300
