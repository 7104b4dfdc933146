"""Configurations of continuous surface embeddings: what they say, and what of it is refused, by key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from densepose_engine.errors import ConfigError
from densepose_engine.export.config.model_config import (
    EmbedderConfig,
    EmbeddingPredictorConfig,
    config_from_mapping,
    load_config,
)
from densepose_engine.export.graph.join import describe_architecture

KEYS = Path(__file__).parent / "data/keys"
MOBILE, SOFT = KEYS / "mobile_parsing_rcnn_b_cse.yaml", KEYS / "densepose_rcnn_R_50_FPN_soft_s1x.yaml"
ANIMALS = KEYS / "densepose_rcnn_R_50_FPN_soft_animals_I0_finetune_16k.yaml"
HEAD, CLASSES = "MODEL.ROI_DENSEPOSE_HEAD.", "MODEL.ROI_HEADS.NUM_CLASSES"
EMBEDDERS, MESHES = HEAD + "CSE.EMBEDDERS", "DATASETS.CLASS_TO_MESH_NAME_MAPPING"


def tree_of(path: Path, **changes: Any) -> dict[str, Any]:
    """A configuration with values in the places of ``changes``; their keys have ``__`` for dots."""
    tree: dict[str, Any] = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        *sections, leaf = key.split("__")
        node = tree
        for section in sections:
            node = node[section]
        node[leaf] = value
    return tree


def predictor_of(tree: dict[str, Any]) -> EmbeddingPredictorConfig:
    predictor = config_from_mapping(tree).densepose.predictor
    assert isinstance(predictor, EmbeddingPredictorConfig)
    return predictor


def test_people() -> None:
    for path, scale, name in (
        (MOBILE, 2, "spnasnet_100-bifpn64-deeplab-cse"),
        (SOFT, 4, "resnet50-fpn256-v1convx-cse"),
    ):
        config = load_config(path)
        predictor = predictor_of(tree_of(path))
        embedder = EmbedderConfig("smpl_27554", "vertex_feature", 27554, 256)
        assert predictor.embedders == (embedder,)
        assert (predictor.class_meshes, predictor.coarse_channels, predictor.embedding_size) == ((0,), 2, 16)
        assert (predictor.map_scale, predictor.segm_confidence) == (scale, False)
        assert (config.box.num_classes, config.box.deltas) == (1, 4)
        assert isinstance(hash(config), int)
        assert describe_architecture(config) == name


def test_nine_classes() -> None:
    config, predictor = load_config(ANIMALS), predictor_of(tree_of(ANIMALS))
    assert (config.box.num_classes, config.box.deltas, config.box.class_agnostic) == (9, 36, False)
    assert [one.mesh for one in predictor.embedders] == [
        *("bear_4936", "cow_5002", "cat_7466", "dog_7466", "elephant_5002"),
        *("giraffe_5002", "horse_5004", "sheep_5004", "zebra_5002"),
    ]
    assert predictor.class_meshes == tuple(range(9))
    agnostic = load_config(ANIMALS, ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"])
    assert (agnostic.box.num_classes, agnostic.box.deltas) == (9, 4)


def test_a_class_agnostic_model_has_all_its_meshes() -> None:
    """The mesh of its one class, then the others by name, although its base file maps more classes than there are."""
    tree = tree_of(ANIMALS, MODEL__ROI_HEADS__NUM_CLASSES=1)
    tree["DATASETS"]["CLASS_TO_MESH_NAME_MAPPING"] |= {"0": "sheep_5004", "3": "no such mesh"}
    predictor = predictor_of(tree)
    assert predictor.class_meshes == (0,)
    names = [one.mesh for one in predictor.embedders]
    assert names[0] == "sheep_5004" and names[1:] == sorted(names[1:]) and len(names) == 9


def test_classes_may_share_a_mesh_and_be_numbers() -> None:
    tree = tree_of(ANIMALS, MODEL__ROI_HEADS__NUM_CLASSES=3)
    tree["DATASETS"]["CLASS_TO_MESH_NAME_MAPPING"] = {1: "cow_5002", "2": "bear_4936", 0: "bear_4936"}
    predictor = predictor_of(tree)
    assert predictor.class_meshes == (0, 1, 0)
    assert [one.mesh for one in predictor.embedders[:3]] == ["bear_4936", "cow_5002", "cat_7466"]


@pytest.mark.parametrize("enabled", [False, True])
def test_confidence(enabled: bool) -> None:
    tree = tree_of(MOBILE, MODEL__ROI_DENSEPOSE_HEAD__PREDICTOR_NAME="DensePoseEmbeddingWithConfidencePredictor")
    tree["MODEL"]["ROI_DENSEPOSE_HEAD"]["SEGM_CONFIDENCE"] = {"ENABLED": enabled, "EPSILON": 0.5}
    predictor = predictor_of(tree)
    assert (predictor.segm_confidence, predictor.segm_confidence_epsilon) == (enabled, 0.5)


@pytest.mark.parametrize(
    ("predictor", "section"),
    [
        ("DensePoseEmbeddingPredictor", "SEGM_CONFIDENCE"),
        ("DensePoseEmbeddingPredictor", "UV_CONFIDENCE"),
        ("DensePoseEmbeddingWithConfidencePredictor", "UV_CONFIDENCE"),
    ],
)
def test_confidences_that_a_predictor_has_not_are_warned_about(predictor: str, section: str) -> None:
    tree = tree_of(MOBILE, MODEL__ROI_DENSEPOSE_HEAD__PREDICTOR_NAME=predictor)
    tree["MODEL"]["ROI_DENSEPOSE_HEAD"][section]["ENABLED"] = True
    with pytest.warns(UserWarning, match=f"{section}.ENABLED is ignored"):
        assert not predictor_of(tree).segm_confidence


def test_what_only_training_reads_is_left_alone(recwarn: pytest.WarningsRecorder) -> None:
    tree = tree_of(MOBILE)
    head = tree["MODEL"]["ROI_DENSEPOSE_HEAD"]
    head["LOSS_NAME"] = "NoSuchLoss"
    head["CSE"] |= {"EMBED_LOSS_NAME": "NoSuchLoss", "EMBED_LOSS_WEIGHT": -3}
    head["CSE"]["EMBEDDERS"]["smpl_27554"] |= {"INIT_FILE": "https://nowhere/phi.pkl", "IS_TRAINABLE": "perhaps"}
    assert config_from_mapping(tree) == load_config(MOBILE)
    assert not recwarn.list


def test_an_override_changes_no_mapping_of_the_callers() -> None:
    tree = tree_of(MOBILE)
    before = copy.deepcopy(tree)
    config = config_from_mapping(tree, [EMBEDDERS + ".smpl_27554.NUM_VERTICES", "7"])
    assert isinstance(config.densepose.predictor, EmbeddingPredictorConfig)
    assert config.densepose.predictor.embedders[0].num_vertices == 7
    assert tree == before


EMBEDDER = {"TYPE": "vertex_feature", "NUM_VERTICES": 27554, "FEATURE_DIM": 256}
REFUSED: list[tuple[str, Any, str, str]] = [
    (EMBEDDERS, {}, EMBEDDERS, "meshes"),
    (EMBEDDERS, {"smpl_27554": 5}, EMBEDDERS + ".smpl_27554", "section"),
    (EMBEDDERS, {"smpl.v1": EMBEDDER}, EMBEDDERS, "without a dot"),
    (EMBEDDERS, {5: EMBEDDER}, EMBEDDERS, "without a dot"),
    (EMBEDDERS, {"": EMBEDDER}, EMBEDDERS, "1 to 100"),
    (EMBEDDERS, {"x" * 101: EMBEDDER}, EMBEDDERS, "1 to 100"),
    (EMBEDDERS + ".smpl_27554", {**EMBEDDER, "NORM": "GN"}, EMBEDDERS + ".smpl_27554.NORM", "no key of an embedder"),
    (EMBEDDERS + ".smpl_27554", {"TYPE": "vertex_direct"}, EMBEDDERS + ".smpl_27554.NUM_VERTICES", "missing"),
    (
        *(EMBEDDERS + ".smpl_27554", {"TYPE": "vertex_feature", "NUM_VERTICES": 5}),
        *(EMBEDDERS + ".smpl_27554.FEATURE_DIM", "missing"),
    ),
    (EMBEDDERS + ".smpl_27554", {"NUM_VERTICES": 5}, EMBEDDERS + ".smpl_27554.TYPE", "missing"),
    (EMBEDDERS + ".smpl_27554.TYPE", "vertex_graph", EMBEDDERS + ".smpl_27554.TYPE", "'vertex_direct'"),
    (EMBEDDERS + ".smpl_27554.NUM_VERTICES", 0, EMBEDDERS + ".smpl_27554.NUM_VERTICES", "whole number from 1"),
    (EMBEDDERS + ".smpl_27554.NUM_VERTICES", 10**9, EMBEDDERS + ".smpl_27554.NUM_VERTICES", "1048576"),
    (EMBEDDERS + ".smpl_27554.NUM_VERTICES", "many", EMBEDDERS + ".smpl_27554.NUM_VERTICES", "whole number"),
    (EMBEDDERS + ".smpl_27554.FEATURE_DIM", 256.0, EMBEDDERS + ".smpl_27554.FEATURE_DIM", "whole number"),
    (HEAD + "CSE.EMBED_SIZE", 0, HEAD + "CSE.EMBED_SIZE", "1 to 256"),
    (HEAD + "NUM_COARSE_SEGM_CHANNELS", 1, HEAD + "NUM_COARSE_SEGM_CHANNELS", "2 to 256"),
    (HEAD + "DECONV_KERNEL", 6, HEAD + "DECONV_KERNEL", "4"),
    (HEAD + "SEGM_CONFIDENCE.EPSILON", -1.0, HEAD + "SEGM_CONFIDENCE.EPSILON", "number"),
    (MESHES, {}, MESHES, "names no mesh for class 0"),
    (MESHES, {"1": "smpl_27554"}, MESHES, "names no mesh for class 0"),
    (MESHES, {"0": "cat_7466"}, MESHES + ".0", "smpl_27554"),
    (MESHES, {"0": 3}, MESHES + ".0", "smpl_27554"),
    (MESHES, {"person": "smpl_27554"}, MESHES, "numbers from 0"),
    (MESHES, {-1: "smpl_27554"}, MESHES, "numbers from 0"),
    (MESHES, {True: "smpl_27554"}, MESHES, "numbers from 0"),
    (CLASSES, 2, MESHES, "names no mesh for class 1"),
    (CLASSES, 0, CLASSES, "1 to 1024"),
    (CLASSES, 2000, CLASSES, "1 to 1024"),
    (HEAD + "PREDICTOR_NAME", "DensePoseChartPredictor", EMBEDDERS, "DensePoseEmbeddingPredictor"),
    ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "softmax"),
]


@pytest.mark.parametrize(("key", "value", "refused", "words"), REFUSED)
def test_what_is_refused_is_named(key: str, value: Any, refused: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(tree_of(MOBILE, **{key.replace(".", "__"): value}))
    assert caught.value.key == refused
    assert refused in str(caught.value)
    assert words in str(caught.value)


def test_a_class_with_two_meshes() -> None:
    tree = tree_of(ANIMALS)
    tree["DATASETS"]["CLASS_TO_MESH_NAME_MAPPING"][3] = "cat_7466"
    with pytest.raises(ConfigError, match=r"MAPPING.3 is given twice"):
        config_from_mapping(tree)


def test_more_candidates_than_the_op_takes() -> None:
    tree = tree_of(ANIMALS, MODEL__ROI_HEADS__NUM_CLASSES=1000, MODEL__RPN__POST_NMS_TOPK_TEST=50_000)
    tree["DATASETS"]["CLASS_TO_MESH_NAME_MAPPING"] = {str(number): "cow_5002" for number in range(1000)}
    with pytest.raises(ConfigError, match="at most 335 classes with 50000 proposals"):
        config_from_mapping(tree)


def test_charts_have_one_class() -> None:
    tree = tree_of(KEYS / "mobile_parsing_rcnn_b_wc2m.yaml", MODEL__ROI_HEADS__NUM_CLASSES=2)
    with pytest.raises(ConfigError, match="NUM_CLASSES is 2; supported: 1"):
        config_from_mapping(tree)


def test_the_first_generation_has_none() -> None:
    tree = tree_of(KEYS / "gen1_mobile_rcnn_b.yaml")
    tree["MODEL"]["ROI_DENSEPOSE_HEAD"]["PREDICTOR_NAME"] = "DensePoseEmbeddingPredictor"
    with pytest.raises(ConfigError, match="PREDICTOR_NAME"):
        config_from_mapping(tree)
