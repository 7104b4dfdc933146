"""Checks of the keys that only DensePoseFnL's first generation has: its trunks and its shared block."""

from __future__ import annotations

from typing import Literal, cast

from ..networks.mobile_architectures import MOBILE_ARCHITECTURES
from ..networks.mobile_blocks import mobile_blocks, stage_strides
from .detectron2_yaml import Values
from .model_config import MAX_CHANNELS, MAX_LAYERS, MobileBackboneConfig, SharedBlockConfig

EFFICIENTNET_FPN, EFFICIENTNET_BIFPN = "build_efficientnet_fpn_backbone", "build_efficientnetv2_bifpn_backbone"
#: TensorFlow's eps of BatchNorm; all others have 1e-5.
TENSORFLOW_EPS = 1e-3
#: The trunk of ``build_efficientnetv2_bifpn_backbone``, whatever ``NAME`` says.
_BIFPN_TRUNK = "spnasnet_100"
_KEY = "MODEL.EFFICIENTNETS."
_BLOCK = "MODEL.ROI_SHARED_BLOCK."
#: ``MODEL.ROI_DENSEPOSE_HEAD.NAME`` of the heads that make the maps themselves -> kind of the predictor.
MAP_HEADS: dict[str, Literal["nearest_conv3", "conv3"]] = {
    "DensePoseNearestConv3Head": "nearest_conv3",
    "DensePoseConv3Head": "conv3",
}


def bifpn_trunk(values: Values) -> MobileBackboneConfig:
    """The trunk of Mobile-RCNN B."""
    name = values.raw(_KEY + "NAME")
    if not isinstance(name, str):
        raise values.refuse(_KEY + "NAME", "a name, which this backbone ignores")
    if tuple(values.integers(_KEY + "OUT_FEATURES")) != (1, 2, 3, 4):
        raise values.refuse(_KEY + "OUT_FEATURES", "[1, 2, 3, 4], the features at strides 4, 8, 16, 32")
    # The stem and the first two stages are frozen whatever FREEZE_AT says; a name with "tf" changes eps all the same.
    return MobileBackboneConfig(_BIFPN_TRUNK, _eps(name), _frozen_parts(values, _BIFPN_TRUNK, 3))


def fpn_trunk(values: Values) -> MobileBackboneConfig:
    """The trunk of Mobile-RCNN A: outputs of stages, and what comes after the last of them is cut off."""
    name = values.text(_KEY + "NAME", list(MOBILE_ARCHITECTURES))
    stages = mobile_blocks(MOBILE_ARCHITECTURES[name])
    names = [f"s{index}" for index in range(len(stages))]
    given = values.names(_KEY + "OUT_FEATURES", names)
    used = values.names("MODEL.FPN.IN_FEATURES", names)
    strides = dict(zip(names, stage_strides(stages), strict=True))
    if [strides[one] for one in used] != [4, 8, 16, 32] or not set(used) <= set(given):
        of_stride = {stride: "/".join(n for n in names if strides[n] == stride) for stride in (4, 8, 16, 32)}
        raise values.refuse(
            "MODEL.FPN.IN_FEATURES",
            f"four stages of {name} at strides 4, 8, 16, 32 that MODEL.EFFICIENTNETS.OUT_FEATURES names too: one each "
            f"of {', '.join(of_stride.values())}",
        )
    if list(given) != sorted(given, key=names.index):
        raise values.refuse(_KEY + "OUT_FEATURES", "the stages in the network's order")
    # -1 freezes the stem alone.
    freeze_at = values.integer("MODEL.BACKBONE.FREEZE_AT", -(10**6), len(stages))
    return MobileBackboneConfig(
        name,
        _eps(name),
        _frozen_parts(values, name, max(0, freeze_at + 2)),
        output_stages=tuple(names.index(one) for one in used),
        kept_stages=names.index(given[-1]) + 1,
        stride_in_projection=True,
    )


def _eps(name: str) -> float:
    # geffnet was called without `pretrained`, so the networks that were trained with 1e-3 elsewhere have 1e-5 here.
    return TENSORFLOW_EPS if "tf" in name else 1e-5


def _frozen_parts(values: Values, name: str, otherwise: int) -> int:
    if values.text(_KEY + "NORM", ["FrozenBN", "BN", "SyncBN"]) == "FrozenBN":
        return 1 + len(MOBILE_ARCHITECTURES[name].stages)
    return otherwise


def shared_block(values: Values, channels: int) -> SharedBlockConfig:
    """``MODEL.ROI_SHARED_BLOCK`` on maps of ``channels``."""
    names = {"ParsingSharedBlock": "parsing", "MobileParsingSharedBlock": "mobile"}
    kind = cast(Literal["parsing", "mobile"], names[values.text(_BLOCK + "NAME", list(names))])
    parsing = kind == "parsing"
    kernel = values.integer(_BLOCK + "CONV_HEAD_KERNEL", 1, 15)
    if kernel % 2 == 0:
        raise values.refuse(_BLOCK + "CONV_HEAD_KERNEL", "odd sizes, which keep height and width")
    conv_dim = values.integer(_BLOCK + "CONV_HEAD_DIM", 1, MAX_CHANNELS)
    dilations = tuple(values.integers(_BLOCK + "ASPP_DILATION"))
    if len(dilations) != 3 or not all(1 <= d <= 256 for d in dilations):
        raise values.refuse(_BLOCK + "ASPP_DILATION", "three whole numbers from 1 to 256")
    # The mobile block has neither convolutions before its ASPP nor attention, and its ASPP keeps the channels.
    before = values.integer(_BLOCK + "NUM_CONVS_BEFORE_ASPP_NL", 0, MAX_LAYERS) if parsing else 0
    aspp = values.flag(_BLOCK + "ASPP_ON")
    if not aspp and not before and channels != conv_dim:
        raise values.refuse(_BLOCK + "ASPP_ON", f"true, because nothing else makes {conv_dim} channels of {channels}")
    non_local = None
    if parsing and values.flag(_BLOCK + "NONLOCAL_ON"):
        ratio = values.number(_BLOCK + "NONLOCAL_REDUCTION_RATIO", 0.0, 16.0)
        non_local = int(conv_dim * ratio)
        if not 1 <= non_local <= MAX_CHANNELS:
            raise values.refuse(_BLOCK + "NONLOCAL_REDUCTION_RATIO", "a ratio that leaves a channel to the attention")
    return SharedBlockConfig(
        kind=kind,
        aspp_dim=values.integer(_BLOCK + "ASPP_DIM", 1, MAX_CHANNELS) if aspp else None,
        dilations=cast(tuple[int, int, int], dilations),
        non_local_dim=non_local,
        non_local_pooled=values.flag(_BLOCK + "NONLOCAL_USE_MAXPOOL"),
        non_local_norm=values.flag(_BLOCK + "NONLOCAL_USE_BN"),
        convs_before=before,
        convs_after=values.integer(_BLOCK + "NUM_CONVS_AFTER_ASPP_NL", 0, MAX_LAYERS),
        conv_dim=conv_dim,
        conv_kernel=kernel,
    )
