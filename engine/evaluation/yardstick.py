"""The yardstick for drift: how far FP32's own results move when a picture changes by at most one grey level.

That is less than what a camera's noise, or another JPEG encoder, does. An engine whose results move no further than
this from FP32's differs from it by nothing that a user could see; one that moves twice as far has lost something.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..decoders import DetectionResult
from .drift import Drift, DriftMeter, drift_percent

#: The mean over these is taken: a single one moves the ratio by some hundredths.
SEEDS = (0, 1, 2, 3, 4)
_INTERVAL = 95  # percent


def with_noise(picture: np.ndarray, seed: int) -> np.ndarray:
    """The picture (uint8, of any shape) with -1, 0 or +1 added to every value, clipped; the same for a seed."""
    noise = np.random.default_rng(seed).integers(-1, 2, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Ratio:
    """How many times as far as the yardstick an engine moved, with a 95% interval over pictures; NaN if unknown."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not known: nothing moved under the noise, or nobody was found"
        return (
            f"{self.value:.2f} ({self.low:.2f} .. {self.high:.2f}) times as far as one grey level of noise moves FP32"
        )


class Yardstick:
    """Collects FP32's drift under noise, picture by picture: ``add`` each picture, then ask for ``ratio``.

    Args:
        run: the FP32 engine's ``infer``, uint8 RGB [height, width, 3] to a result.
        seeds: of the noise.
        max_people: the best so many of a picture are looked at.
    """

    def __init__(
        self, run: Callable[[np.ndarray], DetectionResult], seeds: Sequence[int] = SEEDS, max_people: int = 20
    ) -> None:
        if not seeds:
            raise ValueError("there must be a seed at least")
        self._run = run
        self._meters = {seed: DriftMeter(max_people) for seed in seeds}

    def add(self, picture: np.ndarray, reference: DetectionResult) -> None:
        """One more picture, and what FP32 finds in it as it is."""
        for seed, meter in self._meters.items():
            meter.add(reference, self._run(with_noise(picture, seed)))

    @property
    def drifts(self) -> tuple[Drift, ...]:
        """Of each seed."""
        return tuple(meter.drift() for meter in self._meters.values())

    @property
    def part_drift(self) -> float:
        """1 - part agreement, mean over the seeds: 0 .. 1, NaN where nobody is matched."""
        found = [1 - moved.part_agreement for moved in self.drifts if moved.matched]
        return float(np.mean(found)) if found else math.nan

    @property
    def percent(self) -> float:
        """``drift_percent``, which counts people of one side too; mean over the seeds."""
        return float(np.mean([drift_percent(moved) for moved in self.drifts]))

    def ratio(self, other: DriftMeter, *, resamples: int = 1000, seed: int = 0) -> Ratio:
        """How far another engine moved, of 1 - part agreement, in units of this.

        Args:
            other: has seen the same pictures in the same order, against the same results of FP32.
            resamples, seed: of the bootstrap, which draws pictures, the same for both sides.

        Raises:
            ValueError: it has seen another number of pictures.
        """
        moved, noise = other.by_picture, np.stack([meter.by_picture for meter in self._meters.values()])
        if len(moved) != noise.shape[1]:
            raise ValueError(f"{len(moved)} pictures cannot be compared with the yardstick's {noise.shape[1]}")
        value = _ratios(moved.sum(axis=0)[None], noise.sum(axis=1)[:, None])[0]
        if math.isnan(value):
            return Ratio(math.nan, math.nan, math.nan)
        # How often each picture is drawn, [resamples, pictures].
        pictures = len(moved)
        drawn = np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples)
        spread = _ratios(drawn @ moved, np.einsum("rp,spk->srk", drawn, noise))
        tails = (100 - _INTERVAL) / 2, (100 + _INTERVAL) / 2
        # A draw of pictures without anybody says nothing.
        low, high = np.nanpercentile(spread, tails)
        return Ratio(float(value), float(low), float(high))


def _ratios(moved: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """[R] of sums over pictures: [R, 2] of the engine, [seeds, R, 2] of the yardstick; NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        yardstick = (noise[..., 1] / noise[..., 0]).mean(axis=0)
        ratios = moved[:, 1] / moved[:, 0] / yardstick
    return np.where(np.isfinite(ratios), ratios, np.nan)
