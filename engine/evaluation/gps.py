"""Geodesic point similarity (GPS): how near, along the body's surface, the found points are to the annotated ones.

Of one found and one annotated person, GPS is the mean over annotated points of exp(-d^2 / 2k^2), d being the geodesic
distance between what is annotated and what was found at that pixel; where nobody was found there, a point counts 0.
Masked, GPSm = sqrt(GPS * IoU of the masks). (R. A. Güler, N. Neverova, I. Kokkinos: DensePose, CVPR 2018, and the
DensePose project's evaluation.) Two definitions differ in their details:

====================  ==================================  ==========================================================
                      ``SimpleGps``                       ``CocoGps``, the DensePose project's evaluator
====================  ==================================  ==========================================================
units of dp_x, dp_y   1/256 of the box                    1/255 of the box
k, meters             0.255                               the mean distance within the point's part, of eight
pixel of a point      from the patch's corner (integers)  from the found box's corner (not rounded)
U and V that count    as the network gives them           in 255ths, truncated
annotated mask        ``segmentation``                    ``dp_masks``, stretched over the box; else ``segmentation``
nobody annotated      found people are wrong              found people are ignored (see ``match_densepose``)
====================  ==================================  ==========================================================

Of vertices instead of charts, ``evaluation.ogps`` has the DensePose project's third.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..decoders import DetectionResult
from ..decoders.charts import DensePoseResult, Person
from ..errors import DensePoseEngineError
from .annotations import MASK_SIZE, AnnotatedPicture, Annotation
from .average_precision import Match, match_best, match_densepose
from .boxes import box_iou, boxes_xywh
from .surfaces import GridSurface, SmplSurface

_VALUES_AT_A_TIME = 1 << 20

#: Metres: the k of ``SimpleGps``, at which a point 0.3 m off counts a half.
KAPPA = 0.255

#: Metres: the mean geodesic distance within each part 1 .. 24, the k of ``CocoGps``. The evaluator has it for eight
#: regions: torso, hands, feet, upper and lower legs, upper and lower arms, head.
MEAN_DISTANCES = np.array(
    [0.351] * 2 + [0.107] * 2 + [0.126] * 2 + [0.237] * 4 + [0.173] * 4 + [0.142] * 4 + [0.128] * 4 + [0.150] * 2
)


@dataclass(frozen=True, eq=False)
class Similarities:
    """Of the N found and the M annotated people of a picture; [N, M] each, 0 .. 1."""

    gps: np.ndarray
    mask_iou: np.ndarray

    @property
    def gpsm(self) -> np.ndarray:
        """The masked GPS."""
        return np.sqrt(self.gps * self.mask_iou)


class GpsDefinition(Protocol):
    """What GPS is, and whom it is asked of."""

    name: str

    def check(self, picture: AnnotatedPicture) -> None:
        """Raise ``DensePoseEngineError`` for a picture whose annotations lack what the definition needs."""

    def similarities(self, picture: AnnotatedPicture, found: DetectionResult) -> Similarities:
        """Of everybody found and everybody annotated."""

    def match(self, similarity: np.ndarray, picture: AnnotatedPicture, found: DetectionResult) -> Match:
        """Who is right, by either similarity."""

    def distance(self, reference: DetectionResult, i: int, other: DetectionResult, j: int) -> float | None:
        """How far apart two patches of one person are along the surface, in meters; None where nothing tells."""


class SimpleGps:
    """One k for all points, a surface table of its own, and everybody has to be annotated."""

    name = "simple"

    def __init__(self, surface: GridSurface) -> None:
        self._surface = surface

    def check(self, picture: AnnotatedPicture) -> None:
        check_charts(picture, self.name)
        for annotation in picture.annotations:
            for key, value in (("dp_x", annotation.points), ("segmentation", annotation.segmentation)):
                if value is None:
                    raise DensePoseEngineError(
                        f"annotation {annotation.id} has no {key}, and --gps simple asks for it of everybody; "
                        "--gps coco leaves people without points out"
                    )

    def similarities(self, picture: AnnotatedPicture, found: DetectionResult) -> Similarities:
        people = _with_charts(found)
        points = _PointsOfPicture(picture, units=256)
        truth = self._surface.points(points.part, points.u, points.v)
        gps = np.zeros((len(found), len(picture.annotations)))
        for k in range(len(found)):
            person = people.person(k)
            x = points.x.astype(np.int64) - person.x
            y = points.y.astype(np.int64) - person.y
            hit, part, u, v = _at(person, x, y)
            value = np.zeros(len(x))
            distance = self._surface.distance(truth[hit], self._surface.points(part, u, v))
            value[hit] = np.exp(-(distance**2) / (2 * KAPPA**2))
            gps[k] = points.means(value)
        outlines = [a.segmentation for a in picture.annotations if a.segmentation is not None]
        masks = (outline.decode() for outline in outlines)
        return Similarities(gps, mask_ious(masks, [False] * len(outlines), found))

    def match(self, similarity: np.ndarray, picture: AnnotatedPicture, found: DetectionResult) -> Match:
        return match_best(similarity)

    def distance(self, reference: DetectionResult, i: int, other: DetectionResult, j: int) -> float | None:
        return None  # drift of charts is in parts, U and V


class CocoGps:
    """The definition of the DensePose project's evaluator, which scores on COCO's minival are published with.

    It is the one of detectron2's projects/DensePose, evaluation/densepose_coco_evaluation.py, with at most 20 people a
    picture; as there, results are first quantized to bytes.
    """

    name = "coco"

    def __init__(self, surface: SmplSurface) -> None:
        self._surface = surface

    def check(self, picture: AnnotatedPicture) -> None:
        check_charts(picture, self.name)  # who lacks points of any kind is ignored, a missing mask is empty

    def similarities(self, picture: AnnotatedPicture, found: DetectionResult) -> Similarities:
        people = _with_charts(found)
        points = _PointsOfPicture(picture, units=255)
        truth = self._surface.points(points.part, points.u, points.v)
        twice_k_squared = 2 * MEAN_DISTANCES[points.part - 1] ** 2
        gps = np.zeros((len(found), len(picture.annotations)))
        boxes = boxes_xywh(found)
        for k, (left, top, width, height) in enumerate(boxes):
            # Truncated towards zero: a point up to a pixel left of or above the box is still in it.
            x, y = (points.x - left).astype(np.int64), (points.y - top).astype(np.int64)
            hit, part, u, v = _at(people.person(k), x, y, (int(height), int(width)))
            levels = (np.clip(255 * value, 0, 255).astype(np.int64) for value in (u, v))
            distance = self._surface.distance(truth[hit], self._surface.points_of_levels(part, *levels))
            value = np.zeros(len(x))
            value[hit] = np.exp(-(distance**2) / twice_k_squared[hit])
            gps[k] = points.means(value)
        return Similarities(gps, coco_mask_ious(picture, found))

    def match(self, similarity: np.ndarray, picture: AnnotatedPicture, found: DetectionResult) -> Match:
        return coco_match(similarity, [a.points is None for a in picture.annotations], picture, found)

    def distance(self, reference: DetectionResult, i: int, other: DetectionResult, j: int) -> float | None:
        return None


def check_charts(picture: AnnotatedPicture, name: str) -> None:
    """Raises ``DensePoseEngineError`` where points are on a mesh alone, which ``--gps NAME`` has no use of."""
    for annotation in picture.annotations:
        if annotation.points is None and annotation.vertices is not None:
            raise DensePoseEngineError(
                f"annotation {annotation.id} has dp_vertex and not all of dp_I, dp_U and dp_V, which --gps {name} asks "
                "for: take --gps ogps, which is of vertices"
            )


def coco_match(
    similarity: np.ndarray, ignored: Sequence[bool], picture: AnnotatedPicture, found: DetectionResult
) -> Match:
    """Who is right by the DensePose project's rules; ``ignored``: annotated people without points."""
    crowd = np.array([a.crowd for a in picture.annotations], bool)
    truth = np.array([a.box for a in picture.annotations], np.float64).reshape(-1, 4)
    return match_densepose(similarity, np.array(ignored, bool), crowd, box_iou(boxes_xywh(found), truth, crowd))


