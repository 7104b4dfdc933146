"""What export needs to know of a detectron2 configuration, checked, typed and frozen.

Everything that export cannot reproduce is refused here, by key, before any weight is read.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .detectron2_yaml import apply_overrides, read_yaml, with_defaults

_NAMED = 20  # unknown keys in a warning
# Bounds that no real model meets: they keep a mistyped number from asking for terabytes.
MAX_CHANNELS, MAX_LAYERS = 8192, 32


@dataclass(frozen=True)
class InputConfig:
    """How a picture becomes the network's input. Sizes are pixels, means and deviations are in the channels' order."""

    format: Literal["RGB", "BGR"]  #: ``INPUT.FORMAT``, the order of the channels
    pixel_mean: tuple[float, float, float]  #: ``MODEL.PIXEL_MEAN``
    pixel_std: tuple[float, float, float]  #: ``MODEL.PIXEL_STD``
    min_size_test: int  #: ``INPUT.MIN_SIZE_TEST``, of the shorter side; 0: pictures are not resized
    max_size_test: int  #: ``INPUT.MAX_SIZE_TEST``, of the longer side


@dataclass(frozen=True)
class ResNetConfig:
    """``MODEL.RESNETS`` of the backbone ``build_resnet_fpn_backbone``."""

    depth: int  #: ``DEPTH``
    norm: str  #: ``NORM``
    num_groups: int  #: ``NUM_GROUPS``, above 1 for ResNeXt
    width_per_group: int  #: ``WIDTH_PER_GROUP``
    stride_in_1x1: bool  #: ``STRIDE_IN_1X1``
    stem_out_channels: int  #: ``STEM_OUT_CHANNELS``
    res2_out_channels: int  #: ``RES2_OUT_CHANNELS``


@dataclass(frozen=True)
class MobileBackboneConfig:
    """``MODEL.TIMMNETS`` of ``build_timm_bifpn_backbone``, or ``MODEL.EFFICIENTNETS`` of DensePoseFnL's first
    generation."""

    name: str  #: ``NAME``, a key of ``mobile_architectures.MOBILE_ARCHITECTURES``
    batch_norm_eps: float = 1e-5  #: follows from ``NAME``, ``PRETRAINED`` and ``NORM``; no checkpoint holds it
    frozen_parts: int = 0  #: how many of stem and stages have BatchNorms without counters (first generation)
    output_stages: tuple[int, ...] | None = None  #: stages whose outputs are taken; None: DensePoseFnL's taps
    kept_stages: int | None = None  #: stages that the checkpoint has; None: all
    stride_in_projection: bool = False  #: of edge residuals, as geffnet has them; timm strides the k×k convolution


@dataclass(frozen=True)
class NeckConfig:
    """``MODEL.FPN``."""

    kind: Literal["fpn", "bifpn"]  #: from ``MODEL.BACKBONE.NAME``
    out_channels: int  #: ``OUT_CHANNELS`` of every level
    norm: str  #: ``NORM`` ("fpn" only)
    fuse_type: Literal["sum", "avg"]  #: ``FUSE_TYPE`` ("fpn" only)


@dataclass(frozen=True)
class AnchorConfig:
    """``MODEL.ANCHOR_GENERATOR``, one entry per level of ``MODEL.RPN.IN_FEATURES``."""

    sizes: tuple[tuple[float, ...], ...]  #: ``SIZES``, square roots of areas in pixels
    aspect_ratios: tuple[tuple[float, ...], ...]  #: ``ASPECT_RATIOS``, height / width
    offset: float  #: ``OFFSET`` of the first anchor's center, in strides
    strides: tuple[int, ...]  #: strides of the levels

    @property
    def per_location(self) -> int:
        """Anchors at every pixel of a level (the same number on all)."""
        return len(self.sizes[0]) * len(self.aspect_ratios[0])

    def cell_anchors(self) -> tuple[tuple[tuple[float, float, float, float], ...], ...]:
        """Per level, xyxy of the anchors around the origin, in detectron2's order: sizes outside, ratios inside."""
        levels = []
        for sizes, ratios in zip(self.sizes, self.aspect_ratios, strict=True):
            anchors = []
            for size in sizes:
                for ratio in ratios:
                    width = math.sqrt(size**2.0 / ratio)
                    height = ratio * width
                    anchors.append((-width / 2.0, -height / 2.0, width / 2.0, height / 2.0))
            levels.append(tuple(anchors))
        return tuple(levels)


@dataclass(frozen=True)
class RpnConfig:
    """``MODEL.RPN`` and ``MODEL.PROPOSAL_GENERATOR``."""

    in_features: tuple[str, ...]  #: ``IN_FEATURES``
    conv_dims: tuple[int, ...]  #: ``CONV_DIMS``, -1 keeps the channels
    anchors: AnchorConfig
    bbox_reg_weights: tuple[float, float, float, float]  #: ``BBOX_REG_WEIGHTS``
    pre_nms_topk: int  #: ``PRE_NMS_TOPK_TEST``, per level
    max_proposals: int  #: ``POST_NMS_TOPK_TEST``, over all levels
    nms_threshold: float  #: ``NMS_THRESH``, within a level
    min_box_size: float  #: ``MODEL.PROPOSAL_GENERATOR.MIN_SIZE``, pixels of the resized picture


