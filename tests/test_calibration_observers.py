"""Observers against what can be computed from the values themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from densepose_engine.calibration.histogram import Histogram, TensorStatistics
from densepose_engine.calibration.place import observers, scales
from densepose_engine.calibration.place.observers import (
    METHODS,
    expected_error,
    expected_sqnr_db,
    range_of,
)
from densepose_engine.calibration.place.scales import scale_zero_point

Rng = np.random.Generator
SIZE = 50_000


def _with_outliers(rng: Rng, n: int) -> np.ndarray:
    values = rng.normal(0, 1, n)
    values[: n // 5000] *= 40
    return values


DISTRIBUTIONS: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "gaussian": lambda rng, n: rng.normal(0, 3, n),
    "shifted": lambda rng, n: rng.normal(2, 1, n),
    "laplace": lambda rng, n: rng.laplace(0, 0.1, n),
    "relu": lambda rng, n: np.maximum(rng.normal(-0.5, 1, n), 0),
    "mostly zero": lambda rng, n: np.maximum(rng.laplace(-4, 1, n), 0),
    "relu6": lambda rng, n: np.clip(rng.normal(3, 4, n), 0, 6),
    "uniform": lambda rng, n: rng.uniform(-1, 2, n),
    "outliers": _with_outliers,
    "negative": lambda rng, n: -rng.exponential(20, n),
    "far from zero": lambda rng, n: rng.uniform(100, 101, n),
}
DEGENERATE = {
    "zeros": np.zeros(100),
    "constant": np.full(100, 3.7),
    "negative constant": np.full(100, -3.7),
    "two values": np.repeat([0.0, 5.0], 50),
    "one value": np.array([1e-3]),
    "tiny": np.linspace(-1e-30, 1e-30, 100),
    "large": np.linspace(-1e30, 1e30, 100),
}


def sample(name: str) -> np.ndarray:
    if name in DEGENERATE:
        return DEGENERATE[name].astype(np.float32)
    return DISTRIBUTIONS[name](np.random.default_rng(11), SIZE).astype(np.float32)


def statistics_of(values: np.ndarray) -> TensorStatistics:
    histogram = Histogram("t")
    histogram.update(values)
    return histogram.statistics()


def quantized(values: np.ndarray, scale: float, zero_point: int, dtype: str) -> np.ndarray:
    """By the definition of QuantizeLinear and DequantizeLinear."""
    bounds = np.iinfo(dtype)
    integers = np.clip(np.rint(values.astype(np.float64) / scale) + zero_point, bounds.min, bounds.max)
    return (integers - zero_point) * scale


def squared_error(values: np.ndarray, low: float, high: float, symmetric: bool) -> float:
    scale, zero_point = scale_zero_point(low, high, unsigned=not symmetric, symmetric=symmetric)
    real = quantized(values, float(scale), zero_point, "int8" if symmetric else "uint8")
    return float(((values - real) ** 2).mean())


# ---- every observer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [*DISTRIBUTIONS, *DEGENERATE])
def test_a_range_is_inside_the_extremes_and_holds_zero(name: str, method: observers.Method, symmetric: bool) -> None:
    values = sample(name)
    low, high = range_of(statistics_of(values), method, symmetric=symmetric)
    assert math.isfinite(low) and math.isfinite(high) and low <= 0 <= high
    bottom, top = min(float(values.min()), 0), max(float(values.max()), 0)
    if symmetric:
        assert low == -high and high <= max(-bottom, top)
    else:
        assert bottom <= low and high <= top
    assert (high > low) == bool(np.any(values != 0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gaussian", "relu", "outliers", "shifted", "relu6"])
def test_a_range_scales_with_the_values(name: str, method: observers.Method) -> None:
    if (name, method) == ("outliers", "entropy"):
        return  # where most bins of a tail are empty, the divergence has many minima that are about as deep
    values = sample(name)
    for factor in (4.0, 3.0):  # another grid for a factor that is no power of two
        before = range_of(statistics_of(values), method, symmetric=False)
        after = range_of(statistics_of(values * np.float32(factor)), method, symmetric=False)
        tolerance = 1e-6 if factor == 4 or method == "minmax" else 0.15 if method == "entropy" else 0.04
        np.testing.assert_allclose(after, np.array(before) * factor, rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gaussian", "relu", "shifted", "negative"])
def test_a_mirrored_tensor_has_the_mirrored_range(name: str, method: observers.Method) -> None:
    values = sample(name)
    low, high = range_of(statistics_of(values), method, symmetric=False)
    mirrored = range_of(statistics_of(-values), method, symmetric=False)
    np.testing.assert_allclose(mirrored, (-high, -low), rtol=0.08 if method == "entropy" else 0.01, atol=1e-9)


def test_wrong_arguments() -> None:
    one = statistics_of(sample("gaussian"))
    with pytest.raises(ValueError, match="method must be one of minmax, percentile, entropy, mse"):
        range_of(one, "best", symmetric=True)  # type: ignore[arg-type]
    for percentile in (50, 100.1, math.nan):
        with pytest.raises(ValueError, match="percentile"):
            range_of(one, "percentile", symmetric=True, percentile=percentile)
    with pytest.raises(ValueError, match="bits"):
        range_of(one, "mse", symmetric=True, bits=1)


# ---- one by one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [100.0, 99.99, 99.9, 90.0])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_percentile_is_numpy_s(name: str, percentile: float) -> None:
    values = sample(name)
    one = statistics_of(values)
    exact = values.astype(np.float64)
    high = range_of(one, "percentile", symmetric=True, percentile=percentile)[1]
    # Two bins, and where the tail is so thin that bins are empty, the next value.
    assert abs(high - np.quantile(np.abs(exact), percentile / 100)) <= 2 * one.width + _gap(np.abs(exact), percentile)
    low, high = range_of(one, "percentile", symmetric=False, percentile=percentile)
    outside = ((exact < low - one.width) | (exact > high + one.width)).mean()
    assert outside <= 1 - percentile / 100 + 1e-9
    inside = ((exact >= low + 2 * one.width) & (exact <= high - 2 * one.width)).mean()
    # The half that belongs to a side is not all taken where that side has less.
    assert inside <= percentile / 100 + 1e-9 or (low == 0 and 0 < (exact < 0).mean() < (1 - percentile / 100) / 2)


def _gap(magnitudes: np.ndarray, percentile: float) -> float:
    ordered = np.sort(magnitudes)
    index = min(round(percentile / 100 * (len(ordered) - 1)), len(ordered) - 1)
    around = ordered[max(index - 2, 0) : index + 3]
    return float(np.diff(around).max()) if len(around) > 1 else 0.0


def test_percentile_counts_zeros() -> None:
    one = statistics_of(np.concatenate([np.zeros(950), np.linspace(1, 10, 50)]).astype(np.float32))
    assert range_of(one, "percentile", symmetric=False, percentile=90) == (0, 0)
    assert 7.9 < range_of(one, "percentile", symmetric=False, percentile=99)[1] < 8.5


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_as_good_as_trying_every_range(name: str, symmetric: bool) -> None:
    values = sample(name)
    ours = squared_error(values, *range_of(statistics_of(values), "mse", symmetric=symmetric), symmetric)
    bottom, top = min(float(values.min()), 0), max(float(values.max()), 0)
    if symmetric:
        bounds = np.linspace(0.02, 1, 250) * max(-bottom, top)
        tried = [squared_error(values, -bound, bound, True) for bound in bounds]
    else:
        ends = np.linspace(0.02, 1, 50)
        tried = [squared_error(values, 0.0, end * top, False) for end in np.linspace(0.02, 1, 250) if bottom == 0]
        tried += [squared_error(values, end * bottom, 0.0, False) for end in np.linspace(0.02, 1, 250) if top == 0]
        both = [(a, b) for a in ends for b in ends] if bottom < 0 < top else []
        few = values[::10]
        best = min(both, key=lambda pair: squared_error(few, pair[0] * bottom, pair[1] * top, False), default=None)
        if best is not None:
            tried.append(squared_error(values, best[0] * bottom, best[1] * top, False))
    assert ours <= 1.02 * min(tried)


@pytest.mark.parametrize(("bits", "step"), [(4, 0.3352), (6, 0.1041), (8, 0.0308)])
def test_mse_finds_the_known_optimum_of_a_gaussian(bits: int, step: float) -> None:
    """J. Max, "Quantizing for minimum distortion", 1960, table II: steps of the best even quantizers, in deviations."""
    values = np.random.default_rng(3).normal(0, 2, 400_000).astype(np.float32)
    high = range_of(statistics_of(values), "mse", symmetric=True, bits=bits)[1]
    assert abs(high / 2 / (2 ** (bits - 1) - 1) / step - 1) < 0.03


def brute_force_divergence(counts: np.ndarray, stop: int, levels: int) -> float:
    """Migacz 2017, as the slides' pseudo-code has it, for magnitudes at levels 0 .. levels - 1."""
    p = counts[:stop].astype(float)
    p[-1] += counts[stop:].sum()
    q = np.zeros(stop)
    scale = stop / (levels - 1)
    groups: dict[int, list[int]] = {}
    for index in range(stop):
        groups.setdefault(min(round((index + 0.5) / scale), levels - 1), []).append(index)
    for members in groups.values():
        filled = [index for index in members if counts[index]]
        for index in filled:
            q[index] = sum(counts[member] for member in members) / len(filled)
    p, q = p / p.sum(), q / q.sum()
    if np.any((p > 0) & (q == 0)):
        return math.inf
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


