"""Whether two pipelines find the same people: what is not the same work cannot be compared by its time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..result import DensePoseResult

_SAME_PERSON = 0.5  # IoU


@dataclass(frozen=True)
class Agreement:
    """Of all pictures together.

    ``people``: how many each found; ``matched``: share of the more numerous side's people that the other found too (IoU
    above 0.5); of these ``mean_iou``, the largest ``score_difference``, and ``labels``: share of the pixels that one of
    both calls a part on which they agree.
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
            f"people {self.people[0]} and {self.people[1]}, {self.matched:.0%} matched, mean IoU {self.mean_iou:.4f}, "
            f"scores within {self.score_difference:.4f}, {self.labels:.2%} of the labels equal"
        )


def compare_results(pairs: Iterable[tuple[DensePoseResult, DensePoseResult]]) -> Agreement:
    """``pairs``: what the two sides found in each picture."""
    counts = [0, 0]
    ious: list[float] = []
    scores: list[float] = []
    same = either = most = 0
    for ours, theirs in pairs:
        counts[0] += len(ours)
        counts[1] += len(theirs)
        most += max(len(ours), len(theirs))
        for i, j, iou in _matches(ours.boxes, theirs.boxes):
            ious.append(iou)
            scores.append(abs(float(ours.scores[i] - theirs.scores[j])))
            a, b = _canvas(ours, i), _canvas(theirs, j)
            body = (a > 0) | (b > 0)
            either += int(body.sum())
            same += int((a[body] == b[body]).sum())
    return Agreement(
        (counts[0], counts[1]),
        len(ious) / most if most else 1.0,
        float(np.mean(ious)) if ious else 1.0,
        max(scores, default=0.0),
        same / either if either else 1.0,
    )


def _matches(ours: np.ndarray, theirs: np.ndarray) -> list[tuple[int, int, float]]:
    """Pairs of boxes of one person, the most alike first; each box once."""
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, 2:], theirs[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (ours, theirs)]
    iou = common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)
    found = []
    while iou.size and iou.max() > _SAME_PERSON:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        found.append((int(i), int(j), float(iou[i, j])))
        iou[i], iou[:, j] = 0, 0
    return found


def _canvas(result: DensePoseResult, k: int) -> np.ndarray:
    person = result.person(k)
    canvas = np.zeros(result.image_size, np.uint8)
    there, here = person.windows(*result.image_size)
    canvas[there] = person.labels[here]
    return canvas
