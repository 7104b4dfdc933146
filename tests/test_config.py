"""Configurations: detectron2's YAML semantics, typed values, and refusals that name the key."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from densepose_engine.errors import ConfigError
from densepose_engine.export.config.model_config import (
    DeepLabConfig,
    MobileBackboneConfig,
    ResNetConfig,
    config_from_mapping,
    load_config,
)

KEYS = Path(__file__).parent / "data/keys"
RESNET, MOBILE = KEYS / "densepose_rcnn_R_50_FPN_s1x.yaml", KEYS / "mobile_parsing_rcnn_b_efficientnet_lite0.yaml"

# What the published configurations say themselves, in two files as detectron2 has them: the rest are defaults.
BASE_YAML = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  BACKBONE:
    NAME: "build_resnet_fpn_backbone"
  RESNETS:
    OUT_FEATURES: ["res2", "res3", "res4", "res5"]
  FPN:
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
  ANCHOR_GENERATOR:
    SIZES: [[32], [64], [128], [256], [512]]
    ASPECT_RATIOS: [[0.5, 1.0, 2.0]]
  RPN:
    IN_FEATURES: ["p2", "p3", "p4", "p5", "p6"]
    PRE_NMS_TOPK_TEST: 1000
    POST_NMS_TOPK_TEST: 1000
  DENSEPOSE_ON: True
  ROI_HEADS:
    NAME: "DensePoseROIHeads"
    IN_FEATURES: ["p2", "p3", "p4", "p5"]
    NUM_CLASSES: 1
  ROI_BOX_HEAD:
    NAME: "FastRCNNConvFCHead"
    NUM_FC: 2
    POOLER_RESOLUTION: 7
    POOLER_SAMPLING_RATIO: 2
    POOLER_TYPE: "ROIAlign"
  ROI_DENSEPOSE_HEAD:
    NAME: "DensePoseV1ConvXHead"
    POOLER_TYPE: "ROIAlign"
    NUM_COARSE_SEGM_CHANNELS: 2
INPUT:
  MIN_SIZE_TRAIN: (640, 672, 704, 736, 768, 800)
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def tree_of(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_partial_yaml_over_a_base_is_the_complete_configuration(tmp_path: Path) -> None:
    write(tmp_path, "Base.yaml", BASE_YAML)
    path = write(tmp_path, "cfg/s1x.yaml", "_BASE_: ../Base.yaml\nMODEL:\n  RESNETS:\n    DEPTH: 50\n")
    assert load_config(path) == load_config(RESNET)


def test_values_of_the_resnet_baseline() -> None:
    config = load_config(RESNET)
    assert config.backbone == ResNetConfig(50, "FrozenBN", 1, 64, True, 64, 256)
    assert (config.neck.kind, config.neck.out_channels, config.neck.norm) == ("fpn", 256, "")
    assert config.input.format == "BGR"
    assert config.input.pixel_mean == (103.53, 116.28, 123.675)
    assert (config.input.min_size_test, config.input.max_size_test) == (800, 1333)
    assert config.rpn.anchors.sizes == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    assert config.rpn.anchors.strides == (4, 8, 16, 32, 64)
    assert config.rpn.anchors.per_location == 3
    assert (config.rpn.pre_nms_topk, config.rpn.max_proposals, config.rpn.nms_threshold) == (1000, 1000, 0.7)
    assert config.box.bbox_reg_weights == (10.0, 10.0, 5.0, 5.0)
    assert (config.box.score_threshold, config.box.nms_threshold, config.box.max_detections) == (0.05, 0.5, 100)
    pooler = config.densepose.pooler
    assert (pooler.resolution, pooler.sampling_ratio, pooler.aligned, pooler.strides) == (28, 2, False, (4,))
    assert config.densepose.decoder is not None
    assert not config.densepose.decoder.simple
    assert config.densepose.deeplab is None
    assert config.densepose.predictor.map_scale == 4


def test_values_of_the_mobile_model() -> None:
    config = load_config(MOBILE)
    assert config.backbone == MobileBackboneConfig("efficientnet_lite0")
    assert (config.neck.kind, config.neck.out_channels) == ("bifpn", 64)
    assert config.input.format == "RGB"
    assert (config.box.num_conv, config.box.num_fc) == (2, 0)
    assert config.box.pooler.aligned
    assert config.box.pooler.sampling_ratio == 0
    assert config.densepose.decoder is not None
    assert config.densepose.decoder.simple
    assert config.densepose.deeplab == DeepLabConfig("", "", (6, 12, 18), False)
    assert config.densepose.predictor.coarse_channels == 15


def test_confidences() -> None:
    plain = load_config(MOBILE).densepose.predictor
    assert (plain.uv_confidence, plain.segm_confidence) == (None, False)
    confident = load_config(KEYS / "mobile_parsing_rcnn_b_wc2m.yaml").densepose.predictor
    assert (confident.uv_confidence, confident.segm_confidence) == ("indep_aniso", True)
    assert confident.segm_confidence_epsilon == 0.01
    overrides = ["MODEL.ROI_DENSEPOSE_HEAD.PREDICTOR_NAME", "DensePoseChartPredictor"]
    assert load_config(KEYS / "mobile_parsing_rcnn_b_wc2m.yaml", overrides).densepose.predictor.uv_confidence is None


def test_fnl_keys_count_only_for_its_own_roi_heads() -> None:
    overrides = ["MODEL.ROI_HEADS.NAME", "DensePoseROIHeads", "MODEL.ROI_DENSEPOSE_HEAD.DECODER_NUM_CLASSES", "64"]
    config = load_config(MOBILE, overrides).densepose
    assert config.decoder is not None
    assert not config.decoder.simple
    assert config.deeplab == DeepLabConfig("", "GN", (6, 12, 56), False)


def test_cell_anchors_are_centred_and_keep_the_area() -> None:
    levels = load_config(RESNET).rpn.anchors.cell_anchors()
    assert len(levels) == 5
    for size, anchors in zip((32, 64, 128, 256, 512), levels, strict=True):
        for ratio, (x0, y0, x1, y1) in zip((0.5, 1.0, 2.0), anchors, strict=True):
            assert (x0, y0) == (-x1, -y1)
            assert (x1 - x0) * (y1 - y0) == pytest.approx(size**2)
            assert (y1 - y0) / (x1 - x0) == pytest.approx(ratio)


def test_one_list_of_anchors_serves_all_levels(tmp_path: Path) -> None:
    overrides = ["MODEL.ANCHOR_GENERATOR.SIZES", "[32, 64]", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1.0]]"]
    anchors = load_config(RESNET, overrides).rpn.anchors
    assert anchors.sizes == ((32.0, 64.0),) * 5
    assert anchors.per_location == 2


def test_later_files_win_and_a_list_of_bases_is_read_in_order(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", BASE_YAML)
    write(tmp_path, "b.yaml", "TEST:\n  DETECTIONS_PER_IMAGE: 7\nINPUT:\n  MIN_SIZE_TEST: 400\n")
    path = write(tmp_path, "c.yaml", "_BASE_: [a.yaml, b.yaml]\nINPUT:\n  MIN_SIZE_TEST: 320\n")
    config = load_config(path)
    assert (config.box.max_detections, config.input.min_size_test) == (7, 320)


def test_base_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "zoo/base.yaml", BASE_YAML)
    assert load_config(write(tmp_path, "x/y.yaml", "_BASE_: ~/zoo/base.yaml\n")) == load_config(RESNET)


def test_python_tuples_and_text_that_looks_like_a_literal(tmp_path: Path) -> None:
    extra = 'MODEL:\n  PIXEL_STD: !!python/tuple [2.0, 3.0, 4.0]\n  PIXEL_MEAN: "(1, 2, 3.5)"\n'
    write(tmp_path, "base.yaml", BASE_YAML)
    config = load_config(write(tmp_path, "c.yaml", "_BASE_: base.yaml\n" + extra))
    assert config.input.pixel_std == (2.0, 3.0, 4.0)
    assert config.input.pixel_mean == (1.0, 2.0, 3.5)
    assert load_config(RESNET, ["MODEL.RPN.NMS_THRESH", "6e-1"]).rpn.nms_threshold == 0.6


def test_overrides_win_over_the_file() -> None:
    config = load_config(RESNET, ["INPUT.MIN_SIZE_TEST", "320", "INPUT.FORMAT", "RGB", "MODEL.RPN.NMS_THRESH", "1"])
    assert (config.input.min_size_test, config.input.format, config.rpn.nms_threshold) == (320, "RGB", 1.0)


def test_overrides_do_not_leak_into_the_defaults() -> None:
    before = load_config(RESNET)
    load_config(RESNET, ["MODEL.ROI_BOX_HEAD.FC_DIM", "77"])
    assert load_config(RESNET) == before
    assert config_from_mapping(tree_of(RESNET)) == before


@pytest.mark.parametrize(
    "overrides",
    [["INPUT.MIN_SIZE_TEST"], "AB", ["INPUT.MIN_SIZE", "3"], ["MODEL.RPN", "3"], ["", "3"], ["MODEL.RPN.X.Y", "3"]],
)
def test_overrides_that_name_nothing_are_refused(overrides: Any) -> None:
    with pytest.raises(ConfigError, match="overrid"):
        load_config(RESNET, overrides)


def test_unknown_keys_are_warned_about_and_kept() -> None:
    tree = tree_of(RESNET)
    tree["MODEL"]["RPN"]["NMS_TRESH"] = 0.1
    tree["MY_SECTION"] = {"A": {"B": 1}}
    with pytest.warns(UserWarning, match=r"MODEL\.RPN\.NMS_TRESH, MY_SECTION"):
        config = config_from_mapping(tree)
    assert config.unknown_keys == ("MODEL.RPN.NMS_TRESH", "MY_SECTION")
    assert dataclasses.replace(config, unknown_keys=()) == load_config(RESNET)


@pytest.mark.parametrize("path", sorted(KEYS.glob("*.yaml")), ids=lambda path: path.stem)
def test_complete_configurations_have_no_unknown_keys(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_config(path).unknown_keys == ()


def test_names_below_free_nodes_are_known() -> None:
    tree = tree_of(RESNET)
    tree["DATASETS"]["CLASS_TO_MESH_NAME_MAPPING"] = {"0": "smpl_27554"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert config_from_mapping(tree) == load_config(RESNET)


class CfgNode(dict[str, Any]):
    """Stands for detectron2's ``CfgNode``: a dict of dicts that holds tuples."""


