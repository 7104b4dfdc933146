"""The custom ops in float64 numpy, written from their definitions and without regard to speed.

Decisions (a rank, a threshold, an argmax) that float32 rounding could turn are no ground for a test: where `margin` is
positive, `UndecidedError` is raised for them. Tests of ties pass inputs that are exact in float32, and a margin of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SCALE_CLAMP = float(np.log(1000.0 / 16))


class UndecidedError(AssertionError):
    """A decision of the reference hangs on less than the margin that was asked for."""


def _float64(array: np.ndarray) -> Array:
    return np.asarray(array, dtype=np.float64)


# --- boxes


def apply_deltas(boxes: np.ndarray, deltas: np.ndarray, weights: Sequence[float]) -> Array:
    """Boxes [N, 4] moved and scaled by regression deltas [N, 4]: (dx, dy) in box sides, (dw, dh) logarithmic."""
    boxes, deltas = _float64(boxes), _float64(deltas) / _float64(np.float32(weights))
    sides = boxes[:, 2:] - boxes[:, :2]
    centers = boxes[:, :2] + sides / 2 + deltas[:, :2] * sides
    sides = sides * np.exp(np.minimum(deltas[:, 2:], SCALE_CLAMP))
    return np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)


def clip(boxes: np.ndarray, height: float, width: float) -> Array:
    """Boxes limited to a picture."""
    return np.clip(boxes, 0, [width, height, width, height])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes, NaN if both are empty."""
    a, b = _float64(a), _float64(b)
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    intersection = sides.prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - intersection
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(intersection / union)


def nms(boxes: np.ndarray, threshold: float, margin: float) -> list[int]:
    """Indices of the boxes, given best first, that no better kept box overlaps by more than the threshold."""
    kept: list[int] = []
    for i, box in enumerate(boxes):
        overlaps = np.array([iou(boxes[k], box) for k in kept])
        if margin and np.any(np.abs(overlaps - threshold) < margin):
            raise UndecidedError(f"an IoU within {margin} of the threshold {threshold}")
        if not np.any(overlaps > threshold):
            kept.append(i)
    return kept


def ranking(scores: np.ndarray) -> NDArray[np.intp]:
    """Indices of the scores from the largest down; NaN first of all, equal scores in their order."""
    keys = np.where(np.isnan(scores), np.inf, scores)
    order = np.lexsort((np.arange(len(scores)), -keys, ~np.isnan(scores)))
    return np.asarray(order)


# --- GenerateProposals


def grid_anchors(cell_anchors: np.ndarray, height: int, width: int, stride: int, offset: float) -> Array:
    """[height * width * A, 4]: the cell anchors [A, 4] at every position of a level."""
    y, x = np.meshgrid(np.arange(height) + offset, np.arange(width) + offset, indexing="ij")
    shifts = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4) * stride
    return (shifts + _float64(cell_anchors)).reshape(-1, 4)


def generate_proposals(
    rpn: Sequence[np.ndarray],
    sizes: Sequence[int],
    max_proposals: int,
    *,
    strides: Sequence[int],
    anchors: Sequence[float],
    bbox_weights: Sequence[float] = (1, 1, 1, 1),
    anchor_offset: float = 0,
    nms_threshold: float = 0.7,
    min_size: float = 0,
    pre_nms_topk: int = 1000,
    margin: float = 1e-6,
) -> tuple[Array, Array]:
    """Boxes [K, 4] and scores [K] from NCHW predictions [1, 5A, H, W], as detectron2 selects them."""
    cell_anchors = _float64(np.float32(anchors)).reshape(len(strides), -1, 4)
    all_boxes, all_scores = [], []
    for level, stride, cells in zip(rpn, strides, cell_anchors, strict=True):
        a = len(cells)
        _, _, height, width = level.shape
        scores = _float64(level[0, :a]).transpose(1, 2, 0).reshape(-1)
        deltas = _float64(level[0, a:]).reshape(a, 4, height, width).transpose(2, 3, 0, 1).reshape(-1, 4)
        top = ranking(scores)[:pre_nms_topk]
        with np.errstate(invalid="ignore", over="ignore"):
            anchors_here = grid_anchors(cells, height, width, stride, anchor_offset)[top]
            boxes = apply_deltas(anchors_here, deltas[top], bbox_weights)
        scores = scores[top]
        largest = np.finfo(np.float32).max
        finite = (np.abs(boxes) <= largest).all(axis=1) & (np.abs(scores) <= largest)
        boxes, scores = clip(boxes[finite], sizes[0], sizes[1]), scores[finite]
        sides = boxes[:, 2:] - boxes[:, :2]
        large = (sides > min_size).all(axis=1)
        boxes, scores = boxes[large], scores[large]
        kept = nms(boxes, float(np.float32(nms_threshold)), margin)
        all_boxes.append(boxes[kept])
        all_scores.append(scores[kept])
    merged_boxes, merged_scores = np.concatenate(all_boxes), np.concatenate(all_scores)
    best = ranking(merged_scores)[: max(max_proposals, 0)]
    return merged_boxes[best], merged_scores[best]


