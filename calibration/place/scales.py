"""From a range to the scale and the zero point of its integers: the one place, for tables, reports and graphs alike."""

from __future__ import annotations

import math

import numpy as np

#: No scale is smaller: the product of two, which integer kernels multiply sums with, is then a normal float32.
SMALLEST_SCALE = 2.0**-60
#: Of a tensor that was always zero.
UNIT_SCALE = 1.0


def scale_zero_point(
    low: float, high: float, *, unsigned: bool, symmetric: bool, bits: int = 8
) -> tuple[np.float32, int]:
    """The (scale, zero point) whose integers cover ``low .. high``: ``real = scale * (integer - zero_point)``.

    Zero is always exact. A range that does not hold zero is extended to it.

    Args:
        unsigned: uint8 (with 8 bits), else int8.
        symmetric: zero point 0. Signed, the range becomes +-max(-low, high), at integers +-127; unsigned, ``low`` has
            to be at least 0.

    Raises:
        ValueError: the range is not finite, ``low`` is above ``high``, or it is unsigned, symmetric and negative.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"a range from {low} to {high} cannot be quantized")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    least, most = integers(unsigned, bits)
    if symmetric:
        if unsigned and low < 0:
            raise ValueError(f"unsigned integers with zero point 0 cannot hold {low}")
        return _scale(max(-low, high) / most), 0
    scale = _scale((high - low) / (most - least))
    return scale, int(np.clip(np.rint(least - low / float(scale)), least, most))


def _scale(value: float) -> np.float32:
    return np.float32(UNIT_SCALE if value == 0 else max(value, SMALLEST_SCALE))


def integers(unsigned: bool, bits: int) -> tuple[int, int]:
    return (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
