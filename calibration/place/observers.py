"""From what a tensor looked like to the range that gets integer levels, and from a range to scale and zero point.

Four observers, as in the literature:

- ``minmax``: everything is representable;
- ``percentile``: what little lies outside is clipped (Wu et al. 2020, arXiv 2004.09602, section 4.2);
- ``entropy``: the range whose quantized distribution has the least Kullback-Leibler divergence from the float one
  (S. Migacz, "8-bit Inference with TensorRT", GTC 2017), here with the levels that the quantizer really has, for ranges
  of either sign, and without exact zeros: they are exact in every range, and as a spike they would outweigh the rest;
- ``mse``: the range with the least expected squared error, clipping and rounding together (Sung et al. 2015, arXiv
  1511.06488; Nagel et al. 2021, arXiv 2106.08295, section 3.1).

All of them take values to be spread evenly within a bin of the histogram, and exact zeros and extremes as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..histogram import TensorStatistics
from .scales import integers, scale_zero_point

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

_MSE_CANDIDATES = 48
_MSE_SMALLEST = 1 / 512  # of the largest magnitude: below that, a histogram of 2,048 bins has too few bins to tell
_ENTROPY_CANDIDATES = 96
_SWEEPS = 3  # of a range with two ends, each end in turn


def range_of(
    statistics: TensorStatistics,
    method: Method,
    *,
    symmetric: bool,
    bits: int = 8,
    percentile: float = 99.99,
) -> tuple[float, float]:
    """The range (low, high) to quantize a tensor with; zero is always inside.

    Args:
        statistics: of the tensor.
        method: the observer.
        symmetric: for signed integers with zero point 0: ``low == -high``. Otherwise unsigned integers: the range of a
            tensor without negative values begins at 0, and that of others may have any two ends.
        bits: of the integers; entropy and mse depend on it.
        percentile: how many percent of the values (zeros included) are inside, in (50, 100]. What is outside is shared
            by both ends of a range that has two.

    Raises:
        ValueError: an argument is out of range.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be from 2 to 16, not {bits}")
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile must be above 50 and at most 100, not {percentile}")
    low, high = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    if method == "minmax" or low == high:
        return low, high
    if method == "percentile":
        return _percentile(statistics, percentile, symmetric)
    if method == "entropy":
        return _entropy(statistics, symmetric, bits)
    return _mse(statistics, low, high, symmetric, bits)


def expected_error(statistics: TensorStatistics, scale: float, zero_point: int, dtype: str) -> float:
    """Mean squared error of quantizing the tensor to ``dtype`` ("uint8" or "int8"), estimated from its histogram."""
    mass = _mass(statistics)
    least, most = integers(*_parse(dtype))
    error = _squared_error(mass, float(scale), least - zero_point, most - zero_point)
    return error / max(statistics.count, 1)


def expected_sqnr_db(statistics: TensorStatistics, scale: float, zero_point: int, dtype: str) -> float:
    """Signal-to-quantization-noise ratio in dB, estimated from the histogram; ``inf`` where nothing is lost."""
    mass = _mass(statistics)
    power = float(mass.weight @ (mass.low**2 + mass.low * mass.high + mass.high**2)) / 3 / max(statistics.count, 1)
    error = expected_error(statistics, scale, zero_point, dtype)
    if error == 0:
        return math.inf
    return 10 * math.log10(power / error) if power > 0 else -math.inf


# ---- integers --------------------------------------------------------------------------------------------------------


def _parse(dtype: str) -> tuple[bool, int]:
    if dtype not in ("uint8", "int8"):
        raise ValueError(f"dtype must be uint8 or int8, not {dtype!r}")
    return dtype == "uint8", 8


def _quantizer(low: float, high: float, symmetric: bool, bits: int) -> tuple[float, int, int]:
    """(scale, least, most) of a range: scale times least .. most are the values that are representable."""
    scale, zero_point = scale_zero_point(low, high, unsigned=not symmetric, symmetric=symmetric, bits=bits)
    least, most = integers(not symmetric, bits)
    return float(scale), least - zero_point, most - zero_point


# ---- the values that are not zero ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Mass:
    """Occupied bins without exact zeros: ``weight[i]`` values between ``low[i]`` and ``high[i]``, all float64."""

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray


def _nonzero_counts(statistics: TensorStatistics) -> np.ndarray:
    counts = statistics.counts.copy()
    if statistics.zeros:
        counts[statistics.bin_of(0.0)] -= statistics.zeros
    return counts


def _mass(statistics: TensorStatistics) -> _Mass:
    counts = _nonzero_counts(statistics)
    occupied = np.flatnonzero(counts)
    edges = np.clip(statistics.edges, statistics.minimum, statistics.maximum)
    return _Mass(edges[occupied], edges[occupied + 1], counts[occupied].astype(np.float64))