# --- MultilevelRoiAlign


def roi_level(
    box: np.ndarray, strides: Sequence[int], canonical_box_size: int, canonical_level: int, margin: float
) -> int | None:
    """The level that a box is pooled from (FPN paper, eq. 1); None for a box whose area is not a number."""
    if len(strides) == 1:
        return 0
    box = _float64(box)
    with np.errstate(invalid="ignore"):
        size = np.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        level = canonical_level + np.log2(size / canonical_box_size + 1e-8)
    if np.isnan(level):
        return None
    if margin and abs(level - np.round(level)) < margin:
        raise UndecidedError("a box on the border between two levels")
    first = int(np.log2(strides[0]))
    return int(np.clip(np.floor(level), first, first + len(strides) - 1)) - first


def _samples(low: float, high: float, pooled_size: int, sampling_ratio: int, aligned: bool, margin: float) -> Array:
    """[bins, samples]: where one axis of a RoI, in level pixels, is sampled."""
    offset = 0.5 if aligned else 0.0
    start, length = low - offset, high - low
    if not aligned:
        length = max(length, 1.0)
    bin_size = length / pooled_size
    count = sampling_ratio or max(int(np.ceil(bin_size)), 0)
    if margin and not sampling_ratio and abs(bin_size - np.round(bin_size)) < margin and bin_size > margin:
        raise UndecidedError("a bin whose number of samples could be one more or less")
    bins = np.arange(pooled_size)[:, None]
    return start + bins * bin_size + (np.arange(count)[None] + 0.5) * bin_size / max(count, 1)


def _bilinear_matrix(positions: Array, size: int) -> Array:
    """[bins, size]: the average over each bin's samples as weights of the pixels of one axis."""
    matrix = np.zeros((len(positions), size))
    for row, samples in zip(matrix, positions, strict=True):
        for position in samples:
            if position < -1 or position > size:
                continue
            position = min(max(position, 0.0), size - 1)
            low = int(position)
            high = min(low + 1, size - 1)
            row[low] += (1 - (position - low)) / len(samples)
            row[high] += (position - low) / len(samples)
    return matrix


def multilevel_roi_align(
    levels: Sequence[np.ndarray],
    boxes: np.ndarray,
    *,
    strides: Sequence[int],
    pooled_size: int,
    sampling_ratio: int = 0,
    aligned: int = 1,
    canonical_box_size: int = 224,
    canonical_level: int = 4,
    zero_point: int = 0,
    margin: float = 1e-5,
) -> Array:
    """[N, C, P, P] from NCHW levels [1, C, H, W]; of quantised features the value before it is rounded."""
    output = np.full((len(boxes), levels[0].shape[1], pooled_size, pooled_size), float(zero_point))
    for out, box in zip(output, _float64(boxes), strict=True):
        level = roi_level(box, strides, canonical_box_size, canonical_level, margin)
        if level is None or not np.isfinite(box).all():
            continue
        features = _float64(levels[level][0]) - zero_point
        x0, y0, x1, y1 = box / strides[level]
        ys = _samples(y0, y1, pooled_size, sampling_ratio, bool(aligned), margin)
        xs = _samples(x0, x1, pooled_size, sampling_ratio, bool(aligned), margin)
        rows, columns = _bilinear_matrix(ys, features.shape[1]), _bilinear_matrix(xs, features.shape[2])
        out += np.einsum("py,cyx,qx->cpq", rows, features, columns, optimize=True)
    return output


# --- BoxDetections


