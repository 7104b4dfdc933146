"""Checks of the keys that say what the DensePose head's maps are: charts, or continuous surface embeddings (CSE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from ...errors import ConfigError
from ...files.fields import shown
from .detectron2_yaml import Values
from .model_config import MAX_CHANNELS, EmbedderConfig, EmbeddingPredictorConfig, PredictorConfig

CHART, CONFIDENT_CHART = "DensePoseChartPredictor", "DensePoseChartWithConfidencePredictor"
EMBEDDING, CONFIDENT_EMBEDDING = "DensePoseEmbeddingPredictor", "DensePoseEmbeddingWithConfidencePredictor"
_HEAD = "MODEL.ROI_DENSEPOSE_HEAD."
_NAME = _HEAD + "PREDICTOR_NAME"
_EMBEDDERS = _HEAD + "CSE.EMBEDDERS"
_CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES"
_MESHES = "DATASETS.CLASS_TO_MESH_NAME_MAPPING"
#: What an embedder may say of itself; all but the first three matter only where it is trained.
_EMBEDDER_KEYS = ("TYPE", "NUM_VERTICES", "FEATURE_DIM", "INIT_FILE", "IS_TRAINABLE", "FEATURES_TRAINABLE")
# Bounds that no real model meets: they keep a mistyped number from asking for terabytes.
_MAX_CLASSES, _MAX_MESHES, _MAX_VERTICES, _MAX_MESH_NAME = 1024, 256, 1 << 20, 100


def predictor(values: Values, first_generation: bool) -> PredictorConfig | EmbeddingPredictorConfig:
    """What ``PREDICTOR_NAME`` asks for."""
    if first_generation:
        values.text(_NAME, [CHART])
        values.integer(_HEAD + "NUM_COARSE_SEGM_CHANNELS", 15, 15)
    name = values.text(_NAME, [CHART, CONFIDENT_CHART, EMBEDDING, CONFIDENT_EMBEDDING])
    return _embeddings(values, name) if name in (EMBEDDING, CONFIDENT_EMBEDDING) else _charts(values, name)


def remarks_on_predictor(values: Values) -> list[str]:
    """Sentences about confidences that are asked for and that the predictor does not have, in detectron2 neither."""
    without = {
        CHART: ("UV_CONFIDENCE", "SEGM_CONFIDENCE"),
        EMBEDDING: ("UV_CONFIDENCE", "SEGM_CONFIDENCE"),
        CONFIDENT_EMBEDDING: ("UV_CONFIDENCE",),
    }
    name = values.raw(_NAME)
    return [
        f"{_HEAD}{section}.ENABLED is ignored, as in detectron2: the predictor has no confidences"
        + (" of that kind" if name == CONFIDENT_EMBEDDING else "")
        for section in without.get(name if isinstance(name, str) else "", ())
        if values.raw(f"{_HEAD}{section}.ENABLED")
    ]


def num_classes(values: Values) -> int:
    """``NUM_CLASSES``: one, but for embeddings, where each class has a mesh."""
    if values.raw(_NAME) in (EMBEDDING, CONFIDENT_EMBEDDING):
        return values.integer(_CLASSES, 1, _MAX_CLASSES)
    if values.raw(_CLASSES) != 1:
        raise values.refuse(_CLASSES, f"1, with {_NAME} {CHART} or {CONFIDENT_CHART}")
    return values.integer(_CLASSES, 1, 1)


def _charts(values: Values, name: str) -> PredictorConfig:
    confident = name == CONFIDENT_CHART
    if values.raw(_EMBEDDERS):
        raise values.refuse(_EMBEDDERS, f"none with {_NAME} {name}; models with CSE have {EMBEDDING}")
    uv_confidence: Literal["iid_iso", "indep_aniso"] | None = None
    if confident and values.flag(_HEAD + "UV_CONFIDENCE.ENABLED"):
        kind = values.text(_HEAD + "UV_CONFIDENCE.TYPE", ["iid_iso", "indep_aniso"])
        uv_confidence = cast(Literal["iid_iso", "indep_aniso"], kind)
    return PredictorConfig(
        coarse_channels=values.integer(_HEAD + "NUM_COARSE_SEGM_CHANNELS", 2, 256),
        num_parts=values.integer(_HEAD + "NUM_PATCHES", 24, 24),
        deconv_kernel=values.integer(_HEAD + "DECONV_KERNEL", 4, 4),
        up_scale=values.integer(_HEAD + "UP_SCALE", 1, 8),
        uv_confidence=uv_confidence,
        segm_confidence=confident and values.flag(_HEAD + "SEGM_CONFIDENCE.ENABLED"),
        segm_confidence_epsilon=values.number(_HEAD + "SEGM_CONFIDENCE.EPSILON", 0.0, 1e6),
    )


def _embeddings(values: Values, name: str) -> EmbeddingPredictorConfig:
    embedders = {one.mesh: one for one in _embedders(values)}
    of_classes = _meshes_of_classes(values, num_classes(values), embedders)
    order = [*dict.fromkeys(of_classes), *sorted(set(embedders) - set(of_classes))]
    return EmbeddingPredictorConfig(
        coarse_channels=values.integer(_HEAD + "NUM_COARSE_SEGM_CHANNELS", 2, 256),
        embedding_size=values.integer(_HEAD + "CSE.EMBED_SIZE", 1, 256),
        deconv_kernel=values.integer(_HEAD + "DECONV_KERNEL", 4, 4),
        up_scale=values.integer(_HEAD + "UP_SCALE", 1, 8),
        segm_confidence=name == CONFIDENT_EMBEDDING and values.flag(_HEAD + "SEGM_CONFIDENCE.ENABLED"),
        segm_confidence_epsilon=values.number(_HEAD + "SEGM_CONFIDENCE.EPSILON", 0.0, 1e6),
        embedders=tuple(embedders[mesh] for mesh in order),
        class_meshes=tuple(order.index(mesh) for mesh in of_classes),
    )


def _embedders(values: Values) -> list[EmbedderConfig]:
    found = values.raw(_EMBEDDERS)
    if not 1 <= len(found) <= _MAX_MESHES:
        raise values.refuse(_EMBEDDERS, f"1 to {_MAX_MESHES} meshes, each with TYPE and NUM_VERTICES")
    return [_embedder(values, mesh, entry) for mesh, entry in found.items()]


def _embedder(values: Values, mesh: object, entry: object) -> EmbedderConfig:
    # It becomes a part of parameters' names, which a dot would cut.
    if not isinstance(mesh, str) or not 0 < len(mesh) <= _MAX_MESH_NAME or "." in mesh or not mesh.isprintable():
        rule = f"names of 1 to {_MAX_MESH_NAME} characters without a dot"
        raise ConfigError(f"{_EMBEDDERS} has a mesh {shown(mesh)}; supported: {rule}", _EMBEDDERS)
    key = f"{_EMBEDDERS}.{mesh}"
    if not isinstance(entry, Mapping):
        raise values.refuse(key, "a section with TYPE and NUM_VERTICES")
    for name in entry:
        if name not in _EMBEDDER_KEYS:
            unknown = f"{key}.{name if isinstance(name, str) else shown(name)}"
            raise ConfigError(f"{unknown[:300]} is no key of an embedder: {', '.join(_EMBEDDER_KEYS)}", unknown[:300])

    def given(name: str) -> str:
        if name not in entry:
            raise ConfigError(f"{key}.{name} is missing; detectron2 has no default for it", f"{key}.{name}")
        return f"{key}.{name}"

    kind = values.text(given("TYPE"), ["vertex_direct", "vertex_feature"])
    feature = values.integer(given("FEATURE_DIM"), 1, MAX_CHANNELS) if kind == "vertex_feature" else None
    vertices = values.integer(given("NUM_VERTICES"), 1, _MAX_VERTICES)
    return EmbedderConfig(mesh, cast(Literal["vertex_direct", "vertex_feature"], kind), vertices, feature)


def _meshes_of_classes(values: Values, classes: int, embedders: Mapping[str, Any]) -> list[str]:
    """The mesh of each class. Entries for classes that the model does not have are left alone, as in detectron2."""
    meshes: dict[int, str] = {}
    for given, mesh in values.raw(_MESHES).items():
        text = str(given) if isinstance(given, int) and not isinstance(given, bool) else given
        if not isinstance(text, str) or not text.isascii() or not text.isdecimal() or len(text) > 9:
            raise ConfigError(f"{_MESHES} has a class {shown(given)}; supported: numbers from 0", _MESHES)
        number = int(text)
        if number >= classes:
            continue
        key = f"{_MESHES}.{text}"
        if not isinstance(mesh, str) or mesh not in embedders:
            known = ", ".join(list(embedders)[:20])
            raise ConfigError(f"{key} is {shown(mesh)}; supported: the meshes of {_EMBEDDERS}, {known}", key)
        if meshes.setdefault(number, mesh) != mesh:
            raise ConfigError(f"{key} is given twice, as {shown(meshes[number])} and as {shown(mesh)}", key)
    missing = [str(number) for number in range(classes) if number not in meshes]
    if missing:
        raise ConfigError(
            f"{_MESHES} names no mesh for class {', '.join(missing[:10])}{' and others' if missing[10:] else ''}; "
            f"supported: a mesh for each of the {classes} classes of {_CLASSES}",
            _MESHES,
        )
    return [meshes[number] for number in range(classes)]
