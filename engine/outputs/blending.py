"""Colours over pixels, in bands of rows: what every overlay is drawn with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..result import DensePoseResult

# Sixteen evenly spaced samples of matplotlib's viridis (CC0); it is close to linear in between.
_VIRIDIS = (
    np.frombuffer(
        bytes.fromhex(
            "440154 481a6c 472f7d 414487 39568c 31688e 2a788e 23888e "
            "1f988b 22a884 35b779 54c568 7ad151 a5db36 d2e21b fde725"
        ),
        np.uint8,
    )
    .reshape(16, 3)
    .astype(np.float32)
)

# Pixels that are worked on at once, so that a large picture needs little more memory than its canvas.
BAND = 1 << 18


def mixture(below: np.ndarray, colour: np.ndarray | np.float32, opacity: np.ndarray | float) -> np.ndarray:
    """uint8 of the shape of ``below``: ``colour`` over it. ``colour`` is float32, 0 .. 255; ``opacity`` 0 .. 1."""
    base = below.astype(np.float32)
    return (base + (colour - base) * np.asarray(opacity, np.float32) + np.float32(0.5)).astype(np.uint8)


def mixed(colour: float, opacity: float) -> np.ndarray:
    """What becomes of each of the 256 values of a channel under ``colour``: uint8 [256]."""
    return mixture(np.arange(256, dtype=np.uint8), np.float32(colour), opacity)


def viridis(values: np.ndarray) -> np.ndarray:
    """Values of 0 .. 1, clipped to it, as float32 RGB of 0 .. 255."""
    position = np.clip(values, 0, 1) * (len(_VIRIDIS) - 1)
    low = np.minimum(position.astype(int), len(_VIRIDIS) - 2)
    fraction = (position - low)[..., None].astype(np.float32)
    return _VIRIDIS[low] * (1 - fraction) + _VIRIDIS[low + 1] * fraction


def best_last(result: DensePoseResult) -> list[int]:
    return np.argsort(result.scores, kind="stable").tolist()


def bands(window: tuple[slice, slice]) -> Iterator[slice]:
    """Slices of the window's rows, so many that temporary arrays stay small beside a large picture."""
    rows, columns = window
    height = rows.stop - rows.start
    step = max(BAND // max(columns.stop - columns.start, 1), 1)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def line_width(canvas: np.ndarray) -> float:
    return max(1.0, min(canvas.shape[:2]) / 480)