def _with_charts(found: DetectionResult) -> DensePoseResult:
    """Raises ``DensePoseEngineError`` for results of another kind, which have no parts, U and V."""
    if not isinstance(found, DensePoseResult):
        raise DensePoseEngineError(
            f"GPS is of charts, and these results are of {found.kind}: take --gps ogps with --mesh-file, which is of "
            "vertices"
        )
    return found


class _PointsOfPicture:
    """All annotated points of a picture, one after the other, in pixels of the picture (float64)."""

    def __init__(self, picture: AnnotatedPicture, units: int) -> None:
        places, parts, owners, counts = [np.zeros((4, 0))], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
        for j, annotation in enumerate(picture.annotations):
            points = annotation.points
            counts.append(0 if points is None else len(points))
            if points is not None:
                left, top, width, height = annotation.box
                x, y = points.x * width / units + left, points.y * height / units + top
                places.append(np.stack([x, y, points.u, points.v]))
                parts.append(points.part)
                owners.append(np.full(len(points), j))
        self.x, self.y, self.u, self.v = np.concatenate(places, axis=1)
        self.part, self._owner, self._counts = np.concatenate(parts), np.concatenate(owners), np.array(counts)

    def means(self, values: np.ndarray) -> np.ndarray:
        """The mean of each annotation's points; 0 for one without."""
        sums = np.bincount(self._owner, values, minlength=len(self._counts))
        return sums / np.maximum(self._counts, 1)