@dataclass(frozen=True)
class PoolerConfig:
    """RoIAlign of one head. A box goes to the level of ``floor(4 + log2(sqrt(area) / 224))``, clamped."""

    resolution: int  #: ``POOLER_RESOLUTION``
    sampling_ratio: int  #: ``POOLER_SAMPLING_RATIO``; 0: as many samples as a bin has pixels
    aligned: bool  #: ``POOLER_TYPE``: ROIAlignV2 is aligned, ROIAlign is not
    strides: tuple[int, ...]  #: strides of the levels that are pooled from


@dataclass(frozen=True)
class BoxHeadConfig:
    """``MODEL.ROI_BOX_HEAD``, with ``MODEL.ROI_HEADS`` and ``TEST`` where they concern the detections."""

    in_features: tuple[str, ...]  #: ``MODEL.ROI_HEADS.IN_FEATURES``
    pooler: PoolerConfig
    num_conv: int  #: ``NUM_CONV``
    conv_dim: int  #: ``CONV_DIM``
    num_fc: int  #: ``NUM_FC``
    fc_dim: int  #: ``FC_DIM``
    norm: str  #: ``NORM``
    bbox_reg_weights: tuple[float, float, float, float]  #: ``BBOX_REG_WEIGHTS``
    score_threshold: float  #: ``MODEL.ROI_HEADS.SCORE_THRESH_TEST``
    nms_threshold: float  #: ``MODEL.ROI_HEADS.NMS_THRESH_TEST``
    max_detections: int  #: ``TEST.DETECTIONS_PER_IMAGE``
    num_classes: int = 1  #: ``MODEL.ROI_HEADS.NUM_CLASSES``, without the background
    class_agnostic: bool = False  #: ``CLS_AGNOSTIC_BBOX_REG``: one box for all classes of a row, else one for each

    @property
    def deltas(self) -> int:
        """Numbers that move a row's boxes."""
        return 4 if self.class_agnostic else 4 * self.num_classes


@dataclass(frozen=True)
class DecoderConfig:
    """``MODEL.ROI_DENSEPOSE_HEAD.DECODER_*``."""

    simple: bool  #: ``DECODER_ISSIMPLE`` (DensePoseFnL): the finest level as it is
    conv_dims: int  #: ``DECODER_CONV_DIMS``
    out_channels: int  #: ``DECODER_NUM_CLASSES``
    norm: str  #: ``DECODER_NORM``


@dataclass(frozen=True)
class DeepLabConfig:
    """``MODEL.ROI_DENSEPOSE_HEAD.DEEPLAB``."""

    norm: Literal["", "GN"]  #: ``NORM`` of the stacked convolutions
    aspp_norm: Literal["", "GN"]  #: of the ASPP: "GN" in DensePose; DensePoseFnL drops it with ``NORM`` ""
    dilations: tuple[int, int, int]  #: of the ASPP: 6, 12, 56 in DensePose; 6, 12, 18 in DensePoseFnL without norm
    non_local: bool  #: ``NONLOCAL_ON``


@dataclass(frozen=True)
class SharedBlockConfig:
    """``MODEL.ROI_SHARED_BLOCK`` of DensePoseFnL's first generation: the layers before the predictor."""

    kind: Literal["parsing", "mobile"]  #: ``NAME``: ParsingSharedBlock or MobileParsingSharedBlock
    aspp_dim: int | None  #: ``ASPP_DIM``; None without ``ASPP_ON``
    dilations: tuple[int, int, int]  #: ``ASPP_DILATION``
    non_local_dim: int | None  #: channels of the attention; None without ``NONLOCAL_ON``
    non_local_pooled: bool  #: ``NONLOCAL_USE_MAXPOOL``
    non_local_norm: bool  #: ``NONLOCAL_USE_BN``
    convs_before: int  #: ``NUM_CONVS_BEFORE_ASPP_NL``
    convs_after: int  #: ``NUM_CONVS_AFTER_ASPP_NL``
    conv_dim: int  #: ``CONV_HEAD_DIM``
    conv_kernel: int  #: ``CONV_HEAD_KERNEL``


@dataclass(frozen=True)
class PredictorConfig:
    """The maps of ``MODEL.ROI_DENSEPOSE_HEAD`` for charts: parts of the body, and U and V on each."""

    coarse_channels: int  #: ``NUM_COARSE_SEGM_CHANNELS``
    num_parts: int  #: ``NUM_PATCHES``; fine, u and v have one channel more, the background
    deconv_kernel: int  #: ``DECONV_KERNEL``
    up_scale: int  #: ``UP_SCALE``
    uv_confidence: Literal["iid_iso", "indep_aniso"] | None  #: ``UV_CONFIDENCE.TYPE`` where ``ENABLED``
    segm_confidence: bool  #: ``SEGM_CONFIDENCE.ENABLED``
    segm_confidence_epsilon: float  #: ``SEGM_CONFIDENCE.EPSILON``, added to the confidences
    #: Transposed convolutions; or the first generation's 3×3 convolutions, of the features doubled in size or not.
    kind: Literal["transposed", "nearest_conv3", "conv3"] = "transposed"

    @property
    def map_scale(self) -> int:
        """Side of the maps over side of the pooled features."""
        return self.up_scale if self.kind == "conv3" else 2 * self.up_scale


