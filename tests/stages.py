"""Every stage of a model on the stage files' picture and boxes, to compare with what the real detectron2 gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch_roi_align import multilevel_roi_align
from weights import state_dict

from densepose_engine.export.config.model_config import ModelConfig, PoolerConfig, load_config
from densepose_engine.export.model import DensePoseRCNN

#: How the names begin of what is searched for in maps at box size.
SEARCHED = ("closest.", "mask.")
#: Largest error of any stage, relative to the stage's largest absolute value.
TOLERANCE = 1e-4


def model_with_weights(yaml: Path) -> DensePoseRCNN:
    """The model of a configuration with the deterministic weights, loaded strictly."""
    return with_weights(load_config(yaml))


def with_weights(config: ModelConfig) -> DensePoseRCNN:
    model = DensePoseRCNN(config)
    model.load_state_dict(state_dict(model), strict=True)
    return model


def stage_outputs(model: DensePoseRCNN, image: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
    """All stages in full: ``image`` uint8 ``(3, H, W)`` in the model's channel order, H and W multiples of 32.

    The boxes stand in for proposals and for detections; the DensePose maps are those of the first box.
    """
    config = model.config
    mean = torch.tensor(config.input.pixel_mean).view(-1, 1, 1)
    std = torch.tensor(config.input.pixel_std).view(-1, 1, 1)
    regions = torch.from_numpy(boxes)

    def pool(features: list[torch.Tensor], pooler: PoolerConfig) -> torch.Tensor:
        return multilevel_roi_align(
            features, regions, pooler.strides, pooler.resolution, pooler.sampling_ratio, pooler.aligned
        )

    levels = model.pyramid(((torch.from_numpy(image).float() - mean) / std)[None])
    outputs = dict(levels)
    for index, (objectness, deltas) in enumerate(model.rpn(levels)):
        outputs[f"objectness_{index}"], outputs[f"deltas_{index}"] = objectness, deltas
    outputs["box_pooled"] = pool(model.box_features(levels), config.box.pooler)
    outputs["class_logits"], outputs["box_deltas"] = model.box(outputs["box_pooled"])
    outputs["densepose_pooled"] = pool(model.densepose_features(levels), config.densepose.pooler)
    outputs.update(model.densepose(outputs["densepose_pooled"][:1]))
    for mesh in model.roi_heads.embedder.meshes if model.roi_heads.embedder is not None else ():
        outputs[f"vertex_embeddings.{mesh}"] = model.vertex_embeddings(mesh)
    return {name: value.numpy() for name, value in outputs.items()}


def as_stored(output: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The part of a full output that a stage file keeps: every n-th channel, and every n-th row of the finest level."""
    steps = [-(-full // kept) for full, kept in zip(output.shape, shape, strict=True)]
    part = output[tuple(slice(None, None, step) for step in steps)]
    assert part.shape == tuple(shape), f"{output.shape} cannot be thinned to {tuple(shape)}"
    return part


def thinning(size: int) -> int:
    """Keep every n-th value of a flattened stage in the committed files: about 3000 of them.

    n has no factor in common with any width (their factors are 2, 3, 5, 7), so all rows, columns and channels occur.
    """
    step = max(1, -(-size // 3000))
    while step > 1 and any(step % factor == 0 for factor in (2, 3, 5, 7)):
        step += 1
    return step


def relative_errors(outputs: Mapping[str, np.ndarray], stages: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest error per stage, relative to the stage's largest value, for a full or a committed stage file.

    What follows the stages (``vertex_stages``) is no part of them.
    """
    errors = {}
    for name in stages:
        if name in ("image", "boxes") or name.endswith((".shape", ".largest")) or name.startswith(SEARCHED):
            continue
        if f"{name}.shape" in stages:
            part = as_stored(outputs[name], tuple(stages[f"{name}.shape"])).ravel()
            part, largest = part[:: thinning(part.size)], float(stages[f"{name}.largest"])
        else:
            part, largest = as_stored(outputs[name], stages[name].shape), float(np.abs(stages[name]).max())
        assert part.shape == stages[name].shape
        errors[name] = float(np.abs(part - stages[name]).max()) / largest
    return errors
