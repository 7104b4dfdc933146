"""What becomes of a person's maps in eager torch, as DensePose's own code does it: charts, or the closest vertices."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..decoders.base import DetectionResult, patch_size
from ..decoders.charts import DensePoseResult
from ..decoders.embeddings import Surface, VertexResult
from ..export.config.model_config import EmbeddingPredictorConfig
from ..export.model import DensePoseRCNN

_CHUNK = 10_000  # pixels whose distances to all vertices are in memory together, as in DensePose
_MOST_IN_16_BITS = 1 << 16


class TorchDecoding(Protocol):
    """``stage``: what its time is printed under."""

    stage: str

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, maps: dict[str, Tensor], size: tuple[int, int]
    ) -> DetectionResult:
        """The result of N people: boxes ``(N, 4)`` in the picture of ``size``, maps ``(N, C, S, S)`` by name."""


class TorchCharts:
    """Labels and (u, v)."""

    stage = "charts"

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, maps: dict[str, Tensor], size: tuple[int, int]
    ) -> DensePoseResult:
        labels, uv = [], []
        for person, box in enumerate(boxes):
            coarse, fine, u, v = (
                _resampled(maps[name], person, box) for name in ("coarse_segm", "fine_segm", "u", "v")
            )
            label = fine.argmax(dim=1) * (coarse.argmax(dim=1) > 0).long()
            chosen = torch.cat([plane.gather(1, label[None])[0] for plane in (u, v)])
            uv.append((chosen * (label > 0)).numpy())
            labels.append(label[0].to(torch.uint8).numpy())
        return DensePoseResult(boxes.numpy(), scores.numpy(), labels, uv, size)


class TorchVertices:
    """The closest vertex of each pixel of the mask, of all vertices of the mesh of a person's class."""

    stage = "closest vertices"

    def __init__(self, model: DensePoseRCNN, config: EmbeddingPredictorConfig) -> None:
        self._class_meshes = config.class_meshes
        self._names = [one.mesh for one in config.embedders]
        self._vertices = [model.vertex_embeddings(mesh) for mesh in self._names]
        self._surfaces = [
            Surface.of(mesh, rows.numpy()) for mesh, rows in zip(self._names, self._vertices, strict=True)
        ]

    def __call__(
        self, boxes: Tensor, scores: Tensor, classes: Tensor, maps: dict[str, Tensor], size: tuple[int, int]
    ) -> VertexResult:
        meshes = [self._class_meshes[number] for number in classes.tolist()]
        vertices, masks = [], []
        for person, (box, mesh) in enumerate(zip(boxes, meshes, strict=True)):
            coarse, embedding = (_resampled(maps[name], person, box)[0] for name in ("coarse_segm", "embedding"))
            mask = coarse.argmax(dim=0) > 0
            closest = torch.zeros(mask.shape, dtype=torch.long)
            closest[mask] = _closest(embedding[:, mask].T, self._vertices[mesh])
            small = len(self._vertices[mesh]) <= _MOST_IN_16_BITS
            vertices.append(closest.numpy().astype(np.uint16 if small else np.int32))
            masks.append(mask.numpy())
        used = {self._names[mesh]: self._surfaces[mesh] for mesh in meshes}
        names = [self._names[mesh] for mesh in meshes]
        class_ids = classes.numpy().astype(np.int32)
        return VertexResult(boxes.numpy(), scores.numpy(), class_ids, vertices, masks, names, size, used)


def torch_decoding(model: DensePoseRCNN) -> TorchDecoding:
    """How the maps of ``model`` are read."""
    config = model.config.densepose.predictor
    return TorchVertices(model, config) if isinstance(config, EmbeddingPredictorConfig) else TorchCharts()


def _resampled(maps: Tensor, person: int, box: Tensor) -> Tensor:
    """``(1, C, h, w)`` of a person's box."""
    shape = patch_size(box.numpy())
    return F.interpolate(maps[person : person + 1], shape, mode="bilinear", align_corners=False)


def _closest(pixels: Tensor, vertices: Tensor) -> Tensor:
    """Of each row of ``pixels`` ``(P, D)`` the row of ``vertices`` ``(V, D)`` at the least squared distance."""
    lengths = (vertices**2).sum(dim=1)
    found = [
        ((chunk**2).sum(dim=1, keepdim=True) + lengths - 2 * chunk @ vertices.T).argmin(dim=1)
        for chunk in pixels.split(_CHUNK)
    ]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
