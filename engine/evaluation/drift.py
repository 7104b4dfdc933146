"""How far one engine's results moved from another's, without any labels: INT8 from FP32, say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..decoders import DetectionResult
from .people import compare_patches, match_people
from .results import best_people

#: Of a person of the reference and one of the other: meters along the surface, None where nothing tells.
Distance = Callable[[DetectionResult, int, DetectionResult, int], "float | None"]
#: People with a lower score on both sides are not looked at.
SCORE = 0.5


@dataclass(frozen=True)
class Drift:
    """People with a score of 0.5 or more on either side, matched by boxes against all people of the other side.

    Where there is a mean, it is over matched people.
    """

    matched: int
    only_reference: int
    """People of 0.5 or more whom the other does not have."""
    only_other: int
    box_iou: float
    """Mean IoU of the two boxes."""
    part_agreement: float
    """Mean share of the same part, of the pixels of the reference's patch that at least one of the two calls a part."""
    label_agreement: float
    """Mean share of the reference's patch where the other has the same part or background. Background is most of a
    patch and easily agreed on: for how far results moved, take ``part_agreement``."""
    mask_iou: float
    """Mean IoU of where the two have a part."""
    uv_error: float
    """Mean absolute difference of U and V where both have the same part."""
    score_difference: float
    """Mean absolute difference."""
    surface_distance: float | None = None
    """Mean distance of the two along the surface, in meters, where both have a vertex; None where no mesh tells."""


def drift(reference: Iterable[DetectionResult], other: Iterable[DetectionResult], max_people: int = 20) -> Drift:
    """Compare two results of each picture, given in the same order.

    Args:
        max_people: the best so many of a picture are looked at.

    Raises:
        ValueError: one side has more pictures.
    """
    meter = DriftMeter(max_people)
    for mine, theirs in zip(reference, other, strict=True):
        meter.add(mine, theirs)
    return meter.drift()


class DriftMeter:
    """The same, picture by picture: nothing is kept of a result.

    Args:
        distance: how far apart two patches of one person are; without it, that is not measured.
    """

    def __init__(self, max_people: int = 20, distance: Distance | None = None) -> None:
        self._max_people, self._distance = max_people, distance
        self._distances: list[float] = []
        self._matched: list[tuple[float, float, float, float, float, float]] = []
        self._only_reference, self._only_other = 0, 0
        self._by_picture: list[tuple[int, float]] = []

    def add(self, reference: DetectionResult, other: DetectionResult) -> None:
        """One more picture."""
        a, b = best_people(reference, self._max_people), best_people(other, self._max_people)
        pairs = match_people(a, b, SCORE)
        for i, j, iou in pairs:
            patch = compare_patches(a, i, b, j)
            agreements = patch.part_agreement, patch.label_agreement, patch.mask_iou
            self._matched.append((iou, *agreements, patch.uv_error, patch.score_difference))
            if self._distance is not None and (moved := self._distance(a, i, b, j)) is not None:
                self._distances.append(moved)
        added = self._matched[len(self._matched) - len(pairs) :]
        self._by_picture.append((len(pairs), sum(1 - part for _, part, *_ in added)))
        self._only_reference += _missed(a, {i for i, _, _ in pairs})
        self._only_other += _missed(b, {j for _, j, _ in pairs})

    def drift(self) -> Drift:
        """Of the pictures so far; means are 0 where nobody is matched."""
        means = np.mean(self._matched, axis=0) if self._matched else np.zeros(6)
        distance = float(np.mean(self._distances)) if self._distances else None
        moved = Drift(len(self._matched), self._only_reference, self._only_other, *map(float, means))
        return replace(moved, surface_distance=distance)

    @property
    def by_picture(self) -> np.ndarray:
        """float64 [pictures, 2]: people matched, and the sum over them of 1 - part agreement; for a bootstrap."""
        return np.array(self._by_picture, np.float64).reshape(-1, 2)


def drift_percent(moved: Drift) -> float:
    """How much of the reference's results is different, 0 .. 100: people whom only one side has, and of the others, the
    pixels with another part among those that either calls a part. 0 where neither finds anybody."""
    people = moved.matched + moved.only_reference + moved.only_other
    return 100 * (1 - moved.matched * moved.part_agreement / people) if people else 0.0


def _missed(found: DetectionResult, matched: set[int]) -> int:
    """How many people of ``SCORE`` or more are not matched."""
    return sum(1 for k, score in enumerate(found.scores) if score >= SCORE and k not in matched)