def test_live_configuration() -> None:
    def node(value: Any) -> Any:
        if isinstance(value, dict):
            return CfgNode({key: node(item) for key, item in value.items()})
        return tuple(value) if isinstance(value, list) else value

    assert config_from_mapping(node(tree_of(MOBILE))) == load_config(MOBILE)


def test_a_configuration_is_frozen() -> None:
    config = load_config(RESNET)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rpn.nms_threshold = 0.1  # type: ignore[misc]
    assert isinstance(hash(config), int)


HEAD = "MODEL.ROI_DENSEPOSE_HEAD."
UNSUPPORTED: list[tuple[str, Any, str]] = [
    ("VERSION", 1, "2"),
    ("MODEL.META_ARCHITECTURE", "PanopticFPN", "GeneralizedRCNN"),
    ("MODEL.DENSEPOSE_ON", False, "true"),
    ("MODEL.MASK_ON", True, "false"),
    ("MODEL.KEYPOINT_ON", True, "false"),
    ("MODEL.LOAD_PROPOSALS", True, "RPN"),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "RPN"),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "RPN"),
    ("MODEL.RPN.HEAD_NAME", "MyHead", "StandardRPNHead"),
    ("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator", "DefaultAnchorGenerator"),
    ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "DensePoseROIHeads"),
    ("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MyDensePoseROIHeads"),
    ("MODEL.ROI_HEADS.NUM_CLASSES", 80, "1"),
    ("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p4"], "neighboring"),
    ("MODEL.ROI_HEADS.IN_FEATURES", ["p3", "p2"], "neighboring"),
    ("MODEL.ROI_HEADS.IN_FEATURES", ["res4"], "p2"),
    ("MODEL.ROI_BOX_HEAD.NAME", "", "FastRCNNConvFCHead"),
    ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, "false"),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", "ROIAlignV2"),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated", "ROIAlignV2"),
    ("MODEL.ROI_BOX_HEAD.NUM_FC", 0, "NUM_CONV"),
    ("MODEL.ROI_BOX_HEAD.NORM", "LN", "GN"),
    ("MODEL.BACKBONE.NAME", "build_hrfpn_backbone", "build_resnet_fpn_backbone"),
    ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "build_timm_bifpn_backbone"),
    ("MODEL.RESNETS.DEPTH", 18, "50, 101, 152"),
    ("MODEL.RESNETS.NORM", "naiveSyncBN", "FrozenBN"),
    ("MODEL.RESNETS.NORM", "", "FrozenBN"),
    ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True], "deformable"),
    ("MODEL.RESNETS.RES5_DILATION", 2, "1"),
    ("MODEL.RESNETS.OUT_FEATURES", ["res4"], "res5"),
    ("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "res2"),
    ("MODEL.FPN.NORM", "nnSyncBN", "GN"),
    ("MODEL.FPN.FUSE_TYPE", "max", "avg"),
    ("MODEL.RPN.CONV_DIMS", [0], "-1"),
    ("MODEL.RPN.IN_FEATURES", ["p3", "p7"], "p6"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64]], "5 lists"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 48], [64], [128], [256], [512]], "every level"),
    ("MODEL.ANCHOR_GENERATOR.OFFSET", 1.0, "below 1"),
    (HEAD + "NAME", "", "DensePoseDeepLabHead"),
    (HEAD + "PREDICTOR_NAME", "MyPredictor", "DensePoseChartPredictor"),
    (HEAD + "CSE.EMBEDDERS", {"smpl_27554": {"TYPE": "vertex_feature"}}, "CSE"),
    (HEAD + "NUM_PATCHES", 23, "24"),
    (HEAD + "DECONV_KERNEL", 5, "4"),
    (HEAD + "CONV_HEAD_KERNEL", 2, "odd"),
    (HEAD + "DECODER_COMMON_STRIDE", 8, "4"),
    (HEAD + "DECODER_NUM_CLASSES", 128, "256"),
    (HEAD + "DECODER_NORM", "LN", "GN"),
    (HEAD + "POOLER_SAMPLING_RATIO", -1, "0"),
    ("INPUT.FORMAT", "YUV-BT.601", "BGR"),
    ("TEST.DETECTIONS_PER_IMAGE", -1, "1"),
    ("TEST.DETECTIONS_PER_IMAGE", 0, "1"),
]
MOBILE_UNSUPPORTED: list[tuple[str, Any, str]] = [
    ("MODEL.TIMMNETS.NAME", "resnet50", "spnasnet_100"),
    ("MODEL.TIMMNETS.NORM", "GN", "FrozenBN"),
    ("MODEL.TIMMNETS.OUT_FEATURES", [0, 1, 2, 3], "strides 4, 8, 16, 32"),
    ("MODEL.TIMMNETS.OUT_FEATURES", [], "whole numbers"),
    (HEAD + "DEEPLAB.NORM", "BN", "GN"),
    (HEAD + "UV_CONFIDENCE.TYPE", "full", "indep_aniso"),
]
WRONG_TYPES: list[tuple[str, Any, str]] = [
    ("MODEL.ROI_BOX_HEAD.FC_DIM", "many", "whole number"),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", 1024.0, "whole number"),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", True, "whole number"),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", 10**9, "8192"),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", 10**5000, "8192"),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", None, "whole number"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10.0, 10.0, 5.0], "4 numbers"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10.0, 10.0, 5.0, 0.0], "above 0"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [[10.0, 10.0, 5.0, 5.0]], "4 numbers"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", 10.0, "4 numbers"),
    ("MODEL.PIXEL_MEAN", [103.53], "3 numbers"),
    ("MODEL.PIXEL_STD", [1.0, 1.0, 0.0], "above 0"),
    ("MODEL.PIXEL_STD", [1.0, 1.0, float("nan")], "3 numbers"),
    ("MODEL.MASK_ON", "no", "true or false"),
    ("MODEL.RPN.NMS_THRESH", 1.5, "0 to 1"),
    ("MODEL.RPN.NMS_THRESH", float("nan"), "0 to 1"),
    ("MODEL.RPN.NMS_THRESH", "high", "a number"),
    ("MODEL.RPN.IN_FEATURES", "p2", "a list"),
    ("MODEL.RPN.IN_FEATURES", [], "a list"),
    ("MODEL.RPN.IN_FEATURES", [2, 3], "a list"),
    ("MODEL.RPN.IN_FEATURES", ["p2", "p2"], "once"),
    ("MODEL.RPN.CONV_DIMS", 256, "a list"),
    ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", False, "a list"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", 32, "lists"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", [], "lists"),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [["wide"]], "lists"),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.0]], "positive"),
    ("MODEL.BACKBONE.NAME", 3, "build_resnet_fpn_backbone"),
    ("MODEL.BACKBONE.NAME", ["build_resnet_fpn_backbone"], "build_resnet_fpn_backbone"),
    ("MODEL.BACKBONE", "build_resnet_fpn_backbone", "section"),
    ("MODEL.BACKBONE.NAME", {"A": 1}, "value"),
    ("MODEL", None, "section"),
    (HEAD + "CSE.EMBEDDERS", 3, "section"),
]