def _at(
    person: Person, x: np.ndarray, y: np.ndarray, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which pixels of a patch are on the person: their indices, and part, U and V there."""
    height, width = person.size if size is None else size
    inside = np.flatnonzero((x >= 0) & (y >= 0) & (x < width) & (y < height))
    part = person.labels[y[inside], x[inside]].astype(np.int64)
    hit, part = inside[part > 0], part[part > 0]
    u, v = person.uv[:, y[hit], x[hit]]
    return hit, part, u, v


# ---- masks -----------------------------------------------------------------------------------------------------------


def coco_mask_ious(picture: AnnotatedPicture, found: DetectionResult) -> np.ndarray:
    """``mask_ious`` with the masks that the DensePose project's evaluator takes: ``dp_masks``, else segmentations."""
    masks = (_coco_mask(annotation, (picture.height, picture.width)) for annotation in picture.annotations)
    return mask_ious(masks, [a.crowd for a in picture.annotations], found)


def mask_ious(truths: Iterable[np.ndarray], crowd: list[bool], found: DetectionResult) -> np.ndarray:
    """[N, M]: IoU of everybody found with each mask; of a crowd, the share of the found mask that lies in it.

    The masks, each of the picture's size, are taken one at a time: a few bytes of a file can stand for each.
    """
    ious = np.zeros((len(found), len(crowd)))
    people = [found.person(k) for k in range(len(found))]
    for j, mask in enumerate(truths if people else ()):
        total = int(mask.sum())
        for k, person in enumerate(people):
            there, here = person.windows(*mask.shape)
            patch = person.inside(here)
            area, both = int(patch.sum()), int((mask[there] & patch).sum())
            ious[k, j] = both / max(area if crowd[j] else area + total - both, 1)
    return ious


def _coco_mask(annotation: Annotation, size: tuple[int, int]) -> np.ndarray:
    """bool [height, width]: where the annotated person is."""
    if annotation.masks is None:
        return np.zeros(size, bool) if annotation.segmentation is None else annotation.segmentation.decode()
    merged = np.zeros(MASK_SIZE, bool)
    for part in annotation.masks:
        merged |= part.decode()
    full = np.zeros(size, bool)
    windows, places = [], []
    for start, length, limit in zip(annotation.box[1::-1], annotation.box[:1:-1], size, strict=True):
        first, rounded = int(start), round(max(length, 1))
        low = max(first, 0)
        high = max(min(int(start + length), limit, first + rounded), low)
        windows.append(slice(low, high))
        places.append(_places(rounded, slice(low - first, high - first)))
    full[tuple(windows)] = _stretch(merged, *places)
    return full


def _places(length: int, window: slice) -> np.ndarray:
    """float64: where of a mask, in its pixels, those of ``window`` lie, of ``length`` that it is stretched to."""
    return np.arange(window.start, window.stop) * ((MASK_SIZE[0] - 1) / (length - 1) if length > 1 else 0.0)


def _stretch(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """``mask`` at these places; bilinear, more than a half is inside: SciPy's ``zoom`` of order 1.

    Also where, at some sizes, the place of the last row or column rounds to beyond the mask, which is empty.
    """
    values = _interpolated(mask.astype(np.float64), rows, 0)
    inside = np.empty((len(rows), len(columns)), bool)
    step = _VALUES_AT_A_TIME // max(len(columns), 1) + 1
    for start in range(0, len(rows), step):
        inside[start : start + step] = _interpolated(values[start : start + step], columns, 1) > 0.5
    return inside


def _interpolated(values: np.ndarray, place: np.ndarray, axis: int) -> np.ndarray:
    last = values.shape[axis] - 1
    low = np.minimum(place.astype(np.int64), last)
    high = np.minimum(low + 1, last)
    shape = (-1, 1) if axis == 0 else (1, -1)
    weight = (place - low).reshape(shape)
    between: np.ndarray = np.take(values, low, axis) * (1 - weight) + np.take(values, high, axis) * weight
    return between * (place <= last).reshape(shape)
