"""Colors over pixels, in bands of rows: what every overlay is drawn with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..decoders import DetectionResult

# Pixels that are worked on at once, so that a large picture needs little more memory than its canvas.
BAND = 1 << 18


def mixture(below: np.ndarray, color: np.ndarray | np.float32, opacity: np.ndarray | float) -> np.ndarray:
    """uint8 of the shape of ``below``: ``color`` over it. ``color`` is float32, 0 .. 255; ``opacity`` 0 .. 1."""
    base = below.astype(np.float32)
    return (base + (color - base) * np.asarray(opacity, np.float32) + np.float32(0.5)).astype(np.uint8)


def mixed(color: float, opacity: float) -> np.ndarray:
    """What becomes of each of the 256 values of a channel under ``color``: uint8 [256]."""
    return mixture(np.arange(256, dtype=np.uint8), np.float32(color), opacity)


def best_last(result: DetectionResult) -> list[int]:
    return np.argsort(result.scores, kind="stable").tolist()


def bands(window: tuple[slice, slice]) -> Iterator[slice]:
    """Slices of the window's rows, so many that temporary arrays stay small beside a large picture."""
    rows, columns = window
    height = rows.stop - rows.start
    step = max(BAND // max(columns.stop - columns.start, 1), 1)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def line_width(canvas: np.ndarray) -> float:
    return max(1.0, min(canvas.shape[:2]) / 480)
