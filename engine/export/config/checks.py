"""From a merged detectron2 tree to :class:`~.config.ModelConfig`: every check of a value stands here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from ...errors import ConfigError
from ..networks.architectures import GROUP_NORM_GROUPS, NORMS, PYRAMID_STRIDES, RESNET_BLOCKS
from ..networks.mobile_architectures import MOBILE_ARCHITECTURES
from .detectron2_yaml import SHARED, Values
from .generation1 import (
    EFFICIENTNET_BIFPN,
    EFFICIENTNET_FPN,
    MAP_HEADS,
    TENSORFLOW_EPS,
    bifpn_trunk,
    fpn_trunk,
    shared_block,
)
from .model_config import (
    MAX_CHANNELS,
    MAX_LAYERS,
    AnchorConfig,
    BoxHeadConfig,
    DecoderConfig,
    DeepLabConfig,
    DensePoseConfig,
    InputConfig,
    MobileBackboneConfig,
    ModelConfig,
    NeckConfig,
    PoolerConfig,
    PredictorConfig,
    ResNetConfig,
    RpnConfig,
)
from .predictors import num_classes, predictor, remarks_on_predictor

_RESNET_FPN, _MOBILE_BIFPN = "build_resnet_fpn_backbone", "build_timm_bifpn_backbone"
_FNL_ROI_HEADS = "MyDensePoseROIHeads"
#: Weights in timm that were trained with TensorFlow's eps, without "tf" in their names.
_TENSORFLOW_WEIGHTS = ("fbnetc_100", "mobilenetv3_rw")
_FPN_FEATURES = ("res2", "res3", "res4", "res5")
# Bounds that no real model meets: they keep a mistyped number from asking for terabytes.
_MAX_RESOLUTION, _MAX_BOXES, _MAX_PIXELS = 256, 100_000, 16_384
_MAX_CANDIDATES = 1 << 24  # BoxDetections' own limit


def build_config(tree: Mapping[str, Any], unknown_keys: tuple[str, ...]) -> ModelConfig:
    """Checks a complete tree (see ``detectron2_yaml.with_defaults``) and returns it typed."""
    values = Values(tree)
    first_generation = "EFFICIENTNETS" in tree["MODEL"]  # only its defaults have it
    _check_task(values, [SHARED] if first_generation else [_FNL_ROI_HEADS])
    backbone, neck = _backbone_and_neck(values, first_generation)
    shared = values.raw("MODEL.ROI_HEADS.NAME") == SHARED
    return ModelConfig(
        input=_input(values),
        backbone=backbone,
        neck=neck,
        rpn=_rpn(values),
        box=_box(values, shared),
        densepose=(_shared_densepose if shared else _densepose)(values, neck.out_channels, first_generation),
        unknown_keys=unknown_keys,
        first_generation=first_generation,
    )


def remarks_on(tree: Mapping[str, Any]) -> list[str]:
    """Sentences about what a complete tree asks for at inference and no engine does."""
    values = Values(tree)
    found = []
    if values.raw("TEST.AUG.ENABLED"):
        found.append(
            "TEST.AUG.ENABLED is ignored: an engine looks at each picture once, at one size, without test-time "
            "augmentation"
        )
    return found + remarks_on_predictor(values)


def _check_task(values: Values, roi_heads: list[str]) -> None:
    """Refuses whatever is not a two-stage DensePose detector."""
    values.integer("VERSION", 2, 2)
    values.text("MODEL.META_ARCHITECTURE", ["GeneralizedRCNN"])
    values.require("MODEL.DENSEPOSE_ON", True, "only DensePose models are exported")
    values.require("MODEL.MASK_ON", False, "the mask head cannot be exported")
    values.require("MODEL.KEYPOINT_ON", False, "the keypoint head cannot be exported")
    values.require("MODEL.LOAD_PROPOSALS", False, "proposals come from the RPN")
    values.text("MODEL.PROPOSAL_GENERATOR.NAME", ["RPN"])
    values.text("MODEL.RPN.HEAD_NAME", ["StandardRPNHead"])
    values.text("MODEL.ANCHOR_GENERATOR.NAME", ["DefaultAnchorGenerator"])
    values.text("MODEL.ROI_HEADS.NAME", ["DensePoseROIHeads", *roi_heads])
    values.text("MODEL.ROI_BOX_HEAD.NAME", ["FastRCNNConvFCHead"])
    values.require("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", False, "scores are a softmax")


def _input(values: Values) -> InputConfig:
    return InputConfig(
        format=cast(Literal["RGB", "BGR"], values.text("INPUT.FORMAT", ["RGB", "BGR"])),
        pixel_mean=cast(tuple[float, float, float], values.numbers("MODEL.PIXEL_MEAN", 3)),
        pixel_std=cast(tuple[float, float, float], values.numbers("MODEL.PIXEL_STD", 3, low=0.0)),
        min_size_test=values.integer("INPUT.MIN_SIZE_TEST", 0, _MAX_PIXELS),
        max_size_test=values.integer("INPUT.MAX_SIZE_TEST", 1, _MAX_PIXELS),
    )


def _backbone_and_neck(
    values: Values, first_generation: bool
) -> tuple[ResNetConfig | MobileBackboneConfig, NeckConfig]:
    mobile = (EFFICIENTNET_FPN, EFFICIENTNET_BIFPN) if first_generation else (_MOBILE_BIFPN,)
    name = values.text("MODEL.BACKBONE.NAME", [_RESNET_FPN, *mobile])
    channels = values.integer("MODEL.FPN.OUT_CHANNELS", 1, MAX_CHANNELS)
    if name in (_MOBILE_BIFPN, EFFICIENTNET_BIFPN):
        # DensePoseFnL's BiFPN reads neither NORM nor FUSE_TYPE nor IN_FEATURES.
        neck = NeckConfig("bifpn", channels, "BN", "sum")
        return bifpn_trunk(values) if first_generation else _mobile(values), neck
    norm = _norm(values, "MODEL.FPN.NORM", channels)
    fuse_type = cast(Literal["sum", "avg"], values.text("MODEL.FPN.FUSE_TYPE", ["sum", "avg"]))
    neck = NeckConfig("fpn", channels, norm, fuse_type)
    if name == EFFICIENTNET_FPN:
        return fpn_trunk(values), neck
    if values.names("MODEL.FPN.IN_FEATURES", _FPN_FEATURES) != _FPN_FEATURES:
        raise values.refuse("MODEL.FPN.IN_FEATURES", str(list(_FPN_FEATURES)))
    return _resnet(values), neck


def _norm(values: Values, key: str, *channels: int, choices: tuple[str, ...] = NORMS) -> str:
    """A ``NORM`` key; GroupNorm must divide the channels that it meets."""
    norm = values.text(key, choices)
    if norm == "GN" and any(c % GROUP_NORM_GROUPS for c in channels):
        raise ConfigError(f"{key} is 'GN', which needs multiples of {GROUP_NORM_GROUPS} channels, not {channels}", key)
    return norm


def _resnet(values: Values) -> ResNetConfig:
    key = "MODEL.RESNETS."
    depth = values.integer(key + "DEPTH", 1, 1000)
    if depth not in RESNET_BLOCKS:
        raise values.refuse(key + "DEPTH", ", ".join(map(str, RESNET_BLOCKS)))
    if any(_flags(values, key + "DEFORM_ON_PER_STAGE")):
        raise values.refuse(key + "DEFORM_ON_PER_STAGE", "false everywhere; deformable convolutions cannot be exported")
    values.integer(key + "RES5_DILATION", 1, 1)
    if missing := set(_FPN_FEATURES) - set(values.names(key + "OUT_FEATURES", ("stem", *_FPN_FEATURES))):
        raise values.refuse(key + "OUT_FEATURES", f"a list with {', '.join(sorted(missing))} too")
    groups = values.integer(key + "NUM_GROUPS", 1, MAX_CHANNELS)
    width = values.integer(key + "WIDTH_PER_GROUP", 1, MAX_CHANNELS // groups)
    stem = values.integer(key + "STEM_OUT_CHANNELS", 1, MAX_CHANNELS)
    res2 = values.integer(key + "RES2_OUT_CHANNELS", 1, MAX_CHANNELS // 8)
    return ResNetConfig(
        depth=depth,
        norm=_norm(values, key + "NORM", stem, res2, groups * width, choices=NORMS[1:]),
        num_groups=groups,
        width_per_group=width,
        stride_in_1x1=values.flag(key + "STRIDE_IN_1X1"),
        stem_out_channels=stem,
        res2_out_channels=res2,
    )


def _flags(values: Values, key: str) -> tuple[bool, ...]:
    value = values.raw(key)
    if not isinstance(value, list | tuple) or not all(isinstance(v, bool) for v in value):
        raise values.refuse(key, "a list of true and false")
    return tuple(value)


def _mobile(values: Values) -> MobileBackboneConfig:
    key = "MODEL.TIMMNETS."
    # All three have the same parameter names at inference.
    norm = values.text(key + "NORM", ["FrozenBN", "BN", "SyncBN"])
    if tuple(values.integers(key + "OUT_FEATURES")) != (1, 2, 3, 4):
        raise values.refuse(key + "OUT_FEATURES", "[1, 2, 3, 4], the features at strides 4, 8, 16, 32")
    name = values.text(key + "NAME", list(MOBILE_ARCHITECTURES))
    # timm sets TensorFlow's eps where it loads weights that were trained with it; only FrozenBN takes it over.
    loaded = name in _TENSORFLOW_WEIGHTS and values.flag(key + "PRETRAINED") and norm == "FrozenBN"
    return MobileBackboneConfig(name, TENSORFLOW_EPS if "tf" in name or loaded else 1e-5)


def _rpn(values: Values) -> RpnConfig:
    key = "MODEL.RPN."
    in_features = values.names(key + "IN_FEATURES", list(PYRAMID_STRIDES))
    conv_dims = tuple(values.integers(key + "CONV_DIMS"))
    if len(conv_dims) > MAX_LAYERS or any(c != -1 and not 1 <= c <= MAX_CHANNELS for c in conv_dims):
        raise values.refuse(key + "CONV_DIMS", f"channels from 1 to {MAX_CHANNELS}, or -1 to keep them")
    return RpnConfig(
        in_features=in_features,
        conv_dims=conv_dims,
        anchors=_anchors(values, in_features),
        bbox_reg_weights=_box_weights(values, key + "BBOX_REG_WEIGHTS"),
        pre_nms_topk=values.integer(key + "PRE_NMS_TOPK_TEST", 1, _MAX_BOXES),
        max_proposals=values.integer(key + "POST_NMS_TOPK_TEST", 1, _MAX_BOXES),
        nms_threshold=values.number(key + "NMS_THRESH", 0.0, 1.0),
        min_box_size=values.number("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0.0, _MAX_PIXELS),
    )


def _anchors(values: Values, in_features: tuple[str, ...]) -> AnchorConfig:
    key = "MODEL.ANCHOR_GENERATOR."
    sizes = values.per_level(key + "SIZES", len(in_features))
    ratios = values.per_level(key + "ASPECT_RATIOS", len(in_features))
    if len({len(s) * len(r) for s, r in zip(sizes, ratios, strict=True)}) != 1:
        raise values.refuse(key + "SIZES", "as many anchors on every level, because the levels share the RPN's head")
    offset = values.number(key + "OFFSET", 0.0, 1.0)
    if offset == 1.0:
        raise values.refuse(key + "OFFSET", "a number from 0 to below 1")
    return AnchorConfig(sizes, ratios, offset, tuple(PYRAMID_STRIDES[name] for name in in_features))


def _box_weights(values: Values, key: str) -> tuple[float, float, float, float]:
    return cast(tuple[float, float, float, float], values.numbers(key, 4, low=0.0))


def _roi_features(values: Values, key: str = "MODEL.ROI_HEADS.IN_FEATURES") -> tuple[str, ...]:
    levels = list(PYRAMID_STRIDES)
    names = values.names(key, levels)
    start = levels.index(names[0])
    if list(names) != levels[start : start + len(names)]:
        raise values.refuse(key, f"neighboring levels, finest first, out of {levels}")
    return names


def _own_features(values: Values, section: str) -> tuple[str, ...]:
    """``IN_FEATURES`` of a head that has its own; an empty list means those of all heads."""
    key, common = section + "IN_FEATURES", _roi_features(values)
    if values.raw(key) in ([], ()):
        return common
    names = _roi_features(values, key)
    if not set(names) <= set(common):
        raise values.refuse(key, f"levels out of MODEL.ROI_HEADS.IN_FEATURES, {list(common)}")
    return names


def _pooler(values: Values, key: str, strides: tuple[int, ...]) -> PoolerConfig:
    return PoolerConfig(
        resolution=values.integer(key + "POOLER_RESOLUTION", 1, _MAX_RESOLUTION),
        sampling_ratio=values.integer(key + "POOLER_SAMPLING_RATIO", 0, 64),
        aligned=values.text(key + "POOLER_TYPE", ["ROIAlign", "ROIAlignV2"]) == "ROIAlignV2",
        strides=strides,
    )


def _box(values: Values, own_features: bool) -> BoxHeadConfig:
    key = "MODEL.ROI_BOX_HEAD."
    in_features = _own_features(values, key) if own_features else _roi_features(values)
    num_conv = values.integer(key + "NUM_CONV", 0, MAX_LAYERS)
    num_fc = values.integer(key + "NUM_FC", 0, MAX_LAYERS)
    if num_conv + num_fc == 0:
        raise values.refuse(key + "NUM_FC", "at least one layer of NUM_CONV or NUM_FC")
    conv_dim = values.integer(key + "CONV_DIM", 1, MAX_CHANNELS)
    return BoxHeadConfig(
        in_features=in_features,
        pooler=_pooler(values, key, tuple(PYRAMID_STRIDES[name] for name in in_features)),
        num_conv=num_conv,
        conv_dim=conv_dim,
        num_fc=num_fc,
        fc_dim=values.integer(key + "FC_DIM", 1, MAX_CHANNELS),
        norm=_norm(values, key + "NORM", *([conv_dim] if num_conv else [])),
        bbox_reg_weights=_box_weights(values, key + "BBOX_REG_WEIGHTS"),
        score_threshold=values.number("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, 1.0),
        nms_threshold=values.number("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.0, 1.0),
        max_detections=values.integer("TEST.DETECTIONS_PER_IMAGE", 1, _MAX_BOXES),
        num_classes=_classes(values),
        class_agnostic=values.flag(key + "CLS_AGNOSTIC_BBOX_REG"),
    )


def _classes(values: Values) -> int:
    """How many, without the background; each of them gets a box of every proposal."""
    classes = num_classes(values)
    proposals = values.integer("MODEL.RPN.POST_NMS_TOPK_TEST", 1, _MAX_BOXES)
    if classes * proposals > _MAX_CANDIDATES:
        most = f"at most {_MAX_CANDIDATES // proposals} classes with {proposals} proposals"
        raise values.refuse("MODEL.ROI_HEADS.NUM_CLASSES", most)
    return classes


def _densepose(values: Values, channels: int, first_generation: bool) -> DensePoseConfig:
    key = "MODEL.ROI_DENSEPOSE_HEAD."
    in_features = _roi_features(values)
    strides = tuple(PYRAMID_STRIDES[name] for name in in_features)
    if first_generation:
        values.require(key + "DECODER_ON", False, "the first generation's heads have no decoder")
    decoder = _decoder(values, channels, strides[0]) if values.flag(key + "DECODER_ON") else None
    heads = ["DensePoseV1ConvXHead", *([] if first_generation else ["DensePoseDeepLabHead"])]
    name = values.text(key + "NAME", heads)
    convs, conv_dim, kernel = _stacked_convs(values)
    return DensePoseConfig(
        in_features=in_features,
        pooler=_pooler(values, key, strides[:1] if decoder else strides),
        decoder=decoder,
        deeplab=_deeplab(values, channels, conv_dim) if name == "DensePoseDeepLabHead" else None,
        num_stacked_convs=convs,
        conv_dim=conv_dim,
        conv_kernel=kernel,
        predictor=predictor(values, first_generation),
    )


def _stacked_convs(values: Values) -> tuple[int, int, int]:
    """How many, their channels and their kernel."""
    key = "MODEL.ROI_DENSEPOSE_HEAD."
    kernel = values.integer(key + "CONV_HEAD_KERNEL", 1, 15)
    if kernel % 2 == 0:
        raise values.refuse(key + "CONV_HEAD_KERNEL", "odd sizes, which keep height and width")
    convs = values.integer(key + "NUM_STACKED_CONVS", 1, MAX_LAYERS)
    return convs, values.integer(key + "CONV_HEAD_DIM", 1, MAX_CHANNELS), kernel


def _shared_densepose(values: Values, channels: int, first_generation: bool) -> DensePoseConfig:
    """The branch of ``SharedROIHeads``, whose pooling and widths stand in sections of their own."""
    key = "MODEL.ROI_DENSEPOSE_HEAD."
    in_features = _own_features(values, "MODEL.ROI_SHARED_HEAD.")
    name = values.text(key + "NAME", ["Identity", "DensePoseV1ConvXHead", *MAP_HEADS])
    predictors = "MODEL.ROI_DENSEPOSE_PREDICTOR.NAME"
    if (values.text(predictors, ["Default", "Identity"]) == "Identity") != (name in MAP_HEADS):
        raise values.refuse(predictors, f"Identity with {key}NAME {' or '.join(MAP_HEADS)}, Default with all others")
    maps = predictor(values, first_generation)
    if name in MAP_HEADS:
        assert isinstance(maps, PredictorConfig)  # the first generation has no other
        maps = replace(maps, kind=MAP_HEADS[name], up_scale=1)
    block = shared_block(values, channels)
    convs, conv_dim, kernel = _stacked_convs(values) if name == "DensePoseV1ConvXHead" else (0, block.conv_dim, 1)
    return DensePoseConfig(
        in_features=in_features,
        pooler=_pooler(values, "MODEL.ROI_SHARED_HEAD.", tuple(PYRAMID_STRIDES[name] for name in in_features)),
        decoder=None,
        deeplab=None,
        num_stacked_convs=convs,
        conv_dim=conv_dim,
        conv_kernel=kernel,
        predictor=maps,
        shared_block=block,
    )


def _decoder(values: Values, channels: int, finest_stride: int) -> DecoderConfig:
    key = "MODEL.ROI_DENSEPOSE_HEAD.DECODER_"
    # Only DensePoseFnL's heads know the simple decoder; detectron2's own ignore the key.
    simple = values.raw("MODEL.ROI_HEADS.NAME") == _FNL_ROI_HEADS and values.flag(key + "ISSIMPLE")
    if simple:
        return DecoderConfig(True, 0, channels, "")
    conv_dims = values.integer(key + "CONV_DIMS", 1, MAX_CHANNELS)
    # The head is built for the pyramid's channels and the pooler for the finest level's stride.
    values.integer(key + "NUM_CLASSES", channels, channels)
    values.integer(key + "COMMON_STRIDE", finest_stride, finest_stride)
    return DecoderConfig(False, conv_dims, channels, _norm(values, key + "NORM", conv_dims))


def _deeplab(values: Values, channels: int, conv_dim: int) -> DeepLabConfig:
    key = "MODEL.ROI_DENSEPOSE_HEAD.DEEPLAB."
    norm = cast(Literal["", "GN"], _norm(values, key + "NORM", conv_dim, choices=("", "GN")))
    non_local = values.flag(key + "NONLOCAL_ON")
    # DensePoseFnL rebuilds the ASPP of a head without norm: no GroupNorm, and the last dilation is 18 instead of 56.
    rebuilt = norm == "" and values.raw("MODEL.ROI_HEADS.NAME") == _FNL_ROI_HEADS
    if (non_local or not rebuilt) and channels % GROUP_NORM_GROUPS:
        raise values.refuse("MODEL.FPN.OUT_CHANNELS", f"multiples of {GROUP_NORM_GROUPS}, for the head's GroupNorm")
    return DeepLabConfig(norm, "" if rebuilt else "GN", (6, 12, 18) if rebuilt else (6, 12, 56), non_local)