def _sides(statistics: TensorStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Counts by distance from zero, of negative and of positive values: bin ``j`` is ``j .. j + 1`` widths away."""
    counts = _nonzero_counts(statistics)
    zero = statistics.bin_of(0.0)
    return counts[:zero][::-1], counts[zero:]


def _folded(statistics: TensorStatistics) -> np.ndarray:
    """Counts of magnitudes, in the same bins."""
    negative, positive = _sides(statistics)
    folded = np.zeros(max(len(negative), len(positive)), np.int64)
    folded[: len(negative)] += negative
    folded[: len(positive)] += positive
    return folded


# ---- percentile ------------------------------------------------------------------------------------------------------


def _percentile(statistics: TensorStatistics, percentile: float, symmetric: bool) -> tuple[float, float]:
    outside = (1 - percentile / 100) * statistics.count
    width = statistics.width
    if symmetric:
        bound = max(-statistics.minimum, statistics.maximum)
        high = _cut(_folded(statistics), width, outside, bound)
        return -high, high
    negative, positive = _sides(statistics)
    if statistics.minimum < 0 < statistics.maximum:
        outside /= 2
    low = -_cut(negative, width, outside, -statistics.minimum) if statistics.minimum < 0 else 0.0
    high = _cut(positive, width, outside, statistics.maximum) if statistics.maximum > 0 else 0.0
    return low, high


def _cut(counts: np.ndarray, width: float, outside: float, bound: float) -> float:
    """The magnitude that ``outside`` of the values exceed, which is at most ``bound``."""
    beyond = np.cumsum(counts[::-1])[::-1]  # values in a bin or further away
    inside = np.flatnonzero(beyond > outside)
    if not len(inside):
        return 0.0
    index = int(inside[-1])
    low, high = index * width, min((index + 1) * width, bound)
    return float(high - (high - low) * (outside - (beyond[index] - counts[index])) / counts[index])


# ---- mean squared error ----------------------------------------------------------------------------------------------


def _squared_error(mass: _Mass, scale: float, least: int, most: int) -> float:
    """Sum of squared errors of a quantizer with the levels ``scale * (least .. most)``: exact for evenly filled bins.

    With k the level of t = x / scale, the integral of (t - k)**2 from 0 is k / 12 + (t - k)**3 / 3: one twelfth for
    each level that was passed, and the same formula beyond the last level, where k stays and the cube grows.
    """
    low, high = mass.low / scale, mass.high / scale
    level_low, level_high = np.clip(np.rint(low), least, most), np.clip(np.rint(high), least, most)
    integral = (level_high - level_low) / 12 + ((high - level_high) ** 3 - (low - level_low) ** 3) / 3
    length = high - low
    # Of a bin as narrow as a point, both differences vanish.
    narrow = length < 1e-6
    mean = np.where(narrow, (high - level_high) ** 2, integral / np.where(narrow, 1.0, length))
    return float(mass.weight @ mean) * scale * scale


def _mse(statistics: TensorStatistics, low: float, high: float, symmetric: bool, bits: int) -> tuple[float, float]:
    mass = _mass(statistics)

    def cost(low: float, high: float) -> float:
        return _squared_error(mass, *_quantizer(low, high, symmetric, bits))

    if symmetric:
        high = _minimize(lambda bound: cost(-bound, bound), high)
        return -high, high
    if low == 0:
        return 0.0, _minimize(lambda bound: cost(0.0, bound), high)
    if high == 0:
        return -_minimize(lambda bound: cost(-bound, 0.0), -low), 0.0
    # Both ends in proportion first: moving one end alone gains nothing while the other is far out.
    bottom, top = low, high
    factor = _minimize(lambda factor: cost(factor * bottom, factor * top), 1.0)
    low, high = factor * bottom, factor * top
    for _ in range(_SWEEPS):
        before = low, high
        high = _minimize(lambda bound, low=low: cost(low, bound), top, also=high)  # type: ignore[misc]
        low = -_minimize(lambda bound, high=high: cost(-bound, high), -bottom, also=-low)  # type: ignore[misc]
        if before == (low, high):
            break
    return low, high


def _minimize(cost: Callable[[float], float], largest: float, also: float | None = None) -> float:
    """The bound with the least cost, up to ``largest``: a geometric grid, then a finer one around its best point."""
    step = _MSE_SMALLEST ** (1 / (_MSE_CANDIDATES - 1))
    candidates = [largest * step**index for index in range(_MSE_CANDIDATES)]
    if also is not None:
        candidates.append(also)
    best = min(candidates, key=cost)
    for _ in range(2):
        step **= 1 / 4  # between the neighbors of the best point
        nearby = [min(best * step**index, largest) for index in range(-4, 5)]
        best = min([best, *nearby], key=cost)
    return best


# ---- entropy ---------------------------------------------------------------------------------------------------------


def _entropy(statistics: TensorStatistics, symmetric: bool, bits: int) -> tuple[float, float]:
    width = statistics.width
    if symmetric or statistics.minimum >= 0 or statistics.maximum <= 0:
        counts = _folded(statistics)
        bound = max(-statistics.minimum, statistics.maximum)
        levels = 2 ** (bits - 1) if symmetric else 2**bits
        stop = _least_divergent(counts, 0, levels, bits, symmetric)[1]
        high = min(stop * width, bound)
        if symmetric:
            return -high, high
        return (0.0, high) if statistics.minimum >= 0 else (-high, 0.0)
    counts = _nonzero_counts(statistics)
    start, stop = _least_divergent(counts, statistics.bin_of(0.0), 2**bits, bits, symmetric)
    first = round(statistics.low / width)
    return max((first + start) * width, statistics.minimum), min((first + stop) * width, statistics.maximum)


def _least_divergent(counts: np.ndarray, zero: int, levels: int, bits: int, symmetric: bool) -> tuple[int, int]:
    """First bin, and one after the last, of the range with the least divergence; bin ``zero`` begins at 0."""
    occupied = np.flatnonzero(counts)
    if not len(occupied):
        return zero, zero
    start, stop = min(int(occupied[0]), zero), max(int(occupied[-1]) + 1, zero)

    def cost(start: int, stop: int) -> float:
        scale, least, most = _quantizer(float(start - zero), float(stop - zero), symmetric, bits)
        return _divergence(counts, start, stop, np.arange(start, stop) + (0.5 - zero), scale, least, most)

    # A range with fewer bins than levels would be reproduced without error, whatever it looks like. And one that ends
    # in an empty bin is none to try: it holds what the next smaller one does.
    if start < zero < stop:
        # Both ends at the same distance first: there are local minima with one end far out.
        def within(distance: int) -> tuple[int, int]:
            inside = occupied[(occupied >= zero - distance) & (occupied < zero + distance)]
            return (min(int(inside[0]), zero), max(int(inside[-1]) + 1, zero)) if len(inside) else (start, stop)

        furthest = max(stop - zero, zero - start)
        distance = _sweep(lambda distance: cost(*within(distance)), np.arange(levels // 2, furthest + 1), furthest)
        start, stop = within(distance)
    for _ in range(_SWEEPS):
        before = start, stop
        tops = occupied[occupied >= max(zero, start + levels - 1)] + 1
        stop = _sweep(lambda top, start=start: cost(start, top), tops, stop)  # type: ignore[misc]
        bottoms = occupied[occupied <= min(zero - 1, stop - levels)][::-1]
        start = _sweep(lambda bottom, stop=stop: cost(bottom, stop), bottoms, start)  # type: ignore[misc]
        if before == (start, stop):
            break
    return start, stop


def _sweep(cost: Callable[[int], float], candidates: np.ndarray, current: int) -> int:
    """The best of ``current`` and the candidates: every so many of them, then all around the best."""
    if not len(candidates):
        return current
    step = max(len(candidates) // _ENTROPY_CANDIDATES, 1)
    tried = [*range(0, len(candidates), step), len(candidates) - 1]
    best = min(tried, key=lambda index: cost(int(candidates[index])))
    around = range(max(best - step, 0), min(best + step + 1, len(candidates)))
    best = min(around, key=lambda index: cost(int(candidates[index])))
    return min(current, int(candidates[best]), key=cost)


def _divergence(
    counts: np.ndarray, start: int, stop: int, centers: np.ndarray, scale: float, least: int, most: int
) -> float:
    """KL(P || Q) over the bins ``start .. stop``.

    P has what is clipped in its first and last bin. Q has what is left of each level's bins after all of them became
    one number: their mean, in those that are not empty.
    """
    inside = counts[start:stop].astype(np.float64)
    reference = inside.copy()
    reference[0] += counts[:start].sum()
    reference[-1] += counts[stop:].sum()
    level = np.clip(np.rint(centers / scale), least, most).astype(np.intp) - least
    filled = inside > 0
    mass = np.bincount(level, inside)
    bins = np.bincount(level, filled)
    candidate = mass[level] / np.maximum(bins[level], 1)
    seen = reference > 0
    if not filled[seen].all():
        return math.inf  # an empty end bin cannot stand for what is clipped into it
    total = reference.sum()
    ratio = reference[seen] / candidate[seen] * (inside.sum() / total)
    return float((reference[seen] * np.log(ratio)).sum() / total)
