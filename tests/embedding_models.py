"""Small models of several classes with vertices, of deterministic weights: their files, as a user has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from weights import state_dict

from densepose_engine.export.config.model_config import config_from_mapping
from densepose_engine.export.model import DensePoseRCNN

KEYS = Path(__file__).parent / "data/keys"
ANIMALS = ("bear", "cow", "cat", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
#: Of the classes, in their order; "cat" and "dog" share one.
CLASS_MESHES = [0, 1, 2, 2, 3, 4, 5, 6, 7]


class ModelFiles(NamedTuple):
    """A configuration and its checkpoint."""

    config: Path
    weights: Path

    def export_arguments(self) -> list[str]:
        return ["export", "--config", str(self.config), "--weights", str(self.weights)]


def nine_classes() -> dict[str, Any]:
    """A complete configuration: nine classes, eight meshes of theirs and one more, on the smallest backbone."""
    tree: dict[str, Any] = yaml.safe_load((KEYS / "mobile_parsing_rcnn_b_cse.yaml").read_text())
    tree["MODEL"]["TIMMNETS"]["NAME"] = "tf_mobilenetv3_small_minimal_100"
    tree["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] = 9
    tree["MODEL"]["RPN"]["POST_NMS_TOPK_TEST"] = 100
    tree["MODEL"]["ROI_HEADS"]["SCORE_THRESH_TEST"] = 0.0
    tree["TEST"]["DETECTIONS_PER_IMAGE"] = 40
    tree["DATASETS"]["CLASS_TO_MESH_NAME_MAPPING"] = {str(number): mesh_of(name) for number, name in enumerate(ANIMALS)}
    meshes = dict.fromkeys([*map(mesh_of, ANIMALS), "person"])
    tree["MODEL"]["ROI_DENSEPOSE_HEAD"]["CSE"]["EMBEDDERS"] = {
        mesh: {"TYPE": "vertex_feature", "NUM_VERTICES": 50 + number, "FEATURE_DIM": 24}
        if number % 2
        else {"TYPE": "vertex_direct", "NUM_VERTICES": 50 + number}
        for number, mesh in enumerate(sorted(meshes))
    }
    return tree


def mesh_of(animal: str) -> str:
    """The name of its mesh."""
    return "pet_1" if animal in ("cat", "dog") else f"{animal}_1"


def write_model(folder: Path, tree: dict[str, Any]) -> ModelFiles:
    """The files of a configuration with deterministic weights."""
    model = DensePoseRCNN(config_from_mapping(tree))
    files = ModelFiles(folder / "model.yaml", folder / "model.pth")
    files.config.write_text(yaml.safe_dump(tree))
    torch.save({"model": state_dict(model)}, files.weights)
    return files
