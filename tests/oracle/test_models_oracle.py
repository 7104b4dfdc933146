"""The torch models against all that the oracle says: names, shapes, and every stage in full."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stages import TOLERANCE, model_with_weights, relative_errors, stage_outputs

from densepose_engine.export.checkpoint import load_checkpoint, load_weights
from densepose_engine.export.config import load_config
from densepose_engine.export.model import DensePoseRCNN

ARCHITECTURES = [
    "densepose_rcnn_R_101_FPN_DL_s1x",
    "densepose_rcnn_R_101_FPN_s1x",
    "densepose_rcnn_R_50_FPN_DL_s1x",
    "densepose_rcnn_R_50_FPN_WC2M_s1x",
    "densepose_rcnn_R_50_FPN_s1x",
    "densepose_rcnn_R_50_FPN_s1x_legacy",
    "mobile_parsing_rcnn_b_efficientnet_lite0",
    "mobile_parsing_rcnn_b_spnasnet_100",
    "mobile_parsing_rcnn_b_wc2m",
    "parsing_rcnn_R_50_FPN_s1x",
]
STAGED = [
    "densepose_rcnn_R_50_FPN_DL_s1x",
    "densepose_rcnn_R_50_FPN_s1x",
    "mobile_parsing_rcnn_b_efficientnet_lite0",
    "mobile_parsing_rcnn_b_spnasnet_100",
    "parsing_rcnn_R_50_FPN_s1x",
]


def test_lists_are_complete(shared: Path) -> None:
    assert sorted(p.stem for p in (shared / "oracle/keys").glob("*.json")) == ARCHITECTURES
    assert sorted(p.stem for p in (shared / "oracle/stages").glob("*.npz")) == STAGED


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
    errors = relative_errors(stage_outputs(model, stages["image"], stages["boxes"]), stages)
    print(name, {stage: f"{error:.1e}" for stage, error in errors.items()})
    assert len(errors) == len(stages) - 2
    assert max(errors.values()) < TOLERANCE, errors


def test_demo_checkpoint_loads_strictly(shared: Path) -> None:
    model = DensePoseRCNN(load_config(shared / "oracle/demo/demo.yaml"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_weights(model, load_checkpoint(shared / "oracle/demo/demo.pth"))
    weights = load_checkpoint(shared / "oracle/demo/demo.pth")
    loaded = {n: v for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert all(torch.equal(value, torch.as_tensor(weights[name])) for name, value in loaded.items())
    assert sum(not torch.equal(value, before[name]) for name, value in loaded.items()) > 300
