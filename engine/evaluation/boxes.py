"""Boxes: their overlap, and their average precision through the COCO project's own evaluator (pycocotools)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..decoders import DetectionResult
from .annotations import AnnotatedPicture
from .average_precision import STATISTICS, THRESHOLDS, Match
from .rle import coco_tools

_EVERY_AREA = [0, 1e10]  # pixels squared


def boxes_xywh(found: DetectionResult) -> np.ndarray:
    """float64 [N, 4]: x, y, width, height, subtracted in float32 as detectron2 does before it scores."""
    boxes = found.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    return boxes.astype(np.float64)


def box_iou(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """[N, M] of boxes x, y, width, height; of a crowd's box, the share of the found box that lies in it."""
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum((found[:, :2] + found[:, 2:])[:, None], (truth[:, :2] + truth[:, 2:])[None])
    both = np.clip(high - low, 0, None).prod(axis=-1)
    own, other = found[:, 2:].prod(axis=-1)[:, None], truth[:, 2:].prod(axis=-1)[None]
    union = own + other - both
    if crowd is not None:
        union = np.where(crowd, own, union)
    return both / np.maximum(union, 1e-9)


def score_boxes(
    pictures: Sequence[AnnotatedPicture], boxes: Sequence[np.ndarray], scores: Sequence[np.ndarray], max_people: int
) -> tuple[np.ndarray, list[Match]]:
    """COCO's box evaluation of one category, all areas, ``max_people`` a picture; crowds are ignored.

    Args:
        boxes: of each picture, float64 [N, 4], x, y, width, height.
        scores: of each picture, [N].

    Returns:
        The evaluator's numbers, in the order of ``STATISTICS``, 0 .. 1 (NaN where there was nobody to be found), and
        what became of everybody, of which a ``Ranking`` gives the same numbers.

    Raises:
        BackendUnavailable: pycocotools is not installed.
    """
    truth = [
        {"image_id": i, "bbox": list(a.box), "area": a.area, "iscrowd": int(a.crowd)}
        for i, picture in enumerate(pictures)
        for a in picture.annotations
    ]
    found = [
        {"image_id": i, "bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": 0, "score": float(score)}
        for i in range(len(pictures))
        for box, score in zip(boxes[i], scores[i], strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluator = coco_tools("cocoeval").COCOeval(
            _coco(truth, len(pictures)), _coco(found, len(pictures)), iouType="bbox"
        )
        evaluator.params.maxDets = [max_people]
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [_EVERY_AREA], ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, 0, 0, 0].mean(axis=1)
    recall = evaluator.eval["recall"][:, 0, 0, 0]
    numbers = np.array([precision.mean(), precision[0], precision[5], recall.mean()])
    if precision[0] < 0:  # the evaluator writes -1 where nobody was to be found
        numbers = np.full(len(STATISTICS), np.nan)
    return numbers, [_match(entry) for entry in evaluator.evalImgs]


def _coco(annotations: Iterable[dict[str, Any]], pictures: int) -> Any:
    coco = coco_tools("coco").COCO()
    coco.dataset = {
        "images": [{"id": i} for i in range(pictures)],
        "categories": [{"id": 1, "name": "person"}],
        # Counted from 1: the evaluator takes an id of 0 for "not matched".
        "annotations": [{**annotation, "id": n + 1, "category_id": 1} for n, annotation in enumerate(annotations)],
    }
    coco.createIndex()
    return coco


def _match(entry: dict[str, Any] | None) -> Match:
    if entry is None:  # nobody annotated, nobody found
        nobody = np.zeros((len(THRESHOLDS), 0), bool)
        return Match(nobody, nobody, 0)
    return Match(
        np.asarray(entry["dtMatches"]) > 0,
        np.asarray(entry["dtIgnore"]).astype(bool),
        int(np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)),
    )
