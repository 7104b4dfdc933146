"""Tables of the supported architectures: data only, so that the configuration can be checked without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Values of the ``NORM`` keys that can be exported; the empty string is no normalisation.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN")
#: Groups of every GroupNorm in detectron2 (``get_norm("GN")``): its channels must be a multiple of this.
GROUP_NORM_GROUPS = 32

#: Stride of every level that a neck gives, finest first.
PYRAMID_STRIDES: Mapping[str, int] = MappingProxyType({"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64})

#: ``MODEL.RESNETS.DEPTH`` -> bottleneck blocks in res2, res3, res4, res5 (detectron2 ``modeling/backbone/resnet.py``).
RESNET_BLOCKS: Mapping[int, tuple[int, int, int, int]] = MappingProxyType(
    {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
)


@dataclass(frozen=True)
class MobileStage:
    """One stage of a mobile backbone; only its first block may have a stride.

    ``blocks`` holds (kernel, expansion) per block. Expansion 0 stands for a depthwise-separable block without one.
    """

    stride: int
    out_channels: int
    blocks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class MobileArchitecture:
    """A backbone made of inverted residual blocks, with timm's parameter names (BatchNorm eps 1e-5)."""

    stem_channels: int
    activation: str
    stages: tuple[MobileStage, ...]

    @property
    def tapped_stages(self) -> tuple[int, ...]:
        """Indices of the stages whose last block is tapped: those that end a resolution, but the first (stride 2)."""
        ends = [i + 1 == len(self.stages) or self.stages[i + 1].stride > 1 for i in range(len(self.stages))]
        return tuple(i for i, end in enumerate(ends) if end)[1:]

    @property
    def tap_channels(self) -> tuple[int, ...]:
        """Channels of the taps: the last block's expanded width, at strides 4, 8, 16, 32."""
        return tuple(self._block_input(i) * self.stages[i].blocks[-1][1] for i in self.tapped_stages)

    def _block_input(self, stage: int) -> int:
        """Input channels of the stage's last block."""
        return self.stages[stage if len(self.stages[stage].blocks) > 1 else stage - 1].out_channels


#: ``MODEL.TIMMNETS.NAME`` -> architecture. EfficientNet-Lite0 (https://github.com/tensorflow/tpu, efficientnet/lite):
#: EfficientNet-B0 without squeeze-and-excitation, with ReLU6 and a stem that is not scaled.
#: Single-Path NAS (https://arxiv.org/abs/1904.02877).
MOBILE_ARCHITECTURES: Mapping[str, MobileArchitecture] = MappingProxyType(
    {
        "efficientnet_lite0": MobileArchitecture(
            stem_channels=32,
            activation="relu6",
            stages=(
                MobileStage(1, 16, ((3, 0),)),
                MobileStage(2, 24, ((3, 6),) * 2),
                MobileStage(2, 40, ((5, 6),) * 2),
                MobileStage(2, 80, ((3, 6),) * 3),
                MobileStage(1, 112, ((5, 6),) * 3),
                MobileStage(2, 192, ((5, 6),) * 4),
                MobileStage(1, 320, ((3, 6),)),
            ),
        ),
        "spnasnet_100": MobileArchitecture(
            stem_channels=32,
            activation="relu",
            stages=(
                MobileStage(1, 16, ((3, 0),)),
                MobileStage(2, 24, ((3, 3),) * 3),
                MobileStage(2, 40, ((5, 6), (3, 3), (3, 3), (3, 3))),
                MobileStage(2, 80, ((5, 6), (3, 3), (3, 3), (3, 3))),
                MobileStage(1, 96, ((5, 6), (5, 3), (5, 3), (5, 3))),
                MobileStage(2, 192, ((5, 6),) * 4),
                MobileStage(1, 320, ((3, 6),)),
            ),
        ),
    }
)
