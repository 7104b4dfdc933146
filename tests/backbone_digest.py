"""What ``data/backbones.json`` holds of a mobile backbone, for who makes the file and who reads it."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn

#: Values kept of every tap.
KEPT = 24


def digest_of_names(model: nn.Module) -> int:
    """CRC-32 of all names and shapes, in alphabetical order."""
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items())
    return zlib.crc32("\n".join(lines).encode())


def picture() -> Tensor:
    """Random input ``(2, 3, 64, 96)``: two pictures, which CondConv must not mix."""
    return torch.from_numpy(np.random.default_rng(5).standard_normal((2, 3, 64, 96)).astype(np.float32))


def sampled(tap: Tensor) -> list[float]:
    """Some of a tap's values, from all over it, and its largest absolute value."""
    values = tap.flatten()
    step = max(1, values.numel() // KEPT - 1)
    while step > 1 and any(step % factor == 0 for factor in (2, 3, 5, 7)):
        step -= 1
    kept = values[::step][:KEPT]
    return [round(float(value), 7) for value in [*kept, values.abs().max()]]
