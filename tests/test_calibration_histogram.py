"""Histograms: nothing is lost, and how the values came does not matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from densepose_engine.calibration.histogram import BINS, Histogram, TensorStatistics, grid, merged
from densepose_engine.errors import CalibrationError

Rng = np.random.Generator
DISTRIBUTIONS: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "gaussian": lambda rng, n: rng.normal(0.5, 3, n),
    "laplace": lambda rng, n: rng.laplace(-1, 0.1, n),
    "relu": lambda rng, n: np.maximum(rng.normal(-0.5, 1, n), 0),
    "relu6": lambda rng, n: np.clip(rng.normal(3, 4, n), 0, 6),
    "outliers": lambda rng, n: rng.standard_t(1.5, n),
    "negative": lambda rng, n: -rng.exponential(20, n),
    "far from zero": lambda rng, n: rng.uniform(1000, 1001, n),
    "tiny": lambda rng, n: rng.normal(0, 1e-20, n),
    "huge": lambda rng, n: rng.normal(0, 1e30, n),
    "constant": lambda rng, n: np.full(n, -7.3),
    "zeros": lambda rng, n: np.zeros(n),
    "powers of two": lambda rng, n: 2.0 ** rng.integers(-12, 4, n) * rng.choice([-1, 1], n),
}


def sample(name: str, size: int = 30_000) -> np.ndarray:
    return DISTRIBUTIONS[name](np.random.default_rng(7), size).astype(np.float32)


def histogram_of(*parts: np.ndarray) -> Histogram:
    histogram = Histogram("t")
    for part in parts:
        histogram.update(part)
    return histogram


def assert_equal(one: TensorStatistics, other: TensorStatistics) -> None:
    for field in ("minimum", "maximum", "count", "zeros", "low", "high"):
        assert getattr(one, field) == getattr(other, field), field
    np.testing.assert_array_equal(one.counts, other.counts)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_counts_are_those_of_numpy(name: str) -> None:
    values = sample(name)
    one = histogram_of(values.reshape(10, -1)).statistics()
    exact = values.astype(np.float64)
    assert (one.minimum, one.maximum) == (exact.min(), exact.max())
    assert one.count == values.size and one.zeros == (values == 0).sum()
    edges = one.edges
    assert edges[0] == one.low and edges[-1] == one.high and 0 in edges
    assert math.frexp(one.width)[0] == 0.5  # a power of two
    # numpy counts the last edge into the last bin; no value can be there.
    np.testing.assert_array_equal(one.counts, np.histogram(exact, edges)[0])
    assert one.counts.sum() == one.count and edges[-1] > one.maximum


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_order_batches_and_merging_change_nothing(name: str) -> None:
    values = sample(name)
    whole = histogram_of(values).statistics()
    # Sorted by magnitude, the range grows with every part.
    grown = histogram_of(*np.array_split(values[np.argsort(np.abs(values))], 40)).statistics()
    assert_equal(grown, whole)
    shrunk = histogram_of(*np.array_split(values[np.argsort(-np.abs(values))], 7)).statistics()
    assert_equal(shrunk, whole)
    parts = [histogram_of(part).statistics() for part in np.array_split(values, 5)]
    assert_equal(merged(parts), whole)
    assert_equal(merged(parts[::-1]), whole)


def test_at_least_half_of_the_bins_are_in_the_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        low, high = np.float32(-(10 ** rng.uniform(-6, 6))), np.float32(10 ** rng.uniform(-6, 6))
        one = histogram_of(np.array([low, high], np.float32)).statistics()
        used = np.flatnonzero(one.counts)
        assert 1024 <= used[-1] - used[0] + 1 <= BINS


def test_values_beside_an_edge() -> None:
    below, above = np.nextafter(np.float32(1), np.float32(0)), np.nextafter(np.float32(1), np.float32(2))
    values = np.array([-1e-30, 0.0, -0.0, below, 1, above, -1, -below, 2], np.float32)
    one = histogram_of(values).statistics()
    counted = {float(value): int(one.counts[one.bin_of(float(value))]) for value in (-1e-30, 0.0, below, 1.0)}
    assert counted == {-1e-30: 1, 0.0: 2, float(below): 1, 1.0: 2}
    assert one.zeros == 2


def test_the_grid_is_the_finest_that_holds_the_extremes() -> None:
    assert grid(0.0, 1.0) == (-10, 0)  # 1,025 bins of 2**-10; with 2**-11, exactly 1.0 would be the 2,049th
    assert grid(0.0, 0.9999) == (-11, 0)
    assert grid(-1.0, 0.0) == (-10, -1024)
    assert grid(5.0, 7.0) == grid(0.0, 7.0)
    assert grid(0.0, 0.0)[1] == 0


def test_arrays_of_any_shape_and_layout() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    whole = histogram_of(values).statistics()
    assert_equal(histogram_of(values.transpose(2, 0, 1)).statistics(), whole)
    assert_equal(histogram_of(values[:, ::2], values[:, 1::2], np.zeros((0, 3), np.float32)).statistics(), whole)


def test_nothing_was_seen() -> None:
    one = histogram_of(np.zeros((0, 4), np.float32)).statistics()
    assert (one.minimum, one.maximum, one.count, one.counts.sum()) == (0, 0, 0, 0)
    assert merged([]).count == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_names_the_tensor_and_changes_nothing(bad: float) -> None:
    histogram = histogram_of(np.ones(3, np.float32))
    before = histogram.statistics()
    with pytest.raises(CalibrationError, match="tensor t holds NaN or infinity"):
        histogram.update(np.array([5, bad, 1], np.float32))
    assert_equal(histogram.statistics(), before)


def test_memory_does_not_depend_on_the_data() -> None:
    histogram = Histogram("t")
    rng = np.random.default_rng(0)
    for exponent in range(-30, 30, 3):
        histogram.update((rng.normal(size=200_000) * 10.0**exponent).astype(np.float32))
    assert histogram.statistics().counts.shape == (BINS,)
    held = sum(value.nbytes for value in vars(histogram).values() if isinstance(value, np.ndarray))
    assert held == BINS * 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 99}, "do not add up"),
        ({"minimum": 3.0}, "above its maximum"),
        ({"maximum": 1.7}, "from minimum to maximum"),
        ({"zeros": 3}, "more zeros"),
    ],
)
def test_contradictions_are_refused(change: dict[str, float], message: str) -> None:
    one = histogram_of(np.array([-1, 0, 0, 1, 2], np.float32)).statistics()
    fields = {"minimum": one.minimum, "maximum": one.maximum, "count": one.count, "zeros": one.zeros}
    assert_equal(TensorStatistics.make(**fields, counts=one.counts), one)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        TensorStatistics.make(**{**fields, **change}, counts=one.counts)  # type: ignore[arg-type]
