"""Who is the same person in two results of one picture, and how far the two patches differ.

The one place that decides both: ``drift`` and ``bench`` count what is found here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..decoders import DetectionResult
from .boxes import box_iou

#: The box IoU from which two people can be the same.
OVERLAP = 0.5


@dataclass(frozen=True)
class PatchDifference:
    """How two patches of one person differ: counts of pixels, and what follows from them.

    A "part" is what the result's kind calls a place on the surface: a part of the body of charts, a vertex of
    embeddings.

    Of the reference's patch, with background beyond the other's: ``pixels``: all; ``same``: those with the same part,
    or background in both; ``either``: those that at least one of the two calls a part; ``same_part``: those with the
    same part in both; ``both``: those with any part in both. Of the two patches together: ``union``: those that at
    least one of the two calls a part. ``uv_error``: mean absolute difference of U and V where both have the same part,
    0 where they nowhere have; ``score_difference``: absolute.
    """

    pixels: int
    same: int
    either: int
    same_part: int
    both: int
    union: int
    uv_error: float
    score_difference: float

    @property
    def label_agreement(self) -> float:
        """The share of the patch on which both agree. Most of a patch is background, which flatters."""
        return self.same / self.pixels

    @property
    def part_agreement(self) -> float:
        """Of the pixels that either calls a part, the share with the same part; 1 where neither has any."""
        return self.same_part / self.either if self.either else 1.0

    @property
    def mask_iou(self) -> float:
        """IoU of where the two have a part; 0 where neither has any."""
        return self.both / max(self.union, 1)


def match_people(
    reference: DetectionResult, other: DetectionResult, least_score: float = 0.0
) -> list[tuple[int, int, float]]:
    """Pairs of people with a box IoU of at least ``OVERLAP``, the most alike first, each person once.

    Args:
        least_score: a pair counts where at least one of the two has this score.

    Returns:
        Of each pair the index in ``reference``, the index in ``other`` and the IoU of their boxes.
    """
    iou = box_iou(_boxes_in_float64(reference), _boxes_in_float64(other))
    left, other_left = set(range(len(reference))), set(range(len(other)))
    found = []
    pairs = np.argwhere(iou >= OVERLAP)
    for i, j in pairs[np.argsort(-iou[tuple(pairs.T)], kind="stable")].tolist():
        if i in left and j in other_left and max(reference.scores[i], other.scores[j]) >= least_score:
            left.remove(i)
            other_left.remove(j)
            found.append((i, j, float(iou[i, j])))
    return found


def _boxes_in_float64(found: DetectionResult) -> np.ndarray:
    """x, y, width, height [N, 4]."""
    boxes = found.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def compare_patches(reference: DetectionResult, i: int, other: DetectionResult, j: int) -> PatchDifference:
    """Person ``i`` of the reference against person ``j`` of the other."""
    mine, theirs = reference.surface_labels(i), other.surface_labels(j)
    (height, width), (other_height, other_width) = mine.shape, theirs.shape
    (x, y), (other_x, other_y) = reference.corner(i), other.corner(j)
    down, right = y - other_y, x - other_x  # from my patch's corner to the same pixel in theirs
    top, left = max(0, -down), max(0, -right)
    bottom, end = max(min(height, other_height - down), top), max(min(width, other_width - right), left)
    there = np.s_[top + down : bottom + down, left + right : end + right]
    labels = np.zeros_like(mine)  # beyond the other's patch is background
    labels[top:bottom, left:end] = theirs[there]
    same = mine == labels
    on, other_on = mine > 0, labels > 0
    both = int((on & other_on).sum())
    coordinates = reference.surface_coordinates(i)
    others = np.zeros_like(coordinates)
    others[:, top:bottom, left:end] = other.surface_coordinates(j)[(slice(None), *there)]
    moved = np.abs(coordinates - others)[:, on & same]
    return PatchDifference(
        pixels=same.size,
        same=int(same.sum()),
        either=int((on | other_on).sum()),
        same_part=int((on & same).sum()),
        both=both,
        union=int(on.sum()) + int((theirs > 0).sum()) - both,
        uv_error=float(moved.mean(dtype=np.float64)) if moved.size else 0.0,
        score_difference=abs(float(reference.scores[i]) - float(other.scores[j])),
    )
