"""Masks as COCO annotations hold them: run lengths, compressed run lengths and polygons.

A run-length encoding counts pixels in column-major order, beginning with background: [3, 2, ...] is three pixels off,
two on. "Compressed" writes the same counts as text (the format of the COCO tools, maskApi.c): six bits a character from
"0", the lowest five of them data, least significant first, the sixth saying that more follow; the last data bit is the
sign; from the fourth count on, the difference to the count two before is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import require
from ..files.fields import shown

_MAX_CHARACTERS = 6  # of one count: 30 bits, more pixels than any picture has
_LONGEST_OUTLINE = 1 << 20  # pixels: the COCO tools take some 100 bytes for each


@dataclass(frozen=True, eq=False)
class RunLengths:
    """A mask of ``size`` (height, width) as run lengths that are known to fill it."""

    size: tuple[int, int]
    counts: np.ndarray

    @classmethod
    def parse(cls, rle: object, size: tuple[int, int] | None = None) -> RunLengths:
        """From the ``{"size": [height, width], "counts": ...}`` of an annotation.

        Raises:
            ValueError: it is no run-length encoding, does not fill its size, or has another one than ``size``.
        """
        if not isinstance(rle, Mapping) or "counts" not in rle:
            raise ValueError("it is no run-length encoding, which has size and counts")
        found = rle.get("size")
        if not isinstance(found, Sequence) or len(found) != 2 or not all(type(n) is int and n > 0 for n in found):
            raise ValueError(f"its size is {shown(found)}, it must be [height, width]")
        height, width = found
        if size is not None and (height, width) != size:
            raise ValueError(f"its size is {height} x {width}, it must be {size[0]} x {size[1]}")
        counts = _counts(rle["counts"])
        if (counts < 0).any() or counts.sum() != height * width:
            raise ValueError(f"its run lengths do not fill {height} x {width} pixels")
        return cls((height, width), counts)

    def decode(self) -> np.ndarray:
        """bool [height, width]."""
        on = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(on, self.counts).reshape(self.size[::-1]).T


def _counts(counts: Any) -> np.ndarray:
    if isinstance(counts, (str, bytes)):
        return _uncompressed(counts.encode() if isinstance(counts, str) else counts)
    if not isinstance(counts, Sequence) or not all(type(n) is int and 0 <= n < 1 << 31 for n in counts):
        raise ValueError("its counts are neither text nor a list of integers")
    return np.array(counts, np.int64)


def _uncompressed(text: bytes) -> np.ndarray:
    bits = np.frombuffer(text, np.uint8).astype(np.int64) - ord("0")
    if ((bits < 0) | (bits > 63)).any() or (len(bits) and bits[-1] & 32):
        raise ValueError("its counts are no compressed run lengths")
    ends = np.flatnonzero((bits & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    if (ends - starts >= _MAX_CHARACTERS).any():
        raise ValueError("its counts are no compressed run lengths")
    place = np.arange(len(bits)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((bits & 31) << (5 * place), starts) if len(ends) else ends
    values = np.where(bits[ends] & 16, values - (1 << 5 * (ends - starts + 1)), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


@dataclass(frozen=True, eq=False)
class Polygons:
    """A mask as the union of polygons, each x0, y0, x1, y1, ... in pixels of the picture."""

    size: tuple[int, int]
    outlines: tuple[tuple[float, ...], ...]

    @classmethod
    def parse(cls, outlines: Sequence[Any], size: tuple[int, int]) -> Polygons:
        """From the list of an annotation. Raises ``ValueError`` for one that is no list of polygons."""
        for outline in outlines:
            if not isinstance(outline, Sequence) or isinstance(outline, str) or len(outline) < 6 or len(outline) % 2:
                raise ValueError("it is no list of polygons, which have an even number of coordinates, at least 6")
            if not all(type(n) in (int, float) and abs(n) < 1 << 24 for n in outline):  # false of NaN
                raise ValueError("the coordinates of its polygons are not numbers, or not in a picture")
            if _length(outline) > _LONGEST_OUTLINE:
                raise ValueError(f"one of its polygons has an outline of more than {_LONGEST_OUTLINE} pixels")
        return cls(size, tuple(tuple(map(float, outline)) for outline in outlines))

    def decode(self) -> np.ndarray:
        """bool [height, width], filled by the rules of the COCO tools."""
        if not self.outlines:
            return np.zeros(self.size, bool)
        mask = coco_tools("mask")
        return mask.decode(mask.merge(mask.frPyObjects([list(outline) for outline in self.outlines], *self.size))) > 0


def _length(outline: Sequence[float]) -> float:
    """Of the closed outline, in pixels: each edge's longer extent, as the COCO tools walk it."""
    corners = np.array(outline, np.float64).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def coco_tools(module: str) -> Any:
    """``pycocotools.MODULE``. Raises ``BackendUnavailable`` where it is not installed."""
    return require(f"pycocotools.{module}", "evaluate", "evaluating")
