"""What the DensePose project's evaluator computes, point by point and pixel by pixel, from its definition.

Written for the eye: loops, no numpy cleverness, nothing shared with the package. Annotations are dicts as in the file
(run lengths uncompressed), found people are (box, score, labels, uv).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Found = tuple[np.ndarray, float, np.ndarray, np.ndarray]

#: The mean geodesic distances of torso, hands, feet, upper legs, lower legs, upper arms, lower arms and head, in
#: meters, and which parts they are of.
REGIONS = (
    (0.351, (1, 2)),
    (0.107, (3, 4)),
    (0.126, (5, 6)),
    (0.237, (7, 8, 9, 10)),
    (0.173, (11, 12, 13, 14)),
    (0.142, (15, 16, 17, 18)),
    (0.128, (19, 20, 21, 22)),
    (0.150, (23, 24)),
)
K = {part: k for k, parts in REGIONS for part in parts}


@dataclass
class Surface:
    """Vertices on charts, and distances [n, n] in meters."""

    u: np.ndarray
    v: np.ndarray
    part: np.ndarray
    vertex: np.ndarray
    distance: np.ndarray

    def nearest(self, part: int, u: float, v: float) -> int:
        best, found = math.inf, -1
        for i in range(len(self.part)):
            away = math.hypot(self.u[i] - u, self.v[i] - v)
            if self.part[i] == part and away < best:
                best, found = away, int(self.vertex[i])
        return found


def gps(annotation: dict[str, Any], found: Found, surface: Surface) -> float:
    box, _, labels, uv = found
    width, height = int(box[2] - box[0]), int(box[3] - box[1])  # float32
    left, top, box_width, box_height = annotation["bbox"]
    values = []
    for x, y, part, u, v in zip(*(annotation[key] for key in ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V")), strict=True):
        column = int(x * box_width / 255 + left - float(box[0]))
        row = int(y * box_height / 255 + top - float(box[1]))
        value = 0.0
        if 0 <= column < width and 0 <= row < height and labels[row, column] > 0:
            place = [min(max(int(uv[c, row, column] * np.float32(255)), 0), 255) / 255 for c in (0, 1)]
            away = surface.distance[surface.nearest(int(part), u, v), surface.nearest(int(labels[row, column]), *place)]
            value = math.exp(-(float(away) ** 2) / (2 * K[int(part)] ** 2))
        values.append(value)
    return sum(values) / len(values)


def ogps(annotation: dict[str, Any], found: Found, distance: np.ndarray) -> float:
    """Of vertices; ``found`` has the mask instead of labels, and vertices instead of uv."""
    box, _, mask, vertices = found
    width, height = int(box[2] - box[0]), int(box[3] - box[1])  # float32
    left, top, box_width, box_height = annotation["bbox"]
    values = []
    for n, (x, y, vertex) in enumerate(zip(*(annotation[key] for key in ("dp_x", "dp_y", "dp_vertex")), strict=True)):
        column = int(x * box_width / 255 + left - float(box[0]))
        row = int(y * box_height / 255 + top - float(box[1]))
        k = K[annotation["dp_I"][n]] if annotation["ref_model"] == "smpl_27554" and "dp_I" in annotation else 0.255
        value = 0.0
        if 0 <= column < width and 0 <= row < height and mask[row, column] and vertex >= 0:
            away = float(distance[vertex, vertices[row, column]])
            value = math.exp(-(away**2) / (2 * k**2))
        values.append(value)
    return sum(values) / len(values) if values else 0.0


def decode(rle: dict[str, Any]) -> np.ndarray:
    height, width = rle["size"]
    pixels: list[bool] = []
    for n, count in enumerate(rle["counts"]):
        pixels += [n % 2 == 1] * count
    return np.array(pixels).reshape(width, height).T


def annotated_mask(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    """``dp_masks``, stretched so that corner pixels stay corners; without them ``segmentation``."""
    if "dp_masks" not in annotation:
        return decode(annotation["segmentation"]) if "segmentation" in annotation else np.zeros((height, width), bool)
    merged = np.zeros((256, 256))
    for rle in annotation["dp_masks"]:
        if rle:
            merged[decode(rle)] = 1
    left, top, box_width, box_height = annotation["bbox"]
    rows, columns = round(max(box_height, 1)), round(max(box_width, 1))
    mask = np.zeros((height, width), bool)
    for row in range(rows):
        for column in range(columns):
            y, x = int(top) + row, int(left) + column
            if 0 <= y < min(height, int(top + box_height)) and 0 <= x < min(width, int(left + box_width)):
                mask[y, x] = _bilinear(merged, row * 255 / max(rows - 1, 1), column * 255 / max(columns - 1, 1)) > 0.5
    return mask


def _bilinear(values: np.ndarray, y: float, x: float) -> float:
    y, x = min(y, 255.0), min(x, 255.0)
    i, j = min(int(y), 254), min(int(x), 254)
    a, b = y - i, x - j
    upper = values[i, j] * (1 - b) + values[i, j + 1] * b
    lower = values[i + 1, j] * (1 - b) + values[i + 1, j + 1] * b
    return upper * (1 - a) + lower * a


def found_mask(found: Found, height: int, width: int) -> np.ndarray:
    box, _, labels, _ = found
    mask = np.zeros((height, width), bool)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            y, x = int(box[1]) + row, int(box[0]) + column
            if 0 <= y < height and 0 <= x < width:
                mask[y, x] = labels[row, column] > 0
    return mask


def mask_iou(truth: np.ndarray, found: np.ndarray, crowd: bool) -> float:
    union = found.sum() if crowd else (truth | found).sum()
    return float((truth & found).sum() / union) if union else 0.0


def box_iou(truth: Sequence[float], found: np.ndarray, crowd: bool) -> float:
    x, y, w, h = truth
    dx, dy, dw, dh = (float(n) for n in (found[0], found[1], found[2] - found[0], found[3] - found[1]))
    across = min(x + w, dx + dw) - max(x, dx)
    down = min(y + h, dy + dh) - max(y, dy)
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / (dw * dh if crowd else w * h + dw * dh - across * down)


def evaluate(
    pictures: Sequence[tuple[int, int, list[dict[str, Any]], list[Found]]], surface: Surface
) -> dict[str, tuple[float, float, float, float]]:
    """pictures: height, width, annotations, found people. Gives AP, AP50, AP75 and AR of GPS and GPSm, 0 .. 1."""
    return scores(pictures, lambda annotation, found: gps(annotation, found, surface))


def scores(
    pictures: Sequence[tuple[int, int, list[dict[str, Any]], list[Found]]],
    similarity: Callable[[dict[str, Any], Found], float],
) -> dict[str, tuple[float, float, float, float]]:
    """The same of any similarity of an annotated and a found person."""

    def masked(annotation: dict[str, Any], found: Found, height: int, width: int) -> float:
        truth, other = annotated_mask(annotation, height, width), found_mask(found, height, width)
        return math.sqrt(similarity(annotation, found) * mask_iou(truth, other, bool(annotation.get("iscrowd"))))

    return {
        "gps": _scores(pictures, lambda annotation, found, *_: similarity(annotation, found)),
        "gpsm": _scores(pictures, masked),
    }


def _scores(
    pictures: Sequence[tuple[int, int, list[dict[str, Any]], list[Found]]], similarity: Callable[..., float]
) -> tuple[float, float, float, float]:
    thresholds = [0.5 + 0.05 * t for t in range(10)]
    rows: list[list[tuple[float, bool]]] = [[] for _ in thresholds]
    total = 0
    for height, width, annotated, people in pictures:
        best_first = sorted(people, key=lambda found: -found[1])[:20]
        pointed = [a for a in annotated if "dp_x" in a]
        total += len(pointed)
        similar = [[similarity(a, found, height, width) for a in pointed] for found in best_first]
        matched: list[dict[int, int]] = []
        for t in thresholds:
            pairs: dict[int, int] = {}
            for d in range(len(best_first)):
                free = [g for g in range(len(pointed)) if g not in pairs.values() and similar[d][g] >= t - 1e-12]
                if free:
                    pairs[d] = max(free, key=lambda g: (similar[d][g], g))
            matched.append(pairs)
        ignored = _ignored(annotated, best_first, matched[-1], [annotated.index(a) for a in pointed])
        for t in range(len(thresholds)):
            rows[t] += [
                (found[1], d in matched[t]) for d, found in enumerate(best_first) if d not in ignored and pointed
            ]
    curves = [_precision_and_recall(one, total) for one in rows]
    return (
        sum(p for p, _ in curves) / 10,
        curves[0][0],
        curves[5][0],
        sum(r for _, r in curves) / 10,
    )


def _ignored(
    annotated: list[dict[str, Any]], found: list[Found], matched: dict[int, int], pointed: list[int]
) -> set[int]:
    """Who overlaps somebody without points and matched nobody at 0.95."""
    taken = {pointed[g] for g in matched.values()}
    ignored = set()
    for d, person in enumerate(found):
        if d in matched:
            continue
        best, overlap = -1, 0.8
        for g in pointed + [g for g in range(len(annotated)) if g not in pointed]:
            crowd = bool(annotated[g].get("iscrowd"))
            if (g not in taken or crowd) and box_iou(annotated[g]["bbox"], person[0], crowd) >= overlap:
                best, overlap = g, box_iou(annotated[g]["bbox"], person[0], crowd)
        if best >= 0 and best not in pointed:
            ignored.add(d)
            taken.add(best)
    return ignored


def _precision_and_recall(rows: list[tuple[float, bool]], total: int) -> tuple[float, float]:
    """Precision, averaged over 101 recalls, and the recall that is reached.

    The recalls are COCO's floating-point numbers: 35 of 50 does not reach its 0.70.
    """
    right, points = 0, []
    for n, (_, ok) in enumerate(sorted(rows, key=lambda row: -row[0])):
        right += ok
        points.append((right / total, right / (n + 1)))
    best = [max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
    return sum(best) / 101, right / total
