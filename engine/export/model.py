"""The whole network as a torch module whose parameter names are detectron2's.

Loading a checkpoint strictly is therefore the proof that the architecture is the right one. The methods are the parts
that the graph is made of; what lies between them (proposals, RoIAlign, detections) are our own operators.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .config.model_config import EmbeddingPredictorConfig, ModelConfig
from .networks.embedder import Embedder
from .networks.heads import BoxHead, BoxPredictor, Decoder, DensePoseHead, RPNHead, SimpleDecoder
from .networks.necks import build_pyramid
from .networks.predictors import build_predictor
from .networks.shared_block import MobileParsingSharedBlock, ParsingSharedBlock, build_shared_block


class CellAnchors(nn.Module):
    """The anchors around the origin as buffers ``cell_anchors.0``, ... ``(A, 4)``, as the first generation stored them.

    Nobody reads them: they follow from the configuration.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.cell_anchors = nn.Module()
        for index, anchors in enumerate(config.rpn.anchors.cell_anchors()):
            self.cell_anchors.register_buffer(str(index), torch.tensor(anchors))


class ProposalGenerator(nn.Module):
    """Holds ``rpn_head``; proposals themselves are an operator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rpn_head = RPNHead(config.neck.out_channels, config.rpn)
        if config.first_generation:
            self.anchor_generator = CellAnchors(config)


class ROIHeads(nn.Module):
    """Holds what runs on pooled features, and the decoder before the pooling (DensePose ``DensePoseROIHeads``)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels, densepose = config.neck.out_channels, config.densepose
        self.box_head = BoxHead(channels, config.box)
        self.box_predictor = BoxPredictor(self.box_head.out_features, config.box)
        self.decoder: Decoder | SimpleDecoder | None = None
        if densepose.decoder is not None:
            self.decoder = (
                SimpleDecoder()
                if densepose.decoder.simple
                else Decoder(channels, densepose.in_features, densepose.decoder)
            )
        self.shared_block: ParsingSharedBlock | MobileParsingSharedBlock | None = None
        if densepose.shared_block is not None:
            self.shared_block = build_shared_block(channels, densepose.shared_block)
            channels = self.shared_block.out_channels
        self.embedder: Embedder | None = None
        if isinstance(densepose.predictor, EmbeddingPredictorConfig):
            self.embedder = Embedder(densepose.predictor)
        # The head that makes the maps itself has the predictor's place and the head's name.
        if densepose.predictor.kind != "transposed":
            self.densepose_head: nn.Module = build_predictor(channels, densepose.predictor)
            return
        head = DensePoseHead(channels, densepose)
        self.densepose_head = head
        self.densepose_predictor = build_predictor(head.out_channels, densepose.predictor)

    @property
    def map_predictor(self) -> nn.Module:
        """What makes the maps, whatever it is called."""
        return getattr(self, "densepose_predictor", self.densepose_head)

    def head_features(self, pooled: Tensor) -> Tensor:
        """What the predictor reads, from pooled features ``(N, C, P, P)``."""
        x = pooled if self.shared_block is None else self.shared_block(pooled)
        return x if self.densepose_head is self.map_predictor else self.densepose_head(x)


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
        """Levels p2 to p6 of a picture ``(1, 3, H, W)``, normalized, then padded with zeros to multiples of 32."""
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
        """Class logits and box deltas from ``(N, C, P, P)``; see :class:`~.networks.heads.BoxPredictor`."""
        return self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))

    def densepose(self, pooled: Tensor) -> dict[str, Tensor]:
        """Maps by name from ``(N, C, P, P)``; see :class:`~.networks.predictors.MapPredictor`."""
        return self.roi_heads.map_predictor(self.roi_heads.head_features(pooled))

    def vertex_embeddings(self, mesh: str) -> Tensor:
        """float32 ``(V, D)`` of a mesh by its name, of a model with continuous surface embeddings; rows of length 1."""
        if self.roi_heads.embedder is None:
            raise ValueError("this model has charts, no vertices")
        return self.roi_heads.embedder(mesh)