@dataclass(frozen=True)
class EmbedderConfig:
    """An entry of ``CSE.EMBEDDERS``: what the embeddings of a mesh's vertices are made of."""

    mesh: str  #: the entry's name
    kind: Literal["vertex_direct", "vertex_feature"]  #: ``TYPE``: as they are, or features times a matrix
    num_vertices: int  #: ``NUM_VERTICES``
    feature_dim: int | None  #: ``FEATURE_DIM``, of "vertex_feature" only


@dataclass(frozen=True)
class EmbeddingPredictorConfig:
    """The maps of ``MODEL.ROI_DENSEPOSE_HEAD`` for continuous surface embeddings (CSE), and the meshes' own."""

    coarse_channels: int  #: ``NUM_COARSE_SEGM_CHANNELS``
    embedding_size: int  #: ``CSE.EMBED_SIZE``
    deconv_kernel: int  #: ``DECONV_KERNEL``
    up_scale: int  #: ``UP_SCALE``
    segm_confidence: bool  #: ``SEGM_CONFIDENCE.ENABLED``
    segm_confidence_epsilon: float  #: ``SEGM_CONFIDENCE.EPSILON``, added to the confidences
    embedders: tuple[EmbedderConfig, ...]  #: ``CSE.EMBEDDERS``: meshes of classes first, then the others by name
    class_meshes: tuple[int, ...]  #: ``DATASETS.CLASS_TO_MESH_NAME_MAPPING``: of each class, which of ``embedders``
    kind: Literal["transposed"] = "transposed"

    @property
    def map_scale(self) -> int:
        """Side of the maps over side of the pooled features."""
        return 2 * self.up_scale


@dataclass(frozen=True)
class DensePoseConfig:
    """``MODEL.ROI_DENSEPOSE_HEAD``."""

    in_features: tuple[str, ...]  #: ``MODEL.ROI_HEADS.IN_FEATURES``; what the decoder reads where there is one
    pooler: PoolerConfig
    decoder: DecoderConfig | None  #: ``DECODER_ON``
    deeplab: DeepLabConfig | None  #: for ``NAME`` DensePoseDeepLabHead
    num_stacked_convs: int  #: ``NUM_STACKED_CONVS``
    conv_dim: int  #: ``CONV_HEAD_DIM``
    conv_kernel: int  #: ``CONV_HEAD_KERNEL``
    predictor: PredictorConfig | EmbeddingPredictorConfig
    shared_block: SharedBlockConfig | None = None  #: for ``MODEL.ROI_HEADS.NAME`` SharedROIHeads


@dataclass(frozen=True)
class ModelConfig:
    """A detectron2 DensePose configuration, as far as export needs it."""

    input: InputConfig
    backbone: ResNetConfig | MobileBackboneConfig
    neck: NeckConfig
    rpn: RpnConfig
    box: BoxHeadConfig
    densepose: DensePoseConfig
    unknown_keys: tuple[str, ...] = ()  #: dotted names in the file that detectron2 and DensePose do not have
    first_generation: bool = False  #: DensePoseFnL's of 2020, by the keys that only it has


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ModelConfig:
    """Reads a detectron2 YAML with its ``_BASE_`` files over the defaults of detectron2, DensePose and DensePoseFnL.

    ``overrides`` is a flat sequence KEY, VALUE, KEY, VALUE as on detectron2's command line. Keys in the files that
    detectron2 does not have are warned about and kept in ``unknown_keys``; in ``overrides`` they are refused.

    Raises :class:`~densepose_engine.errors.ConfigError` for unreadable files and for every value that cannot be
    exported, with the dotted key in the message and in ``key``.
    """
    return _build(read_yaml(Path(path)), overrides, str(path))


def config_from_mapping(mapping: Mapping[str, Any], overrides: Sequence[str] = ()) -> ModelConfig:
    """The same for a mapping, such as a live detectron2 ``cfg`` (``CfgNode`` is one)."""
    return _build(mapping, overrides, "the configuration")


def _build(mapping: Mapping[str, Any], overrides: Sequence[str], source: str) -> ModelConfig:
    from .checks import build_config, remarks_on  # it needs the classes above

    tree, unknown = with_defaults(mapping)
    apply_overrides(tree, overrides)
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        names = ", ".join(unknown[:_NAMED]) + more
        warnings.warn(f"{source}: keys that detectron2 does not have, ignored: {names}", UserWarning, stacklevel=3)
    for remark in remarks_on(tree):
        warnings.warn(f"{source}: {remark}", UserWarning, stacklevel=3)
    return build_config(tree, unknown)
