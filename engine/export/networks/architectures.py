"""Tables of the supported architectures: data only, so that the configuration can be checked without torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: Values of the ``NORM`` keys that can be exported; the empty string is no normalization.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN")
#: Groups of every GroupNorm in detectron2 (``get_norm("GN")``): its channels must be a multiple of this.
GROUP_NORM_GROUPS = 32

#: Stride of every level that a neck gives, finest first.
PYRAMID_STRIDES: Mapping[str, int] = MappingProxyType({"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64})

#: ``MODEL.RESNETS.DEPTH`` -> bottleneck blocks in res2, res3, res4, res5 (detectron2 ``modeling/backbone/resnet.py``).
RESNET_BLOCKS: Mapping[int, tuple[int, int, int, int]] = MappingProxyType(
    {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
)
