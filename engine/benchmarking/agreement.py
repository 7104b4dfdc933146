"""Whether two pipelines find the same people: what is not the same work cannot be compared by its time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..decoders import DetectionResult
from ..evaluation.people import compare_patches, match_people
from ..wording import percent


@dataclass(frozen=True)
class Agreement:
    """Of all pictures together.

    ``people``: how many each found; ``matched``: share of the more numerous side's people that the other found too (see
    ``evaluation.people``); of these ``mean_iou``, the largest ``score_difference``, and ``labels``: of the pixels that
    at least one of the two calls a part, the share with the same part.
    """

    people: tuple[int, int]
    matched: float
    mean_iou: float
    score_difference: float
    labels: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def exact(self) -> bool:
        """As close as two float32 implementations of one network are."""
        return self.matched == 1 and self.mean_iou > 0.99 and self.score_difference < 0.01 and self.labels > 0.97

    def __str__(self) -> str:
        if max(self.people) == 0:
            return "both found nobody"
        return (
            f"people {self.people[0]} and {self.people[1]}, {percent(self.matched, 0)} matched, mean IoU "
            f"{self.mean_iou:.4f}, scores within {self.score_difference:.4f}, the same part on "
            f"{percent(self.labels, 2)} of the pixels where either has one"
        )


def compare_results(pairs: Iterable[tuple[DetectionResult, DetectionResult]]) -> Agreement:
    """Compare pipelines. ``pairs``: what the two sides found in each picture."""
    counts = [0, 0]
    ious: list[float] = []
    scores: list[float] = []
    same = either = most = 0
    for ours, theirs in pairs:
        counts[0] += len(ours)
        counts[1] += len(theirs)
        most += max(len(ours), len(theirs))
        for i, j, iou in match_people(ours, theirs):
            patch = compare_patches(ours, i, theirs, j)
            ious.append(iou)
            scores.append(patch.score_difference)
            either += patch.union
            same += patch.same_part
    return Agreement(
        (counts[0], counts[1]),
        len(ious) / most if most else 1.0,
        float(np.mean(ious)) if ious else 1.0,
        max(scores, default=0.0),
        same / either if either else 1.0,
    )
