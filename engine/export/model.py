"""The whole network as a torch module whose parameter names are detectron2's.

Loading a checkpoint strictly is therefore the proof that the architecture is the right one. The methods are the parts
that the graph is made of; what lies between them (proposals, RoIAlign, detections) are our own operators.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .config import ModelConfig
from .heads import BoxHead, BoxPredictor, Decoder, DensePoseHead, DensePosePredictor, RPNHead, SimpleDecoder
from .necks import build_pyramid


class ProposalGenerator(nn.Module):
    """Holds ``rpn_head``; proposals themselves are an operator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rpn_head = RPNHead(config.neck.out_channels, config.rpn)


class ROIHeads(nn.Module):
    """Holds what runs on pooled features, and the decoder before the pooling (DensePose ``DensePoseROIHeads``)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, densepose = config.neck.out_channels, config.densepose
        self.box_head = BoxHead(channels, config.box)
        self.box_predictor = BoxPredictor(self.box_head.out_features)
        self.decoder: Decoder | SimpleDecoder | None = None
        if densepose.decoder is not None:
            self.decoder = (
                SimpleDecoder()
                if densepose.decoder.simple
                else Decoder(channels, densepose.in_features, densepose.decoder)
            )
        self.densepose_head = DensePoseHead(channels, densepose)
        self.densepose_predictor = DensePosePredictor(self.densepose_head.out_channels, densepose.predictor)


class DensePoseRCNN(nn.Module):
    """DensePose R-CNN, for inference: built in evaluation mode, without gradients, with random weights.

    ``checkpoint.load_weights`` fills it. All tensors are float32. ``pyramid`` takes one picture; N counts boxes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_pyramid(config)
        self.proposal_generator = ProposalGenerator(config)
        self.roi_heads = ROIHeads(config)
        self.requires_grad_(False)
        self.eval()

    @property
    def box_strides(self) -> tuple[int, ...]:
        """Strides of the levels that the box pooler reads."""
        return self.config.box.pooler.strides

    @property
    def densepose_strides(self) -> tuple[int, ...]:
        """Strides of what :meth:`densepose_features` returns."""
        return self.config.densepose.pooler.strides

    def pyramid(self, image: Tensor) -> dict[str, Tensor]:
        """Levels p2 to p6 of a picture ``(1, 3, H, W)``, normalised, then padded with zeros to multiples of 32."""
        return self.backbone(image)

    def rpn(self, levels: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per level of ``MODEL.RPN.IN_FEATURES``: objectness logits ``(1, A, H, W)``, deltas ``(1, 4A, H, W)``."""
        return [self.proposal_generator.rpn_head(levels[name]) for name in self.config.rpn.in_features]

    def box_features(self, levels: Mapping[str, Tensor]) -> list[Tensor]:
        """The levels that the box pooler reads."""
        return [levels[name] for name in self.config.box.in_features]

    def densepose_features(self, levels: Mapping[str, Tensor]) -> list[Tensor]:
        """The levels that the DensePose pooler reads: one where there is a decoder, else the box pooler's."""
        features = [levels[name] for name in self.config.densepose.in_features]
        return features if self.roi_heads.decoder is None else [self.roi_heads.decoder(features)]

    def box(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``(N, 2)``, background last, and box deltas ``(N, 4)`` from ``(N, C, P, P)``."""
        return self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))

    def densepose(self, pooled: Tensor) -> dict[str, Tensor]:
        """Maps by name from ``(N, C, P, P)``; see :class:`~.heads.DensePosePredictor`."""
        return self.roi_heads.densepose_predictor(self.roi_heads.densepose_head(pooled))
