"""Which generation a checkpoint is of, told by its names: what to say when it meets the other one's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.model_config import ModelConfig

_HEADS = "roi_heads."
_OLD_KEYS = (
    "MODEL.ROI_DENSEPOSE_HEAD.DECODER_ON False "
    "MODEL.ROI_DENSEPOSE_HEAD.NUM_COARSE_SEGM_CHANNELS 15 "
    "MODEL.ROI_DENSEPOSE_HEAD.POOLER_RESOLUTION 14"
)


def advice(config: ModelConfig, weights: Mapping[str, Any]) -> str | None:
    """A sentence for a checkpoint that does not fit ``config``, if its names say why; else None.

    ``weights`` maps names to arrays or tensors, of which only shapes are read.
    """

    def some(prefix: str) -> bool:
        return any(name.startswith(_HEADS + prefix) for name in weights)

    if any(".weight_fake_quant." in name for name in weights):
        return (
            "It was trained with simulated quantization (DensePoseFnL's --qat). Give the float checkpoint that this "
            "training began with; 'calibrate' and 'build' make INT8 of it"
        )
    if some("shared_block.") != (config.densepose.shared_block is not None):
        if some("shared_block."):
            return (
                "It is of DensePoseFnL's first generation, whose Parsing R-CNN has other layers: give the YAML that it "
                "was trained with, which says MODEL.ROI_HEADS.NAME SharedROIHeads and MODEL.ROI_SHARED_BLOCK"
            )
        return (
            "The configuration is of DensePoseFnL's first generation (MODEL.ROI_HEADS.NAME SharedROIHeads), the "
            "checkpoint is not: give the YAML that it was trained with"
        )
    if config.densepose.decoder is not None and not some("decoder.") and _coarse_channels(weights) == 15:
        return (
            "It is of DensePose's first version (DensePoseFnL's first generation, or detectron2's 'legacy'), before "
            f"the decoder; the same YAML means another network today. Set these keys: --opts {_OLD_KEYS}"
        )
    return None


def _coarse_channels(weights: Mapping[str, Any]) -> int | None:
    shape = tuple(getattr(weights.get(_HEADS + "densepose_predictor.ann_index_lowres.weight"), "shape", ()))
    return int(shape[1]) if len(shape) == 4 else None
