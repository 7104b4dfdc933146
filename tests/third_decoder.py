"""A third kind of decoder, made as docs/how-to/add-a-decoder.md says: how surely each pixel is a person, of a hundred.

Registered beside the others; nothing else of the package is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import reference

from densepose_engine import decoders
from densepose_engine.decoders.base import (
    KIND,
    DetectedPerson,
    DetectionResult,
    check_people,
    patch_sizes,
    read_people,
)
from densepose_engine.decoders.layers import ColorField, DataImage, Layer, Window
from densepose_engine.decoders.palettes import viridis
from densepose_engine.files.npz import NpzReader
from densepose_engine.model.decoder import DecoderDescription
from densepose_engine.model.description import ModelDescription


@dataclass(frozen=True, eq=False)
class SharePerson(DetectedPerson):
    box: np.ndarray
    score: float
    x: int
    y: int
    share: np.ndarray  # uint8 [h, w]: of a hundred

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.share.shape
        return height, width

    def inside(self, window: Window) -> np.ndarray:
        return self.share[window] > 50


@dataclass(frozen=True, eq=False, repr=False)
class ShareResult(DetectionResult):
    kind: ClassVar[str] = "shares"
    layers: ClassVar[Mapping[str, Layer]] = {
        "share": ColorField(lambda person, window: person.share[window], lambda person: viridis(np.arange(101) / 100))
    }
    images: ClassVar[Mapping[str, DataImage]] = {}

    boxes: np.ndarray
    scores: np.ndarray
    shares: Sequence[np.ndarray]
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        check_people(self.boxes, self.scores, self.image_size)

    def person(self, k: int) -> SharePerson:
        return SharePerson(self.boxes[k], float(self.scores[k]), *self.corner(k), self.shares[k])

    def people(self, indices: Sequence[int] | np.ndarray) -> ShareResult:
        return ShareResult(
            self.boxes[indices], self.scores[indices], tuple(self.shares[k] for k in indices), self.image_size
        )

    def arrays(self) -> dict[str, np.ndarray]:
        shares = {f"share_{k}": array for k, array in enumerate(self.shares)}
        size = np.array(self.image_size, np.int64)
        return {"boxes": self.boxes, "scores": self.scores, "image_size": size, KIND: np.array(self.kind), **shares}

    @classmethod
    def read(cls, file: NpzReader) -> ShareResult:
        boxes, scores, image_size = read_people(file)
        shares = tuple(file.read(f"share_{k}", "u", size) for k, size in enumerate(patch_sizes(boxes)))
        return ShareResult(boxes, scores, shares, image_size)

    def surface_labels(self, k: int) -> np.ndarray:
        return (self.shares[k] > 50).astype(np.uint8)

    def surface_coordinates(self, k: int) -> np.ndarray:
        return self.shares[k][None].astype(np.float32)

    def details(self, k: int, pixels: bool) -> dict[str, Any]:
        return {"share": float(self.shares[k].mean())}


class ShareDecoder:
    kind: ClassVar[str] = "shares"
    result: ClassVar[type[DetectionResult]] = ShareResult
    stage: ClassVar[str] = "shares"

    def __init__(self, model: ModelDescription, tensors: Mapping[str, np.ndarray]) -> None:
        assert model.packed_maps is not None
        self.maps: Sequence[str] = ("maps",)
        self._packed = model.packed_maps
        self._most = int(model.decoder.settings["most"])
        self._offset = tensors["offset"]

    @classmethod
    def summary(cls, description: DecoderDescription) -> str:
        return "shares"

    def mesh(self, name: str | None) -> str | None:
        return None

    def decode(
        self,
        outputs: Mapping[str, np.ndarray],
        image_size: tuple[int, int],
        threads: int,
        mesh: str | None,
        mark: Callable[[str], None],
    ) -> ShareResult:
        boxes = np.array(outputs["boxes"], np.float32)
        shares = []
        channels, block = self._packed.channels[0], self._packed.block
        for cells, size in zip(outputs["maps"], patch_sizes(boxes), strict=True):
            rows, columns, _ = cells.shape
            pixels = cells[..., : channels * block**2].reshape(rows, columns, channels, block, block)
            logits = pixels.transpose(2, 0, 3, 1, 4).reshape(channels, rows * block, columns * block)
            values = np.exp(logits.astype(np.float64) + self._offset[0])
            values = reference.resample(1 - values[:1] / values.sum(axis=0), *size)[0]
            shares.append(np.rint(np.clip(self._most * values, 0, 100)).astype(np.uint8))
        mark(self.stage)
        return ShareResult(boxes, np.array(outputs["scores"], np.float32), tuple(shares), image_size)


decoders.DECODERS[ShareDecoder.kind] = ShareDecoder  # type: ignore[index]
