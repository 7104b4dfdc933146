"""GPS of vertices (OGPS), which networks of continuous surface embeddings are scored by.

Of one found and one annotated person, the mean over annotated points of exp(-d^2 / 2k^2), d being the geodesic distance
between the annotated vertex (``dp_vertex``) and the one that was found at that pixel; where nobody was found there, a
point counts 0. It is the definition of detectron2's projects/DensePose, evaluation/densepose_coco_evaluation.py
(``computeOgps_single_pair_cse``), with at most 20 people a picture:

- ``dp_x`` and ``dp_y`` are in 1/255 of the annotated box, a point's pixel is counted from the found box's corner, which
  is not rounded, and truncated towards zero;
- k is 0.255 m, but on ``smpl_27554``, where ``dp_I`` is annotated, the mean distance within the point's part;
- masks, people without points and matches are as in ``gps.CocoGps``.

One thing differs: there, a pixel's vertex is looked for on the annotation's mesh (``ref_model``), whatever was found; a
result has the vertices of the mesh that it was made on, and a person on another mesh than the annotation's is not
similar to it. One category is scored: classes of a network are told apart by their meshes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..decoders import DetectionResult
from ..decoders.embeddings import VertexPerson, VertexResult
from ..decoders.mesh import Geodesics
from ..errors import DensePoseEngineError
from .annotations import AnnotatedPicture, Annotation, VertexPoints
from .average_precision import Match
from .boxes import boxes_xywh
from .gps import KAPPA, MEAN_DISTANCES, Similarities, coco_mask_ious, coco_match

HOW_TO_GET_DISTANCES = (
    "--gps ogps needs the geodesic distances of the mesh: --mesh-file, once for each mesh, names an .npz with "
    "geodesic_upper or geodesics, or detectron2's geodists_NAME.pkl (of "
    "https://dl.fbaipublicfiles.com/densepose/meshes/geodists/)"
)
UNITS = 255
#: The mesh whose points have a k of their part.
_BODY = "smpl_27554"


class Ogps:
    """The definition, with the distances of every mesh that is annotated.

    Raises (on construction):
        DensePoseEngineError: two of them are of one mesh.
    """

    name = "ogps"

    def __init__(self, geodesics: Iterable[Geodesics]) -> None:
        self._geodesics: dict[str, Geodesics] = {}
        for one in geodesics:
            if one.name in self._geodesics:
                raise DensePoseEngineError(f"two mesh files are of {one.name}; one is enough")
            self._geodesics[one.name] = one

    def check(self, picture: AnnotatedPicture) -> None:
        for annotation in picture.annotations:
            if annotation.vertices is not None:
                self._check(annotation.id, annotation.vertices)
            elif annotation.points is not None:
                raise DensePoseEngineError(
                    f"annotation {annotation.id} has points on charts and no dp_vertex, which --gps ogps asks for; "
                    "--gps coco and --gps simple are of charts"
                )

    def _check(self, annotation: int, points: VertexPoints) -> None:
        known = self._geodesics.get(points.mesh)
        if known is None:
            raise DensePoseEngineError(
                f"annotation {annotation} is on the mesh {points.mesh!r:.80} (ref_model), and the mesh files are of "
                f"{', '.join(self._geodesics)}; the name is what stands in an .npz as name, or else the file's own"
            )
        if len(points) and points.vertex.max() >= len(known):
            raise DensePoseEngineError(
                f"annotation {annotation} has dp_vertex {points.vertex.max()}, and the mesh file of {points.mesh} has "
                f"distances of {len(known)} vertices"
            )

    def similarities(self, picture: AnnotatedPicture, found: DetectionResult) -> Similarities:
        people = self._with_vertices(found)
        gps = np.zeros((len(found), len(picture.annotations)))
        corners = boxes_xywh(found)
        for k in range(len(found)):
            person = people.person(k)
            for j, annotation in enumerate(picture.annotations):
                if annotation.vertices is not None and annotation.vertices.mesh == person.mesh:
                    gps[k, j] = self._similarity(annotation, annotation.vertices, person, corners[k])
        return Similarities(gps, coco_mask_ious(picture, found))

    def _similarity(
        self, annotation: Annotation, points: VertexPoints, person: VertexPerson, corner: np.ndarray
    ) -> float:
        if not len(points):
            return 0.0
        left, top, width, height = annotation.box
        # Truncated towards zero: a point up to a pixel left of or above the box is still in it.
        x = (points.x * width / UNITS + left - corner[0]).astype(np.int64)
        y = (points.y * height / UNITS + top - corner[1]).astype(np.int64)
        hit = (x >= 0) & (y >= 0) & (x < int(corner[2])) & (y < int(corner[3])) & (points.vertex >= 0)
        hit[hit] = person.mask[y[hit], x[hit]]
        distance = np.full(len(points), np.inf)
        distance[hit] = self._geodesics[points.mesh].distance(points.vertex[hit], person.vertices[y[hit], x[hit]])
        return float(np.exp(-(distance**2) / (2 * _kappa(points) ** 2)).mean())

    def match(self, similarity: np.ndarray, picture: AnnotatedPicture, found: DetectionResult) -> Match:
        return coco_match(similarity, [a.vertices is None for a in picture.annotations], picture, found)

    def distance(self, reference: DetectionResult, i: int, other: DetectionResult, j: int) -> float | None:
        """Mean over the pixels where both have a vertex; None where there is none, or two meshes."""
        one, two = (self._with_vertices(found).person(k) for found, k in ((reference, i), (other, j)))
        if one.mesh != two.mesh:
            return None
        top, left = max(one.y, two.y), max(one.x, two.x)
        bottom = max(min(one.y + one.size[0], two.y + two.size[0]), top)
        right = max(min(one.x + one.size[1], two.x + two.size[1]), left)
        here, there = (np.s_[top - p.y : bottom - p.y, left - p.x : right - p.x] for p in (one, two))
        both = one.mask[here] & two.mask[there]
        if not both.any():
            return None
        return float(self._geodesics[one.mesh].distance(one.vertices[here][both], two.vertices[there][both]).mean())

    def _with_vertices(self, found: DetectionResult) -> VertexResult:
        """Raises ``DensePoseEngineError`` for results of another kind, or on meshes without distances."""
        if not isinstance(found, VertexResult):
            raise DensePoseEngineError(
                f"--gps ogps is of vertices, and these results are of {found.kind}: take --gps coco or --gps simple"
            )
        for name, surface in found.surfaces.items():
            known = self._geodesics.get(name)
            if known is None:
                raise DensePoseEngineError(
                    f"the results are on the mesh {name}, and the mesh files are of {', '.join(self._geodesics)}; "
                    "where it is the same mesh, its name must be the same"
                )
            if len(known) != len(surface):
                raise DensePoseEngineError(
                    f"the mesh file of {name} has distances of {len(known)} vertices, and the results are on one with "
                    f"{len(surface)}"
                )
        return found


def _kappa(points: VertexPoints) -> np.ndarray:
    """k of each point, meters."""
    if points.mesh != _BODY or points.part is None:
        return np.full(len(points), KAPPA)
    # Points of no part have a k of 0 there, so that only the very vertex counts.
    return np.concatenate([[1e-9], MEAN_DISTANCES])[points.part]
