"""Average precision from similarities, as COCO defines it, and its spread under a paired bootstrap over pictures.

People are taken in order of score; at a threshold, each is right if it is similar enough to an annotated person whom
nobody better took. Precision is averaged over 101 recalls 0, 0.01 .. 1 (at each the best precision at that recall or a
higher one), then over the ten thresholds 0.50, 0.55 .. 0.95. Recall is what is reached in the end, averaged likewise.

A bootstrap resample draws pictures with replacement, which gives each picture a weight 0, 1, 2 ...; nobody has to be
matched again. Copies of a person follow each other in the ranking, where a run of right ones only raises the precision
and a run of wrong ones only lowers it, so their cumulated weights give exactly what the copied pictures would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
_OVERLAP = 0.8  # of boxes, from which the DensePose evaluator takes two people for the same
_CHUNK = 1 << 21  # weights at a time: 16 MB

#: Names of the numbers that a ``Ranking`` gives, in the order of ``statistics``.
STATISTICS = ("AP", "AP50", "AP75", "AR")


@dataclass(frozen=True, eq=False)
class Match:
    """What becomes of the N people found in one picture, best first, at the ten thresholds."""

    right: np.ndarray
    """bool [10, N]: matched to an annotated person."""
    ignored: np.ndarray
    """bool [10, N]: neither right nor wrong."""
    truths: int
    """How many annotated people were to be found."""


def match_best(similarity: np.ndarray) -> Match:
    """Each found person in turn gets the most similar annotated one that is left, if similar enough.

    Args:
        similarity: [N, M], found people best first.
    """
    right = np.zeros((len(THRESHOLDS), len(similarity)), bool)
    taken = np.zeros((len(THRESHOLDS), similarity.shape[1]), bool)
    for n, row in enumerate(similarity if similarity.shape[1] else ()):
        left = np.where(taken, -1, row)
        best = left.argmax(axis=1)
        right[:, n] = left[np.arange(len(best)), best] >= THRESHOLDS
        taken[right[:, n], best[right[:, n]]] = True
    return Match(right, np.zeros_like(right), similarity.shape[1])


def match_densepose(similarity: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, box_iou: np.ndarray) -> Match:
    """As ``match_best``, with people who have a box and no points, by the rules of the DensePose project's evaluator.

    - Where nobody of a picture has points, everybody found there is ignored.
    - Who is right by no annotated person at 0.95 and has a box IoU of 0.8 or more with a person without points (and not
      more with somebody else who is left) is ignored at all thresholds, even at those where it was right. The evaluator
      asks this once, after its loop over thresholds and with the last one's matches; scores are published that way.
    - Of equally similar people the last is taken.

    Args:
        similarity: [N, M], found people best first.
        ignored: bool [M], annotated people without points.
        crowd: bool [M], annotated boxes around several people, which several can match.
        box_iou: [N, M].
    """
    people, truths = similarity.shape
    order = np.argsort(ignored, kind="stable")  # the evaluator's order, which decides between equals
    ignored, crowd, box_iou = ignored[order], crowd[order], box_iou[:, order]
    similarity = np.where(ignored, 0, similarity[:, order])
    right = np.zeros((len(THRESHOLDS), people), bool)
    skipped = np.full_like(right, bool(ignored.all()))
    taken = np.zeros((len(THRESHOLDS), truths), bool)
    for n in range(people if truths else 0):
        left = np.where(taken & ~crowd, -1, similarity[n])
        best = truths - 1 - left[:, ::-1].argmax(axis=1)
        right[:, n] = left[np.arange(len(best)), best] >= THRESHOLDS
        taken[right[:, n], best[right[:, n]]] = True
    for n in np.flatnonzero(~right[-1]).tolist() if truths else ():
        left = np.where(taken[-1] & ~crowd, -1, box_iou[n])
        overlapping = truths - 1 - int(left[::-1].argmax())
        if left[overlapping] >= _OVERLAP and ignored[overlapping]:
            skipped[:, n] = True
            taken[-1, overlapping] = True
    return Match(right, skipped, int((~ignored).sum()))


@dataclass(frozen=True, eq=False)
class Ranking:
    """The people found in P pictures, best first, with what became of them at the ten thresholds."""

    picture: np.ndarray
    """int64 [N]: where each was found, 0 .. P - 1."""
    right: np.ndarray
    """bool [10, N]."""
    ignored: np.ndarray
    """bool [10, N]."""
    truths: np.ndarray
    """int64 [P]: how many there were to be found."""

    @classmethod
    def of(cls, scores: Sequence[np.ndarray], matches: Sequence[Match]) -> Ranking:
        """From each picture's scores and matches. Of equal scores, the earlier picture's goes first."""
        picture = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
        order = np.argsort(-np.concatenate([*scores, np.zeros(0)]).astype(np.float64), kind="stable")
        none = np.zeros((len(THRESHOLDS), 0), bool)
        right = np.concatenate([none, *(m.right for m in matches)], axis=1)
        ignored = np.concatenate([none, *(m.ignored for m in matches)], axis=1)
        truths = np.array([m.truths for m in matches], np.int64)
        return cls(picture[order], right[:, order], ignored[:, order], truths)

    def statistics(self, weights: np.ndarray | None = None) -> np.ndarray:
        """[B, 4]: AP, AP at 0.50, AP at 0.75 and average recall, 0 .. 1; NaN where there was nobody to be found.

        Args:
            weights: int [B, P], how often each picture counts; without it, once (B = 1).
        """
        if weights is None:
            weights = np.ones((1, len(self.truths)), np.int64)
        rows = max(_CHUNK // max(len(self.picture), 1), 1)
        return np.concatenate([self._statistics(weights[b : b + rows]) for b in range(0, len(weights), rows)])

    def _statistics(self, weights: np.ndarray) -> np.ndarray:
        total = (weights @ self.truths).astype(np.float64)
        total[total == 0] = np.nan
        weights = weights[:, self.picture]
        precisions, recalls = np.zeros((2, len(THRESHOLDS), len(weights)))
        counted = np.zeros_like(weights)
        for t in range(len(THRESHOLDS)):
            if t == 0 or (self.ignored[t] != self.ignored[t - 1]).any():
                counted = np.cumsum(weights * ~self.ignored[t], axis=1)
            # Recall changes where somebody is right and nowhere else, and there precision peaks.
            columns = np.flatnonzero(self.right[t] & ~self.ignored[t])
            if not len(columns):
                continue
            right = np.cumsum(weights[:, columns], axis=1)
            precision = right / np.maximum(counted[:, columns], 1)
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = right / total[:, None]
            reached = np.searchsorted(RECALLS, np.nan_to_num(recall), side="right")
            precisions[t] = (best * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
            recalls[t] = recall[:, -1]
        result = np.stack([precisions.mean(axis=0), precisions[0], precisions[5], recalls.mean(axis=0)], axis=1)
        result[np.isnan(total)] = np.nan
        return result


def paired_bootstrap(
    reference: Mapping[str, Ranking], other: Mapping[str, Ranking], resamples: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """How far the differences (other - reference) spread when other pictures of the same kind had been taken.

    All rankings, and both sides, see the same resamples. Of each ranking [resamples, 4], ordered as ``statistics``.

    Raises:
        ValueError: the rankings are not of the same number of pictures.
    """
    rankings = [*reference.values(), *other.values()]
    pictures = len(rankings[0].truths)
    if any(len(ranking.truths) != pictures for ranking in rankings):
        raise ValueError("the two sides are not of the same pictures")
    draws = np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples)
    return {name: other[name].statistics(draws) - reference[name].statistics(draws) for name in reference}
