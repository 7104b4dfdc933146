"""Colors for values: float32 RGB of 0 .. 255."""

from __future__ import annotations

import numpy as np

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


def viridis(values: np.ndarray) -> np.ndarray:
    """Values of 0 .. 1, clipped to it, as float32 RGB of 0 .. 255."""
    position = np.clip(values, 0, 1) * (len(_VIRIDIS) - 1)
    low = np.minimum(position.astype(int), len(_VIRIDIS) - 2)
    fraction = (position - low)[..., None].astype(np.float32)
    return _VIRIDIS[low] * (1 - fraction) + _VIRIDIS[low + 1] * fraction


def jet(values: np.ndarray) -> np.ndarray:
    """Values of 0 .. 1 from dark blue over green to dark red, as OpenCV's map of that name."""
    position = 4 * np.clip(values, 0, 1)[..., None]
    return (255 * np.clip(1.5 - np.abs(position - np.array([3, 2, 1])), 0, 1)).astype(np.float32)
