"""What makes a person's maps from the head's features, with detectron2's parameter names. N is the number of boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ..config.model_config import EmbeddingPredictorConfig, PredictorConfig
from .layers import upsample_bilinear, upsample_nearest

Layer = nn.Conv2d | nn.ConvTranspose2d


class MapPredictor(nn.Module):
    """Convolutions to maps, enlarged bilinearly; what follows them is one function of the maps.

    ``names``: of the maps, by the convolutions' parameter names where they are not these without ``_lowres``.
    """

    names: ClassVar[Mapping[str, str]] = {}
    config: PredictorConfig | EmbeddingPredictorConfig

    def layers(self) -> dict[str, Layer]:
        """The convolutions by the name of the map that each makes."""
        return {
            self.names.get(child, child.removesuffix("_lowres")): layer
            for child, layer in self.named_children()
            if isinstance(layer, Layer)
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps by name, each ``(N, channels, S, S)`` with S = ``config.map_scale`` × the head's size."""
        if self.config.kind == "nearest_conv3":
            x = upsample_nearest(x)
        return self.combine(
            {name: upsample_bilinear(layer(x), self.config.up_scale) for name, layer in self.layers().items()}
        )

    def combine(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """What follows the convolutions."""
        raise NotImplementedError


def scaled_by_confidence(maps: dict[str, Tensor], names: tuple[str, ...], epsilon: float) -> dict[str, Tensor]:
    """Confidences of the segmentation become positive and scale its logits."""
    maps = dict(maps)
    for name in names:
        confidence = F.softplus(maps[f"{name}_confidence"]) + epsilon
        maps[f"{name}_confidence"] = confidence
        maps[name] = maps[name] * confidence
    return maps


def _transposed(channels: int, kernel: int) -> Callable[[int], Layer]:
    def layer(out_channels: int) -> Layer:
        return nn.ConvTranspose2d(channels, out_channels, kernel, stride=2, padding=kernel // 2 - 1)

    return layer


class ChartPredictor(MapPredictor):
    """Maps of charts (DensePose ``predictors/chart.py`` and ``chart_confidence.py``).

    Always ``coarse_segm``, ``fine_segm``, ``u``, ``v``; with confidences also ``sigma_2`` (and ``kappa_u``,
    ``kappa_v`` for "indep_aniso"), raw as detectron2 returns them, and ``fine_segm_confidence``,
    ``coarse_segm_confidence``, which have already scaled the logits.

    For ``config.kind`` other than "transposed" they are the 3×3 convolutions that DensePoseFnL's first generation calls
    ``DensePoseConv3Head`` and, of features doubled in size, ``DensePoseNearestConv3Head``.
    """

    names: ClassVar[Mapping[str, str]] = {"ann_index_lowres": "coarse_segm", "index_uv_lowres": "fine_segm"}
    config: PredictorConfig

    def __init__(self, channels: int, config: PredictorConfig) -> None:
        super().__init__()
        transposed = _transposed(channels, config.deconv_kernel)

        def layer(out_channels: int) -> Layer:
            if config.kind == "transposed":
                return transposed(out_channels)
            return nn.Conv2d(channels, out_channels, 3, padding=1)

        parts = config.num_parts + 1
        self.ann_index_lowres = layer(config.coarse_channels)
        self.index_uv_lowres = layer(parts)
        self.u_lowres = layer(parts)
        self.v_lowres = layer(parts)
        if config.uv_confidence is not None:
            self.sigma_2_lowres = layer(parts)
        if config.uv_confidence == "indep_aniso":
            self.kappa_u_lowres = layer(parts)
            self.kappa_v_lowres = layer(parts)
        if config.segm_confidence:
            self.fine_segm_confidence_lowres = layer(1)
            self.coarse_segm_confidence_lowres = layer(1)
        self.config = config

    def combine(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.config.segm_confidence:
            return maps
        return scaled_by_confidence(maps, ("fine_segm", "coarse_segm"), self.config.segm_confidence_epsilon)


class EmbeddingPredictor(MapPredictor):
    """Maps of continuous surface embeddings (DensePose ``predictors/cse.py`` and ``cse_confidence.py``).

    ``coarse_segm`` and ``embedding``, whose values are not normalized; with confidences also
    ``coarse_segm_confidence``, which has already scaled the logits.
    """

    names: ClassVar[Mapping[str, str]] = {"embed_lowres": "embedding"}
    config: EmbeddingPredictorConfig

    def __init__(self, channels: int, config: EmbeddingPredictorConfig) -> None:
        super().__init__()
        layer = _transposed(channels, config.deconv_kernel)
        self.coarse_segm_lowres = layer(config.coarse_channels)
        self.embed_lowres = layer(config.embedding_size)
        if config.segm_confidence:
            self.coarse_segm_confidence_lowres = layer(1)
        self.config = config

    def combine(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.config.segm_confidence:
            return maps
        return scaled_by_confidence(maps, ("coarse_segm",), self.config.segm_confidence_epsilon)


def build_predictor(channels: int, config: PredictorConfig | EmbeddingPredictorConfig) -> MapPredictor:
    """The predictor of a configuration, of head features of ``channels``."""
    if isinstance(config, EmbeddingPredictorConfig):
        return EmbeddingPredictor(channels, config)
    return ChartPredictor(channels, config)
