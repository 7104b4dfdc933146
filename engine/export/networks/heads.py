"""Proposal, box and DensePose heads, with detectron2's parameter names. N is the number of boxes throughout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config.model_config import BoxHeadConfig, DecoderConfig, DensePoseConfig, RpnConfig
from .architectures import GROUP_NORM_GROUPS, PYRAMID_STRIDES
from .layers import Conv2d, UpsampleBilinear, make_norm


class RPNHead(nn.Module):
    """Objectness and box deltas per anchor, shared by all levels (detectron2 ``StandardRPNHead``)."""

    def __init__(self, channels: int, config: RpnConfig) -> None:
        super().__init__()
        convs = []
        for width in config.conv_dims:
            out_channels = channels if width == -1 else width
            convs.append(Conv2d(channels, out_channels, 3, padding=1, activation=F.relu))
            channels = out_channels
        # detectron2 names a single convolution `conv` and several `conv.conv0`, `conv.conv1`, ...
        self.conv: nn.Module = convs[0] if len(convs) == 1 else nn.Sequential()
        if isinstance(self.conv, nn.Sequential):
            for index, conv in enumerate(convs):
                self.conv.add_module(f"conv{index}", conv)
        anchors = config.anchors.per_location
        self.objectness_logits = nn.Conv2d(channels, anchors, 1)
        self.anchor_deltas = nn.Conv2d(channels, anchors * 4, 1)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Objectness logits ``(1, A, H, W)`` and deltas ``(1, 4A, H, W)``, the four of an anchor side by side."""
        hidden = self.conv(level)
        return self.objectness_logits(hidden), self.anchor_deltas(hidden)


class BoxHead(nn.Sequential):
    """3×3 convolutions, then fully connected layers, each with ReLU (detectron2 ``FastRCNNConvFCHead``)."""

    def __init__(self, channels: int, config: BoxHeadConfig) -> None:
        super().__init__()
        for index in range(config.num_conv):
            conv = Conv2d(channels, config.conv_dim, 3, padding=1, norm=config.norm, activation=F.relu)
            self.add_module(f"conv{index + 1}", conv)
            channels = config.conv_dim
        features = channels * config.pooler.resolution**2
        self.add_module("flatten", nn.Flatten())
        for index in range(config.num_fc):
            self.add_module(f"fc{index + 1}", nn.Linear(features, config.fc_dim))
            self.add_module(f"fc_relu{index + 1}", nn.ReLU())
            features = config.fc_dim
        self.out_features = features


class BoxPredictor(nn.Module):
    """Class logits and box deltas (detectron2 ``FastRCNNOutputLayers``)."""

    def __init__(self, features: int, config: BoxHeadConfig) -> None:
        super().__init__()
        self.cls_score = nn.Linear(features, config.num_classes + 1)
        self.bbox_pred = nn.Linear(features, config.deltas)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(N, classes + 1)``, background last, and deltas ``(N, 4 classes)``, or ``(N, 4)`` for all."""
        return self.cls_score(x), self.bbox_pred(x)


class Decoder(nn.Module):
    """Merges all levels into one of the finest level's stride (DensePose ``roi_heads/roi_head.py``).

    From Panoptic Feature Pyramid Networks, https://arxiv.org/abs/1901.02446.
    """

    def __init__(self, channels: int, in_features: Sequence[str], config: DecoderConfig) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        finest = PYRAMID_STRIDES[self.in_features[0]]
        for name in self.in_features:
            doublings = (PYRAMID_STRIDES[name] // finest).bit_length() - 1
            layers: list[nn.Module] = []
            width = channels
            for _ in range(max(1, doublings)):
                conv = Conv2d(width, config.conv_dims, 3, padding=1, norm=config.norm, activation=F.relu)
                layers += [conv, UpsampleBilinear(2)] if doublings else [conv]
                width = config.conv_dims
            self.add_module(name, nn.Sequential(*layers))
        self.predictor = Conv2d(config.conv_dims, config.out_channels, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        merged = self.get_submodule(self.in_features[0])(levels[0])
        for name, level in zip(self.in_features[1:], levels[1:], strict=True):
            merged = merged + self.get_submodule(name)(level)
        return self.predictor(merged)


class SimpleDecoder(nn.Module):
    """DensePoseFnL's decoder: the finest level as it is, without parameters."""

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        return levels[0]