def box_detections(
    class_logits: np.ndarray,
    deltas: np.ndarray,
    boxes: np.ndarray,
    sizes: Sequence[int],
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    *,
    bbox_weights: Sequence[float] = (10, 10, 5, 5),
    margin: float = 1e-6,
) -> tuple[Array, Array, Array, NDArray[np.intp]]:
    """Boxes in the resized and in the original picture, scores and classes of what is found, best first.

    ``class_logits`` [K, C + 1], the background last; ``deltas`` [K, 4 C], or [K, 4] for all classes.
    """
    logits = _float64(class_logits)
    rows, count = len(logits), logits.shape[1] - 1
    moves = np.asarray(deltas).reshape(rows, -1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        moved = np.stack([apply_deltas(boxes, moves[:, c], bbox_weights) for c in range(moves.shape[1])], axis=1)
    # A row counts only if everything in it is finite, whichever class it is asked about.
    valid = np.isfinite(probabilities).all(axis=1) & (np.abs(moved) <= np.finfo(np.float32).max).all(axis=(1, 2))
    row, classes = np.nonzero(np.broadcast_to(valid[:, None], (rows, count)))
    scores = probabilities[row, classes]
    decoded = clip(moved[row, classes % moves.shape[1]].reshape(-1, 4), sizes[0], sizes[1])
    if margin and np.any(np.abs(scores - score_threshold) < margin):
        raise UndecidedError("a score at the threshold")
    above = np.flatnonzero(scores > score_threshold)
    order = above[ranking(scores[above])]
    if margin and np.any(np.diff(-scores[order]) < margin):
        raise UndecidedError("two scores that are nearly equal")
    scores, decoded, classes = scores[order], decoded[order], classes[order]
    members = [np.flatnonzero(classes == c) for c in range(count)]
    kept = [of_class[nms(decoded[of_class], nms_threshold, margin)] for of_class in members]
    best = np.sort(np.concatenate(kept))[: max(max_detections, 0)]
    scores, decoded, classes = scores[best], decoded[best], classes[best]
    ratio = np.array([sizes[3] / sizes[1], sizes[2] / sizes[0]])
    original = clip(decoded * np.tile(ratio, 2), sizes[2], sizes[3])
    nonempty = (original[:, 2:] > original[:, :2]).all(axis=1)
    return decoded[nonempty], original[nonempty], scores[nonempty], classes[nonempty]


# --- ChartResult


def _interpolation_matrix(pixels: int, size: int) -> Array:
    """[pixels, size]: bilinear resampling of one axis with half-pixel centres and replicated edges."""
    positions = np.clip((np.arange(pixels) + 0.5) * size / pixels - 0.5, 0, size - 1)
    low = positions.astype(int)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((pixels, size))
    np.add.at(matrix, (np.arange(pixels), low), 1 - (positions - low))
    np.add.at(matrix, (np.arange(pixels), high), positions - low)
    return matrix


def resample(maps: np.ndarray, height: int, width: int) -> Array:
    """[C, height, width] from maps [C, S, S]."""
    rows = _interpolation_matrix(height, maps.shape[1])
    columns = _interpolation_matrix(width, maps.shape[2])
    return np.asarray(np.einsum("ys,cst,xt->cyx", rows, _float64(maps), columns, optimize=True))


def patch_size(box: np.ndarray) -> tuple[int, int]:
    """Rows and columns of a box's patch; sides are subtracted in float32, as detectron2 does."""
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float32)
    return max(int(y1 - y0), 1), max(int(x1 - x0), 1)


def chart_result(
    coarse_segm: np.ndarray, fine_segm: np.ndarray, u: np.ndarray, v: np.ndarray, box: np.ndarray
) -> tuple[NDArray[np.uint8], Array, Array]:
    """Labels [h, w] and uv [2, h, w] of one person from maps [C, S, S], and how clearly each label was decided."""
    height, width = patch_size(box)
    coarse, fine = resample(coarse_segm, height, width), resample(fine_segm, height, width)
    person = coarse.argmax(axis=0) > 0
    labels = (fine.argmax(axis=0) * person).astype(np.uint8)
    decided = _lead(coarse)
    decided = np.where(person, np.minimum(decided, _lead(fine)), decided)
    return labels, select_channel(np.stack([u, v]), labels), decided


def select_channel(maps: np.ndarray, labels: NDArray[np.uint8]) -> Array:
    """[M, h, w] from maps [M, C, S, S]: each pixel from its label's channel, 0 where the label is 0."""
    sampled = np.stack([resample(m, *labels.shape) for m in maps])
    values = np.take_along_axis(sampled, labels[None, None].astype(np.intp), axis=1)[:, 0]
    return np.asarray(np.where(labels > 0, values, 0.0))


def _lead(logits: Array) -> Array:
    """How far the largest channel is ahead of the next."""
    if len(logits) == 1:
        return np.full(logits.shape[1:], np.inf)
    top = np.partition(logits, -2, axis=0)
    return np.asarray(top[-1] - top[-2])


# --- ClosestVertices


def closest_vertices(
    coarse_segm: np.ndarray, embedding: np.ndarray, vertices: np.ndarray, box: np.ndarray
) -> tuple[NDArray[np.bool_], Array, Array]:
    """Mask [h, w] of one person from maps [C, S, S], how clearly it was decided, and squared distances [h, w, V].

    ``vertices``: embeddings [V, D] of the mesh.
    """
    height, width = patch_size(box)
    coarse, pixels = resample(coarse_segm, height, width), resample(embedding, height, width)
    difference = pixels.transpose(1, 2, 0)[:, :, None, :] - _float64(vertices)
    return coarse.argmax(axis=0) > 0, _lead(coarse), np.asarray((difference**2).sum(axis=-1))
