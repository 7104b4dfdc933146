"""The 24 mobile backbones as data.

The numbers are those of timm 0.4.12 (``models/efficientnet.py``, ``models/mobilenetv3.py``) before its multipliers are
applied. To add a network, see ``docs/how-to/add-a-backbone.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from .mobile_blocks import Excitation, MobileArchitecture, Row

# Kernels, expansion, channels, repeats, ...; depthwise separable blocks and edge residuals are all 3×3.
_ir = partial(Row, "ir")
_ds = partial(Row, "ds", (3,), 1)
_er = partial(Row, "er", (3,))


def _with(rows: tuple[tuple[Row, ...], ...], stages: range, **changes: Any) -> tuple[tuple[Row, ...], ...]:
    """The same rows with changes in some stages."""
    return tuple(
        tuple(replace(row, **changes) if index in stages else row for row in stage) for index, stage in enumerate(rows)
    )


_ALL = range(16)
#: EfficientNet (https://arxiv.org/abs/1905.11946) without its squeeze-and-excitation.
_EFFICIENTNET_LITE = (
    (_ds(16),),
    (_ir((3,), 6, 24, 2, stride=2),),
    (_ir((5,), 6, 40, 2, stride=2),),
    (_ir((3,), 6, 80, 3, stride=2),),
    (_ir((5,), 6, 112, 3),),
    (_ir((5,), 6, 192, 4, stride=2),),
    (_ir((3,), 6, 320),),
)
_EFFICIENTNET = MobileArchitecture(32, "swish", _with(_EFFICIENTNET_LITE, _ALL, excitation=0.25))
#: EfficientNet-EdgeTPU (https://github.com/tensorflow/tpu, efficientnet/edgetpu).
_EFFICIENTNET_EDGE = MobileArchitecture(
    32,
    "relu",
    (
        (_er(4, 24, skip=False, expanded_from=24),),
        (_er(8, 32, 2, stride=2),),
        (_er(8, 48, 4, stride=2),),
        (_ir((5,), 8, 96, 5, stride=2),),
        (_ir((5,), 8, 144, 4),),
        (_ir((5,), 8, 192, 2, stride=2),),
    ),
    same_padding=True,
)
#: MixNet (https://arxiv.org/abs/1907.09595).
_MIXNET_S = MobileArchitecture(
    16,
    "relu",
    (
        (_ds(16),),
        (
            _ir((3,), 6, 24, stride=2, expand_groups=2, project_groups=2),
            _ir((3,), 3, 24, expand_groups=2, project_groups=2),
        ),
        (
            _ir((3, 5, 7), 6, 40, stride=2, excitation=0.5, activation="swish"),
            _ir((3, 5), 6, 40, 3, expand_groups=2, project_groups=2, excitation=0.5, activation="swish"),
        ),
        (
            _ir((3, 5, 7), 6, 80, stride=2, project_groups=2, excitation=0.25, activation="swish"),
            _ir((3, 5), 6, 80, 2, project_groups=2, excitation=0.25, activation="swish"),
        ),
        (
            _ir((3, 5, 7), 6, 120, expand_groups=2, project_groups=2, excitation=0.5, activation="swish"),
            _ir((3, 5, 7, 9), 3, 120, 2, expand_groups=2, project_groups=2, excitation=0.5, activation="swish"),
        ),
        (
            _ir((3, 5, 7, 9, 11), 6, 200, stride=2, excitation=0.5, activation="swish"),
            _ir((3, 5, 7, 9), 6, 200, 2, project_groups=2, excitation=0.5, activation="swish"),
        ),
    ),
)
_MIXNET_M = MobileArchitecture(
    24,
    "relu",
    (
        (_ds(24),),
        (
            _ir((3, 5, 7), 6, 32, stride=2, expand_groups=2, project_groups=2),
            _ir((3,), 3, 32, expand_groups=2, project_groups=2),
        ),
        (
            _ir((3, 5, 7, 9), 6, 40, stride=2, excitation=0.5, activation="swish"),
            _ir((3, 5), 6, 40, 3, expand_groups=2, project_groups=2, excitation=0.5, activation="swish"),
        ),
        (
            _ir((3, 5, 7), 6, 80, stride=2, excitation=0.25, activation="swish"),
            _ir((3, 5, 7, 9), 6, 80, 3, expand_groups=2, project_groups=2, excitation=0.25, activation="swish"),
        ),
        (
            _ir((3,), 6, 120, excitation=0.5, activation="swish"),
            _ir((3, 5, 7, 9), 3, 120, 3, expand_groups=2, project_groups=2, excitation=0.5, activation="swish"),
        ),
        (
            _ir((3, 5, 7, 9), 6, 200, stride=2, excitation=0.5, activation="swish"),
            _ir((3, 5, 7, 9), 6, 200, 3, project_groups=2, excitation=0.5, activation="swish"),
        ),
    ),
    depth_rounding="nearest",
)
#: MobileNetV3 (https://arxiv.org/abs/1905.02244); the variants differ in squeeze-and-excitation, and in padding.
_MOBILENETV3_LARGE = (
    (_ds(16, activation="relu"),),
    (_ir((3,), 4, 24, stride=2, activation="relu"), _ir((3,), 3, 24, activation="relu")),
    (_ir((5,), 3, 40, 3, stride=2, activation="relu", excitation=0.25),),
    (_ir((3,), 6, 80, stride=2), _ir((3,), 2.5, 80), _ir((3,), 2.3, 80, 2)),
    (_ir((3,), 6, 112, 2, excitation=0.25),),
    (_ir((5,), 6, 160, 3, stride=2, excitation=0.25),),
    (Row("cn", (1,), 1, 960),),
)
_MOBILENETV3_SMALL = (
    (_ds(16, stride=2, activation="relu", excitation=0.25),),
    (_ir((3,), 4.5, 24, stride=2, activation="relu"), _ir((3,), 3.67, 24, activation="relu")),
    (_ir((5,), 4, 40, stride=2, excitation=0.25), _ir((5,), 6, 40, 2, excitation=0.25)),
    (_ir((5,), 3, 48, 2, excitation=0.25),),
    (_ir((5,), 6, 96, 3, stride=2, excitation=0.25),),
    (Row("cn", (1,), 1, 576),),
)
_TF_MOBILENETV3 = MobileArchitecture(
    16,
    "hard_swish",
    _MOBILENETV3_LARGE,
    Excitation("inner", "multiple_of_8", "relu", "hard_sigmoid"),
    same_padding=True,
)


def _minimal(stages: tuple[tuple[Row, ...], ...]) -> MobileArchitecture:
    """MobileNetV3 for processors that dislike its refinements: ReLU, 3×3 kernels, no squeeze-and-excitation."""
    plain = tuple(
        tuple(replace(row, kernels=(min(3, *row.kernels, 3),), activation="relu", excitation=0.0) for row in rows)
        for rows in stages
    )
    return replace(_TF_MOBILENETV3, activation="relu", stages=plain)


_SMALL = replace(_TF_MOBILENETV3, stages=_MOBILENETV3_SMALL)

#: ``MODEL.TIMMNETS.NAME`` and ``MODEL.EFFICIENTNETS.NAME`` -> architecture.
MOBILE_ARCHITECTURES: Mapping[str, MobileArchitecture] = MappingProxyType(
    {
        "efficientnet_b0": _EFFICIENTNET,
        "efficientnet_b1": replace(_EFFICIENTNET, depth=1.1),
        "efficientnet_b2": replace(_EFFICIENTNET, width=1.1, depth=1.2),
        "efficientnet_lite0": MobileArchitecture(32, "relu6", _EFFICIENTNET_LITE),
        # FBNet (https://arxiv.org/abs/1812.03443). A block of expansion 1 has its expanding convolution all the same.
        "fbnetc_100": MobileArchitecture(
            16,
            "relu",
            (
                (_ir((3,), 1, 16),),
                (_ir((3,), 6, 24, stride=2), _ir((3,), 1, 24, 2)),
                (_ir((5,), 6, 32, stride=2), _ir((5,), 3, 32), _ir((5,), 6, 32), _ir((3,), 6, 32)),
                (_ir((5,), 6, 64, stride=2), _ir((5,), 3, 64), _ir((5,), 6, 64, 2)),
                (_ir((5,), 6, 112, 3), _ir((5,), 3, 112)),
                (_ir((5,), 6, 184, 4, stride=2),),
                (_ir((3,), 6, 352),),
            ),
        ),
        "mixnet_l": replace(_MIXNET_M, width=1.3),
        "mixnet_m": _MIXNET_M,
        "mixnet_s": _MIXNET_S,
        "mixnet_xl": replace(_MIXNET_M, width=1.6, depth=1.2),
        # MnasNet (https://arxiv.org/abs/1807.11626).
        "mnasnet_a1": MobileArchitecture(
            32,
            "relu",
            (
                (_ds(16, skip=False),),
                (_ir((3,), 6, 24, 2, stride=2),),
                (_ir((5,), 3, 40, 3, stride=2, excitation=0.25),),
                (_ir((3,), 6, 80, 4, stride=2),),
                (_ir((3,), 6, 112, 2, excitation=0.25),),
                (_ir((5,), 6, 160, 3, stride=2, excitation=0.25),),
                (_ir((3,), 6, 320),),
            ),
        ),
        "mnasnet_b1": MobileArchitecture(
            32,
            "relu",
            (
                (_ds(16, skip=False),),
                (_ir((3,), 3, 24, 3, stride=2),),
                (_ir((5,), 3, 40, 3, stride=2),),
                (_ir((5,), 6, 80, 3, stride=2),),
                (_ir((3,), 6, 96, 2),),
                (_ir((5,), 6, 192, 4, stride=2),),
                (_ir((3,), 6, 320),),
            ),
        ),
        "mobilenetv3_rw": MobileArchitecture(
            16,
            "hard_swish",
            ((replace(_MOBILENETV3_LARGE[0][0], skip=False),), *_MOBILENETV3_LARGE[1:]),
            Excitation("inner", gate="hard_sigmoid"),
        ),
        # Single-Path NAS (https://arxiv.org/abs/1904.02877).
        "spnasnet_100": MobileArchitecture(
            32,
            "relu",
            (
                (_ds(16, skip=False),),
                (_ir((3,), 3, 24, 3, stride=2),),
                (_ir((5,), 6, 40, stride=2), _ir((3,), 3, 40, 3)),
                (_ir((5,), 6, 80, stride=2), _ir((3,), 3, 80, 3)),
                (_ir((5,), 6, 96), _ir((5,), 3, 96, 3)),
                (_ir((5,), 6, 192, 4, stride=2),),
                (_ir((3,), 6, 320),),
            ),
        ),
        "tf_efficientnet_b3": replace(_EFFICIENTNET, width=1.2, depth=1.4, same_padding=True),
        # CondConv (https://arxiv.org/abs/1904.04971) in the last three stages.
        "tf_efficientnet_cc_b0_4e": replace(
            _EFFICIENTNET, stages=_with(_EFFICIENTNET.stages, range(4, 7), experts=4), same_padding=True
        ),
        "tf_efficientnet_el": replace(_EFFICIENTNET_EDGE, width=1.2, depth=1.4),
        "tf_efficientnet_em": replace(_EFFICIENTNET_EDGE, depth=1.1),
        "tf_efficientnet_es": _EFFICIENTNET_EDGE,
        "tf_mobilenetv3_large_075": replace(_TF_MOBILENETV3, width=0.75),
        "tf_mobilenetv3_large_100": _TF_MOBILENETV3,
        "tf_mobilenetv3_large_minimal_100": _minimal(_MOBILENETV3_LARGE),
        "tf_mobilenetv3_small_075": replace(_SMALL, width=0.75),
        "tf_mobilenetv3_small_100": _SMALL,
        "tf_mobilenetv3_small_minimal_100": _minimal(_MOBILENETV3_SMALL),
    }
)