@pytest.mark.parametrize("name", ["gaussian", "laplace", "relu", "mostly zero", "outliers"])
def test_entropy_is_as_good_as_trying_every_bin(name: str) -> None:
    one = statistics_of(sample(name))
    symmetric = one.minimum < 0
    levels = 128 if symmetric else 256
    high = range_of(one, "entropy", symmetric=symmetric)[1]
    counts = observers._folded(one)
    occupied = np.flatnonzero(counts)
    stops = [int(index) + 1 for index in occupied if index + 1 >= levels]
    chosen = min(stops, key=lambda stop: abs(stop * one.width - high))
    divergences = {stop: brute_force_divergence(counts, stop, levels) for stop in [*stops[::6], stops[-1], chosen]}
    assert divergences[chosen] <= 1.05 * min(divergences.values()) + 1e-6


def test_entropy_does_not_look_at_exact_zeros() -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 1, SIZE)).astype(np.float32)
    alone = range_of(statistics_of(values), "entropy", symmetric=False)
    zeros = np.concatenate([values, np.zeros(20 * SIZE, np.float32)])
    assert range_of(statistics_of(zeros), "entropy", symmetric=False) == alone


@pytest.mark.parametrize("symmetric", [False, True])
def test_entropy_clips_outliers_and_keeps_what_is_even(symmetric: bool) -> None:
    outliers = sample("outliers")
    high = range_of(statistics_of(outliers), "entropy", symmetric=symmetric)[1]
    assert high < 0.5 * outliers.max()
    even = np.random.default_rng(0).uniform(0, 1, SIZE).astype(np.float32)
    assert range_of(statistics_of(even), "entropy", symmetric=symmetric)[1] > 0.98


