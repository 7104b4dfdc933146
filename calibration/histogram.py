"""What a tensor's values look like: 2,048 bins that hold any range, found in one pass, in any order.

The grid is a function of the extremes alone: bins are ``2**exponent`` wide for the smallest exponent with which 2,048
of them hold both extremes and zero, and their edges are multiples of that width. Whenever the range outgrows the bins,
the width doubles and each pair of neighbors becomes one bin, which loses nothing that the coarser grid would have
seen. So the histogram is a function of the multiset of values: order, batching, merging and interruption change no
count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import CalibrationError

BINS = 2048
# Bins of a tensor of zeros; 2**100, which values are multiplied by, is still a float32.
_LEAST_EXPONENT = -100
# Values at a time: the three scratch arrays stay in the second-level cache.
_CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What calibration knows of one tensor.

    ``minimum``, ``maximum``: the exact extremes; ``count``: values seen; ``zeros``: how many of them are exactly 0;
    ``low``, ``high``: where the first bin begins and the last one ends, multiples of the bins' width, which is a power
    of two; ``counts``: int64 ``[2048]``, bin ``i`` holds the values from ``low + i * width`` (included) to
    ``low + (i + 1) * width`` (excluded). Zero is always within the bins, and an edge.
    """

    minimum: float
    maximum: float
    count: int
    zeros: int
    low: float
    high: float
    counts: np.ndarray

    @classmethod
    def make(cls, minimum: float, maximum: float, count: int, zeros: int, counts: np.ndarray) -> TensorStatistics:
        """From what a file says; the bins follow from the extremes. Raises ``ValueError`` where numbers disagree."""
        if not (count > 0 and minimum <= maximum):
            raise ValueError("it has no values, or its minimum is above its maximum")
        exponent, first = grid(minimum, maximum)
        width = math.ldexp(1.0, exponent)
        one = cls(minimum, maximum, count, zeros, first * width, (first + BINS) * width, counts)
        if counts.min() < 0 or sum(counts.tolist()) != count:
            raise ValueError("its counts do not add up")
        occupied = np.flatnonzero(counts)
        if occupied[0] != one.bin_of(minimum) or occupied[-1] != one.bin_of(maximum):
            raise ValueError("its occupied bins are not those from minimum to maximum")
        if not 0 <= zeros <= counts[one.bin_of(0.0)]:
            raise ValueError("it has more zeros than their bin has values")
        return one

    @property
    def width(self) -> float:
        """Of a bin."""
        return (self.high - self.low) / BINS

    @property
    def edges(self) -> np.ndarray:
        """float64 ``[2049]``: where bins begin and end, exact."""
        first = round(self.low / self.width)
        return (np.arange(BINS + 1) + first) * self.width

    def bin_of(self, value: float) -> int:
        """Index of the bin that ``value``, which lies within the extremes, is counted in."""
        return math.floor(value / self.width) - round(self.low / self.width)


def grid(minimum: float, maximum: float) -> tuple[int, int]:
    """(exponent, first) for these extremes: bin i goes from first + i to first + i + 1, times 2**exponent."""
    minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
    exponent = _LEAST_EXPONENT
    if maximum > minimum:
        # 2**(e - 1) <= span < 2**e: bins of 2**(e - 12) are too narrow, those of 2**(e - 10) always wide enough.
        exponent = max(exponent, math.frexp(maximum - minimum)[1] - 12)
    while _index(maximum, exponent) - _index(minimum, exponent) >= BINS:
        exponent += 1
    return exponent, _index(minimum, exponent)


def _index(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))  # exact: a float32 in a float64, and a power of two


class Histogram:
    """Collects one tensor's values; memory does not depend on how many.

    Values are told apart from zero down to float32's normal numbers (1e-38).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.minimum, self.maximum = math.inf, -math.inf
        self.count, self.zeros = 0, 0
        self._exponent, self._first = _LEAST_EXPONENT, 0
        self._counts = np.zeros(BINS, np.int64)

    def update(self, values: np.ndarray) -> None:
        """Count float32 ``values`` of any shape; none is fine too.

        Raises:
            CalibrationError: a value is NaN or infinite; the histogram is as before.
        """
        values = np.ascontiguousarray(values, np.float32).ravel()
        if not values.size:
            return
        minimum, maximum = float(values.min()), float(values.max())  # NaN comes through both
        if not (math.isfinite(minimum) and math.isfinite(maximum)):
            raise CalibrationError(
                f"tensor {self.name} holds NaN or infinity: the graph overflows in float32, it cannot be calibrated"
            )
        self._cover(minimum, maximum)
        self.count += values.size
        self.zeros += values.size - int(np.count_nonzero(values))

        inverse = np.float32(math.ldexp(1.0, -self._exponent))  # times a power of two is exact
        first = np.float32(self._first)
        scaled = np.empty(min(_CHUNK, values.size), np.float32)
        indices = np.empty(scaled.shape, np.intp)
        for start in range(0, values.size, _CHUNK):
            chunk = values[start : start + _CHUNK]
            part, into = scaled[: chunk.size], indices[: chunk.size]
            np.multiply(chunk, inverse, out=part)
            # Floor before the shift: a small negative number plus 1,024 would round to 1,024.
            np.floor(part, out=part)
            np.subtract(part, first, out=part)
            np.copyto(into, part, casting="unsafe")
            self._counts += np.bincount(into, minlength=BINS)

    def merge(self, other: Histogram | TensorStatistics) -> None:
        """Count what ``other`` has counted."""
        statistics = other.statistics() if isinstance(other, Histogram) else other
        if not statistics.count:
            return
        self._cover(statistics.minimum, statistics.maximum)
        self.count += statistics.count
        self.zeros += statistics.zeros
        exponent = math.frexp(statistics.width)[1] - 1
        first = round(statistics.low / statistics.width)
        self._counts += self._on_this_grid(statistics.counts, exponent, first)

    def statistics(self) -> TensorStatistics:
        """A copy of what was found; without any value, extremes are 0."""
        width = math.ldexp(1.0, self._exponent)
        return TensorStatistics(
            minimum=self.minimum if self.count else 0.0,
            maximum=self.maximum if self.count else 0.0,
            count=self.count,
            zeros=self.zeros,
            low=self._first * width,
            high=(self._first + BINS) * width,
            counts=self._counts.copy(),
        )

    def _cover(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = min(self.minimum, minimum), max(self.maximum, maximum)
        exponent, first = grid(self.minimum, self.maximum)
        if (exponent, first) != (self._exponent, self._first):
            old = self._exponent, self._first
            self._exponent, self._first = exponent, first
            self._counts = self._on_this_grid(self._counts, *old)

    def _on_this_grid(self, counts: np.ndarray, exponent: int, first: int) -> np.ndarray:
        """``counts`` of a grid that is as fine or finer."""
        occupied = np.flatnonzero(counts)
        # Doubling the width k times is a shift to the right by k; it rounds down, for negative numbers too.
        shift = min(self._exponent - exponent, 62)
        moved = ((occupied + first) >> shift) - self._first
        merged = np.zeros(BINS, np.int64)
        np.add.at(merged, moved, counts[occupied])
        return merged


def merged(statistics: Iterable[TensorStatistics]) -> TensorStatistics:
    """The statistics of several tensors taken together, for those that have to share a scale."""
    histogram = Histogram("several tensors")
    for one in statistics:
        histogram.merge(one)
    return histogram.statistics()