def refused(path: Path, key: str, value: Any, supported: str) -> None:
    tree = tree_of(path)
    *sections, leaf = key.split(".")
    node = tree
    for section in sections:
        node = node[section]
    node[leaf] = value
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(tree)
    assert caught.value.key == key
    assert key in str(caught.value)
    assert supported in str(caught.value)
    if isinstance(value, str):
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("key", "value", "supported"), UNSUPPORTED)
def test_unsupported_values_name_the_key_and_what_is_supported(key: str, value: Any, supported: str) -> None:
    refused(RESNET, key, value, supported)


@pytest.mark.parametrize(("key", "value", "supported"), MOBILE_UNSUPPORTED)
def test_unsupported_values_of_mobile_models(key: str, value: Any, supported: str) -> None:
    refused(KEYS / "mobile_parsing_rcnn_b_wc2m.yaml", key, value, supported)


@pytest.mark.parametrize(("key", "value", "supported"), WRONG_TYPES, ids=lambda value: type(value).__name__)
def test_wrong_types_and_ranges_are_configuration_errors(key: str, value: Any, supported: str) -> None:
    refused(RESNET, key, value, supported)


@pytest.mark.parametrize(
    ("path", "overrides", "key"),
    [
        (MOBILE, ["MODEL.FPN.OUT_CHANNELS", "48", HEAD + "DEEPLAB.NONLOCAL_ON", "1"], "MODEL.FPN.OUT_CHANNELS"),
        (MOBILE, [HEAD + "DEEPLAB.NORM", "GN", HEAD + "CONV_HEAD_DIM", "100"], HEAD + "DEEPLAB.NORM"),
        (RESNET, ["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", "48"], "MODEL.FPN.NORM"),
        (RESNET, ["MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.STEM_OUT_CHANNELS", "48"], "MODEL.RESNETS.NORM"),
    ],
)
def test_group_norm_needs_channels_that_it_can_divide(path: Path, overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match="multiples of 32") as caught:
        load_config(path, overrides)
    assert caught.value.key == key


def test_an_empty_file_is_detectron2s_defaults_which_are_not_exportable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "c.yaml", ""))
    assert caught.value.key == "MODEL.ROI_HEADS.NAME"


def test_aliases_that_multiply_do_not(tmp_path: Path) -> None:
    lists = ["L0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lists += [f"L{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 30)]
    write(tmp_path, "base.yaml", BASE_YAML)
    text = "\n".join(["_BASE_: base.yaml", *lists, "MODEL:", "  RPN:", "    IN_FEATURES: *l29", ""])
    with pytest.raises(ConfigError, match="more than 20000 values"):
        load_config(write(tmp_path, "c.yaml", text))