# ---- scale and zero point --------------------------------------------------------------------------------------------

RANGES = [(0.0, 0.0), (0.0, 6.0), (-1.0, 1.0), (-0.1, 25.0), (-25.0, 0.1), (2.0, 3.0), (-3.0, -2.0), (-1e-38, 1e-38)]
RANGES += [(0.0, 3e38), (-1e-45, 0.0), (-1.0, 1e-9), (-3e38, 3e38)]


@pytest.mark.parametrize(("unsigned", "symmetric"), [(True, False), (False, True), (True, True), (False, False)])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_scales_are_usable_and_zero_is_exact(low: float, high: float, unsigned: bool, symmetric: bool) -> None:
    if unsigned and symmetric and low < 0:
        with pytest.raises(ValueError, match="cannot hold"):
            scale_zero_point(low, high, unsigned=unsigned, symmetric=symmetric)
        return
    scale, zero_point = scale_zero_point(low, high, unsigned=unsigned, symmetric=symmetric)
    dtype = "uint8" if unsigned else "int8"
    bounds = np.iinfo(dtype)
    assert isinstance(scale, np.float32) and type(zero_point) is int
    assert scales.SMALLEST_SCALE <= scale < np.inf and bounds.min <= zero_point <= bounds.max
    assert zero_point == 0 or not symmetric
    assert quantized(np.zeros(1), float(scale), zero_point, dtype)[0] == 0
    ends = np.array([min(low, 0), max(high, 0)])
    assert np.abs(quantized(ends, float(scale), zero_point, dtype) - ends).max() <= float(scale) * (1 + 1e-6)


