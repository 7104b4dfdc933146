"""The yardstick for drift: noise as it is defined, means over seeds, and the ratio of an engine's drift to it."""

from __future__ import annotations

import math

import annotated_scenes as scenes
import numpy as np
import pytest
from annotated_scenes import found

from densepose_engine import DensePoseResult
from densepose_engine.evaluation.drift import DriftMeter, drift, drift_percent
from densepose_engine.evaluation.yardstick import SEEDS, Yardstick, with_noise

PICTURES = [np.random.default_rng(k).integers(0, 256, (30, 40, 3), np.uint8) for k in range(12)]


def person(wrong: int) -> DensePoseResult:
    """One of 400 pixels, ``wrong`` of them of another part."""
    box, score, labels, uv = found([10, 10, 30, 30], 3)
    labels.reshape(-1)[:wrong] = 5
    return scenes.result([(box, score, labels, uv)], 40, 50)


def sensitive(picture: np.ndarray) -> DensePoseResult:
    """Finds a person of whom as many pixels are of another part as the picture's sum says."""
    return person(int(picture.astype(np.int64).sum() % 40))


def test_noise_is_of_one_grey_level() -> None:
    picture = np.full((200, 300, 3), 100, np.uint8)
    noisy = with_noise(picture, 3)
    assert noisy.dtype == np.uint8 and noisy.shape == picture.shape
    values, counts = np.unique(noisy, return_counts=True)
    assert values.tolist() == [99, 100, 101] and (abs(counts / noisy.size - 1 / 3) < 0.01).all()
    np.testing.assert_array_equal(noisy, 100 + np.random.default_rng(3).integers(-1, 2, picture.shape))
    assert with_noise(np.zeros((9, 9, 3), np.uint8), 0).max() == 1, "it is clipped, not wrapped"
    assert with_noise(np.full((9, 9, 3), 255, np.uint8), 0).min() == 254
    assert not np.array_equal(noisy, with_noise(picture, 4))


def test_the_mean_over_seeds() -> None:
    yardstick = Yardstick(sensitive)
    for picture in PICTURES:
        yardstick.add(picture, sensitive(picture))
    assert len(SEEDS) == 5 and len(yardstick.drifts) == 5
    each = [
        drift([sensitive(one) for one in PICTURES], [sensitive(with_noise(one, seed)) for one in PICTURES])
        for seed in SEEDS
    ]
    assert yardstick.drifts == tuple(each)
    assert yardstick.part_drift == pytest.approx(np.mean([1 - one.part_agreement for one in each]))
    assert yardstick.percent == pytest.approx(np.mean([drift_percent(one) for one in each]))
    assert 0.01 < yardstick.part_drift < 0.1


def ratio_of(run: object, pictures: list[np.ndarray] = PICTURES) -> tuple[float, float, float]:
    yardstick, meter = Yardstick(sensitive), DriftMeter()
    for picture in pictures:
        yardstick.add(picture, sensitive(picture))
        meter.add(sensitive(picture), run(picture))  # type: ignore[operator]
    ratio = yardstick.ratio(meter)
    assert str(ratio).startswith(f"{ratio.value:.2f} (")
    return ratio.value, ratio.low, ratio.high


def test_the_ratio() -> None:
    value, low, high = ratio_of(sensitive)
    assert value == low == high == 0, "an engine that gives the same has not moved"
    value, low, high = ratio_of(lambda picture: sensitive(with_noise(picture, 77)))
    assert 0.5 < low < value < high < 2, "other noise moves about as far"
    wrong = 200
    value, low, high = ratio_of(lambda picture: person(wrong))
    moved = np.mean([1 - drift([sensitive(one)], [person(wrong)]).part_agreement for one in PICTURES])
    yardstick = Yardstick(sensitive)
    for picture in PICTURES:
        yardstick.add(picture, sensitive(picture))
    assert value == pytest.approx(moved / yardstick.part_drift) and low < value < high
    assert ratio_of(lambda picture: person(wrong)) == (value, low, high), "the bootstrap is the same every time"


def test_the_interval_is_of_pictures() -> None:
    """Ten times the same pictures: the same ratio, the interval narrower by the root of ten."""
    run = lambda picture: sensitive(with_noise(picture, 77))  # noqa: E731
    value, low, high = ratio_of(run)
    again, near, far = ratio_of(run, PICTURES * 10)
    assert again == pytest.approx(value)
    assert (far - near) / (high - low) == pytest.approx(10**-0.5, rel=0.3)


def test_nobody_and_nothing_that_moves() -> None:
    nobody = scenes.result([])
    for still in (lambda picture: nobody, lambda picture: person(7)):
        yardstick, meter = Yardstick(still), DriftMeter()
        yardstick.add(PICTURES[0], still(PICTURES[0]))
        meter.add(still(PICTURES[0]), person(9))
        ratio = yardstick.ratio(meter)
        assert math.isnan(ratio.value) and "not known" in str(ratio)
        assert yardstick.percent == 0


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="seed"):
        Yardstick(sensitive, seeds=())
    yardstick = Yardstick(sensitive)
    yardstick.add(PICTURES[0], sensitive(PICTURES[0]))
    with pytest.raises(ValueError, match="0 pictures cannot be compared with the yardstick's 1"):
        yardstick.ratio(DriftMeter())
