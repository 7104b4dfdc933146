"""Deterministic weights: the same array for the same parameter name on every machine.

The stage files under ``data`` were computed by the real detectron2 with these weights.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import nn


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array for parameter ``name``; None: leave what the model has (the BiFPN's eps buffers, anchors)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rsplit(".", 1)[-1]
    if kind == "eps" or ".cell_anchors." in name:
        return None
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        values = rng.uniform(0.5, 1.5, shape)
    elif kind in ("running_mean", "bias"):
        values = 0.05 * rng.standard_normal(shape)
    elif len(shape) == 1:
        values = 1 + 0.1 * rng.standard_normal(shape)
    else:
        values = rng.standard_normal(shape) * np.sqrt(1.0 / np.prod(shape[1:]))
    return values.astype(np.float32)


def state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """A complete state dict for ``model`` out of :func:`weights`."""
    state = {}
    for name, value in model.state_dict().items():
        array = weights(name, tuple(value.shape))
        state[name] = value if array is None else torch.from_numpy(array)
    return state
