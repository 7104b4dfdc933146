"""How far one engine's results moved from another's, without any labels: INT8 from FP32, say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..result import DensePoseResult
from .boxes import box_iou
from .results import best_people

#: People with a lower score on both sides are not looked at.
SCORE = 0.5
#: The box IoU from which two people can be the same.
OVERLAP = 0.5


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
    label_agreement: float
    """Mean share of the reference's patch where the other has the same part (or background)."""
    mask_iou: float
    """Mean IoU of where the two have a part."""
    uv_error: float
    """Mean absolute difference of U and V where both have the same part."""
    score_difference: float
    """Mean absolute difference."""


def drift(reference: Iterable[DensePoseResult], other: Iterable[DensePoseResult], max_people: int = 20) -> Drift:
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
    """The same, picture by picture: nothing is kept of a result."""

    def __init__(self, max_people: int = 20) -> None:
        self._max_people = max_people
        self._matched: list[tuple[float, float, float, float, float]] = []
        self._only_reference, self._only_other = 0, 0

    def add(self, reference: DensePoseResult, other: DensePoseResult) -> None:
        """One more picture."""
        a, b = best_people(reference, self._max_people), best_people(other, self._max_people)
        iou = box_iou(_boxes_in_float64(a), _boxes_in_float64(b))
        left_a, left_b = set(range(len(a))), set(range(len(b)))
        pairs = np.argwhere(iou >= OVERLAP)
        for i, j in pairs[np.argsort(-iou[tuple(pairs.T)], kind="stable")].tolist():
            if i in left_a and j in left_b and max(a.scores[i], b.scores[j]) >= SCORE:
                left_a.remove(i)
                left_b.remove(j)
                self._matched.append((float(iou[i, j]), *_patch_drift(a, i, b, j)))
        self._only_reference += sum(1 for i in left_a if a.scores[i] >= SCORE)
        self._only_other += sum(1 for j in left_b if b.scores[j] >= SCORE)

    def drift(self) -> Drift:
        """Of the pictures so far; means are 0 where nobody is matched."""
        means = np.mean(self._matched, axis=0) if self._matched else np.zeros(5)
        return Drift(len(self._matched), self._only_reference, self._only_other, *map(float, means))


def _boxes_in_float64(found: DensePoseResult) -> np.ndarray:
    boxes = found.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _patch_drift(a: DensePoseResult, i: int, b: DensePoseResult, j: int) -> tuple[float, float, float, float]:
    """Of two people: label agreement, mask IoU, U and V error, score difference."""
    mine, theirs = a.person(i), b.person(j)
    (height, width), (other_height, other_width) = mine.labels.shape, theirs.labels.shape
    down, right = mine.y - theirs.y, mine.x - theirs.x  # from my patch's corner to the same pixel in theirs
    top, left = max(0, -down), max(0, -right)
    bottom, end = min(height, other_height - down), min(width, other_width - right)
    there = np.s_[top + down : max(bottom, top) + down, left + right : max(end, left) + right]
    labels = np.zeros_like(mine.labels)  # beyond the other's patch is background
    labels[top : max(bottom, top), left : max(end, left)] = theirs.labels[there]
    uv = np.zeros_like(mine.uv)
    uv[:, top : max(bottom, top), left : max(end, left)] = theirs.uv[(slice(None), *there)]
    same = mine.labels == labels
    on, other_on = mine.labels > 0, labels > 0
    both = int((on & other_on).sum())
    union = int(on.sum()) + int((theirs.labels > 0).sum()) - both
    moved = np.abs(mine.uv - uv)[:, on & same]
    return (
        float(same.mean()),
        both / max(union, 1),
        float(moved.mean(dtype=np.float64)) if moved.size else 0.0,
        abs(mine.score - theirs.score),
    )