def test_known_scales() -> None:
    assert scale_zero_point(0, 255, unsigned=True, symmetric=False) == (1, 0)
    assert scale_zero_point(-128, 127, unsigned=True, symmetric=False) == (1, 128)
    assert scale_zero_point(-255, 0, unsigned=True, symmetric=False) == (1, 255)
    assert scale_zero_point(-3, 127, unsigned=False, symmetric=True) == (1, 0)
    assert scale_zero_point(-254, 127, unsigned=False, symmetric=True) == (2, 0)
    assert scale_zero_point(-128, 127, unsigned=False, symmetric=False) == (1, 0)
    assert scale_zero_point(0, 255, unsigned=False, symmetric=False) == (1, -128)
    assert scale_zero_point(0, 0, unsigned=True, symmetric=True) == (scales.UNIT_SCALE, 0)
    assert scale_zero_point(0, 7.5, unsigned=True, symmetric=True, bits=4) == (0.5, 0)


def test_scales_grow_with_the_range() -> None:
    for unsigned, symmetric in ((True, False), (False, True), (True, True)):
        scales = [scale_zero_point(0, 10.0**e, unsigned=unsigned, symmetric=symmetric)[0] for e in range(-40, 38)]
        assert all(a <= b for a, b in itertools.pairwise(scales))


@pytest.mark.parametrize(("low", "high"), [(1, -1), (math.nan, 1), (0, math.inf), (-math.inf, 0)])
def test_ranges_that_are_none(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="cannot be quantized"):
        scale_zero_point(low, high, unsigned=True, symmetric=False)


# ---- expected error --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_sqnr_is_that_of_the_values(name: str, method: observers.Method, dtype: str) -> None:
    values, symmetric = sample(name), dtype == "int8"
    one = statistics_of(values)
    low, high = range_of(one, method, symmetric=symmetric)
    scale, zero_point = scale_zero_point(low, high, unsigned=not symmetric, symmetric=symmetric)
    exact = values.astype(np.float64)
    noise = ((exact - quantized(values, float(scale), zero_point, dtype)) ** 2).mean()
    signal_to_noise = 10 * math.log10((exact**2).mean() / noise)
    assert abs(expected_sqnr_db(one, float(scale), zero_point, dtype) - signal_to_noise) < 0.3
    assert abs(expected_error(one, float(scale), zero_point, dtype) / noise - 1) < 0.07


def test_sqnr_of_what_loses_nothing() -> None:
    assert expected_sqnr_db(statistics_of(np.zeros(5, np.float32)), 1.0, 0, "int8") == math.inf
    assert expected_sqnr_db(statistics_of(np.full(5, 3, np.float32)), 1.0, 0, "int8") == math.inf
    assert expected_sqnr_db(statistics_of(np.full(5, 3, np.float32)), 1.0, 255, "uint8") == pytest.approx(0)  # all lost
    with pytest.raises(ValueError, match="dtype"):
        expected_sqnr_db(statistics_of(np.zeros(5, np.float32)), 1.0, 0, "float32")