class ImageLevelFeatures(nn.Sequential):
    """Image-level features of the ASPP: mean over the box, convolution, and the result repeated everywhere.

    detectron2 resizes the 1×1 map bilinearly; of one pixel that is a repetition.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).expand(-1, -1, x.shape[-2], x.shape[-1])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (https://arxiv.org/abs/1706.05587; DensePose ``roi_heads/deeplab.py``).

    With ``norm`` "GN" (DensePose) branches have GroupNorm and no bias; with "" (DensePoseFnL) a bias instead.
    """

    def __init__(self, channels: int, dilations: Sequence[int], norm: str) -> None:
        super().__init__()

        def branch(kernel: int, dilation: int) -> list[nn.Module]:
            padding = dilation if kernel > 1 else 0
            layers: list[nn.Module] = [
                nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, bias=norm == "")
            ]
            if norm == "GN":
                layers.append(nn.GroupNorm(GROUP_NORM_GROUPS, channels))
            return [*layers, nn.ReLU()]

        self.convs = nn.ModuleList([nn.Sequential(*branch(1, 1))])
        self.convs.extend(nn.Sequential(*branch(3, dilation)) for dilation in dilations)
        self.convs.append(ImageLevelFeatures(nn.AdaptiveAvgPool2d(1), *branch(1, 1)))
        self.project = nn.Sequential(nn.Conv2d(len(self.convs) * channels, channels, 1, bias=norm == ""), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class NonLocalBlock(nn.Module):
    """Embedded-Gaussian attention over the box (https://arxiv.org/abs/1711.07971; DensePose ``NONLocalBlock2D``).

    Keys and values are max-pooled by two where ``pooled``; the scores are not scaled. ``norm`` is "GN" (DensePose),
    "BN" or "" (DensePoseFnL's first generation), which is one layer less.
    """

    def __init__(self, channels: int, inner: int | None = None, norm: str = "GN", pooled: bool = True) -> None:
        super().__init__()
        inner = inner or max(1, channels // 2)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi, self.g = (
            nn.Sequential(conv, nn.MaxPool2d(2)) if pooled else conv
            for conv in (nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1))
        )
        last = nn.Conv2d(inner, channels, 1)
        normalization = make_norm(norm, channels)
        self.W = last if normalization is None else nn.Sequential(last, normalization)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.theta(x).flatten(2).transpose(1, 2)
        # A constant per channel of the keys moves all scores of a query alike, and softmax does not see it. Taking the
        # mean of the input away first (pooling commutes with a constant) keeps the scores and their rounding small.
        keys = self.phi(x - x.mean(dim=(-2, -1), keepdim=True)).flatten(2)
        values = self.g(x).flatten(2).transpose(1, 2)
        attended = torch.matmul(F.softmax(torch.matmul(queries, keys), dim=-1), values)
        attended = attended.transpose(1, 2).unflatten(2, (x.shape[-2], x.shape[-1]))
        return self.W(attended) + x


class DensePoseHead(nn.Module):
    """Optional ASPP and attention, then stacked convolutions called ``body_conv_fcn1``, ``body_conv_fcn2``, ...

    Without DeepLab parts this is DensePose's ``DensePoseV1ConvXHead``, with them its ``DensePoseDeepLabHead``.
    """

    def __init__(self, channels: int, config: DensePoseConfig) -> None:
        super().__init__()
        norm = ""
        self.ASPP: ASPP | None = None
        self.NLBlock: NonLocalBlock | None = None
        if config.deeplab is not None:
            norm = config.deeplab.norm
            self.ASPP = ASPP(channels, config.deeplab.dilations, config.deeplab.aspp_norm)
            if config.deeplab.non_local:
                self.NLBlock = NonLocalBlock(channels)
        self._stack = []
        for index in range(config.num_stacked_convs):
            name = f"body_conv_fcn{index + 1}"
            padding = config.conv_kernel // 2
            conv = Conv2d(channels, config.conv_dim, config.conv_kernel, padding=padding, norm=norm, activation=F.relu)
            self.add_module(name, conv)
            self._stack.append(name)
            channels = config.conv_dim
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features ``(N, C, P, P)`` to head features of the same height and width."""
        if self.ASPP is not None:
            x = self.ASPP(x)
        if self.NLBlock is not None:
            x = self.NLBlock(x)
        for name in self._stack:
            x = self.get_submodule(name)(x)
        return x
