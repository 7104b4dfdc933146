"""Which maps, meshes and classes a checkpoint has, told by its names and shapes, where its configuration has others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.model_config import EmbeddingPredictorConfig, ModelConfig

_HEADS = "roi_heads."
_EMBEDDER = _HEADS + "embedder.embedder_"
_KEY = "MODEL.ROI_DENSEPOSE_HEAD."
_MOST_NAMED = 10


def advice_on_maps(config: ModelConfig, weights: Mapping[str, Any]) -> str | None:
    """A sentence for a checkpoint that does not fit ``config``, if its maps or meshes are others; else None.

    ``weights`` maps names to arrays or tensors, of which only shapes are read.
    """
    predictor, found = config.densepose.predictor, _vertices(weights)
    if not isinstance(predictor, EmbeddingPredictorConfig):
        if not found:
            return None
        return (
            "It is of a model with continuous surface embeddings (CSE), and the configuration has charts: give the "
            f"YAML that it was trained with, whose {_KEY}PREDICTOR_NAME is an embedding predictor"
        )
    if not found:
        if any(name.startswith(_HEADS + "densepose_predictor.ann_index_lowres") for name in weights):
            return (
                "It is of a model with charts, and the configuration has continuous surface embeddings "
                f"({_KEY}PREDICTOR_NAME): give the YAML that it was trained with"
            )
        return None
    wanted = {one.mesh: one.num_vertices for one in predictor.embedders}
    if set(wanted) != set(found):
        return f"It has the meshes {_listed(found)}, and {_KEY}CSE.EMBEDDERS {_listed(wanted)}"
    for mesh, vertices in wanted.items():
        if found[mesh] is not None and found[mesh] != vertices:
            key = f"{_KEY}CSE.EMBEDDERS.{mesh}.NUM_VERTICES"
            return f"Its mesh {mesh} has {found[mesh]} vertices, and {key} is {vertices}"
    return None


def advice_on_classes(config: ModelConfig, weights: Mapping[str, Any]) -> str | None:
    """The same for a checkpoint of another number of classes."""
    shape = tuple(getattr(weights.get(_HEADS + "box_predictor.cls_score.weight"), "shape", ()))
    classes = int(shape[0]) - 1 if len(shape) == 2 else None
    if classes is None or classes == config.box.num_classes:
        return None
    noun = "class" if classes == 1 else "classes"
    return f"It has {classes} {noun}, and MODEL.ROI_HEADS.NUM_CLASSES is {config.box.num_classes}"


def _vertices(weights: Mapping[str, Any]) -> dict[str, int | None]:
    """How many vertices each mesh has; None where its embedder is no matrix."""
    found: dict[str, int | None] = {}
    for name in weights:
        if not name.startswith(_EMBEDDER):
            continue
        mesh, _, last = name.removeprefix(_EMBEDDER).rpartition(".")
        # Of features times a matrix, it is the features that have a row for each vertex.
        if last == "features" or (last == "embeddings" and f"{_EMBEDDER}{mesh}.features" not in weights):
            shape = tuple(weights[name].shape)
            found[mesh] = int(shape[0]) if len(shape) == 2 else None
    return found


def _listed(meshes: Mapping[str, Any]) -> str:
    names = sorted(meshes)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(name[:80] for name in names[:_MOST_NAMED]) + more
