"""What a quantized network of vertices loses, in centimeters along the surface, beside bf16 and a grey level of noise.

    python benchmarks/embeddings.py fp32.engine int8.engine bf16.engine --data val --mesh mesh.npz

The first engine is the reference. Against the annotations: of the annotated people whom both find (box IoU 0.5, each
by the most alike), the mean geodesic error of the annotated points, and how much larger it is than the reference's,
with the 95% interval of a bootstrap that draws people; on the points that are in both masks, and on those in each one's
own.
Against the reference: people whom only one side has, and of the others mask IoU, the share of equal vertices and the
mean geodesic distance on the pixels in both masks. The same for the reference on pictures with -1, 0 or +1 grey levels
of noise (``evaluation.yardstick``); what no farther off than that is, nobody can see.

The mesh file has ``geodesic_upper`` or ``geodesics`` in meters and ``iuv_to_vertex``, integers [24, V cells, U cells].
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from densepose_engine import Engine
from densepose_engine.benchmarking.machine import describe_machine
from densepose_engine.decoders.embeddings import VertexResult
from densepose_engine.decoders.mesh import Geodesics, read_geodesics
from densepose_engine.evaluation.annotations import AnnotatedPicture, Annotation, Dataset
from densepose_engine.evaluation.boxes import box_iou, boxes_xywh
from densepose_engine.evaluation.people import match_people
from densepose_engine.evaluation.results import EnginePredictor
from densepose_engine.evaluation.yardstick import with_noise
from densepose_engine.files.npz import NpzReader
from densepose_engine.pictures.read import to_rgb_array

OVERLAP = 0.5
UNITS = 256  # of dp_x and dp_y in the box
RESAMPLES, TAILS = 10_000, (2.5, 97.5)


@dataclass(frozen=True)
class Surface:
    """The mesh that errors are measured on."""

    geodesics: Geodesics
    grid: np.ndarray

    @classmethod
    def load(cls, path: Path) -> Surface:
        with NpzReader(path) as file:
            return cls(read_geodesics(path), file.read("iuv_to_vertex", "ui", (24, None, None)).astype(np.int64))

    def vertices(self, annotation: Annotation) -> np.ndarray:
        """The vertex under each annotated point."""
        points = annotation.points
        assert points is not None
        rows, columns = self.grid.shape[1:]
        row = np.clip((points.v * rows).astype(np.int64), 0, rows - 1)
        column = np.clip((points.u * columns).astype(np.int64), 0, columns - 1)
        return self.grid[points.part - 1, row, column]


def errors_of(picture: AnnotatedPicture, result: VertexResult, surface: Surface) -> dict[int, np.ndarray]:
    """Annotations that are found: their number -> geodesic error of each point in meters, NaN off the mask."""
    truth = np.array([a.box for a in picture.annotations], np.float64).reshape(-1, 4)
    iou = box_iou(boxes_xywh(result), truth)
    found: dict[int, np.ndarray] = {}
    while iou.size and iou.max() >= OVERLAP:
        k, j = np.unravel_index(int(iou.argmax()), iou.shape)
        iou[k], iou[:, j] = -1, -1
        annotation = picture.annotations[j]
        if annotation.points is None:
            continue
        x, y, width, height = annotation.box
        column = np.clip((x + annotation.points.x / UNITS * width).astype(int), 0, picture.width - 1)
        row = np.clip((y + annotation.points.y / UNITS * height).astype(int), 0, picture.height - 1)
        found[int(j)] = _errors(result.person(int(k)), row, column, surface.vertices(annotation), surface.geodesics)
    return found


def _errors(person: Any, row: np.ndarray, column: np.ndarray, truth: np.ndarray, geodesics: Geodesics) -> np.ndarray:
    row, column = row - person.y, column - person.x
    height, width = person.size
    inside = (row >= 0) & (column >= 0) & (row < height) & (column < width)
    inside[inside] = person.mask[row[inside], column[inside]]
    errors = np.full(len(row), np.nan)
    errors[inside] = geodesics.distance(person.vertices[row[inside], column[inside]], truth[inside])
    return errors


@dataclass
class Side:
    """What is compared with the reference: another engine, or the reference on other pictures."""

    name: str
    run: Callable[[np.ndarray, int], VertexResult]
    seeds: Sequence[int] = (0,)
    #: Of each annotated person whom both find: who, points in both masks, the sums of both errors there; points and
    #: sums in each one's own mask.
    people: list[tuple[float, ...]] = field(default_factory=list)
    only: np.ndarray = field(default_factory=lambda: np.zeros(4, int))
    mask_iou: list[float] = field(default_factory=list)
    #: Pixels in both masks, those with the same vertex, the sum of distances.
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def add(self, picture: AnnotatedPicture, rgb: np.ndarray, reference: VertexResult, surface: Surface) -> None:
        """Run on one more picture."""
        mine = errors_of(picture, reference, surface)
        for seed in self.seeds:
            result = self.run(rgb, seed)
            theirs = errors_of(picture, result, surface)
            for j in mine.keys() & theirs.keys():
                a, b = mine[j], theirs[j]
                both = np.isfinite(a) & np.isfinite(b)
                own = (np.isfinite(a).sum(), np.nansum(a), np.isfinite(b).sum(), np.nansum(b))
                self.people.append((picture.annotations[j].id, both.sum(), a[both].sum(), b[both].sum(), *own))
            pairs = match_people(reference, result)
            self.only += (
                *(len(reference) - len(pairs), len(result) - len(pairs)),
                *(len(mine.keys() - theirs.keys()), len(theirs.keys() - mine.keys())),
            )
            for i, k, _ in pairs:
                self._compare(reference.person(i), result.person(k), surface.geodesics)

    def _compare(self, one: Any, other: Any, geodesics: Geodesics) -> None:
        # Windows of each patch that show the same pixels.
        top, left = max(one.y, other.y), max(one.x, other.x)
        bottom = max(min(one.y + one.size[0], other.y + other.size[0]), top)
        right = max(min(one.x + one.size[1], other.x + other.size[1]), left)
        here, there = (np.s_[top - p.y : bottom - p.y, left - p.x : right - p.x] for p in (one, other))
        both = one.mask[here] & other.mask[there]
        union = int(one.mask.sum()) + int(other.mask.sum()) - int(both.sum())
        self.mask_iou.append(int(both.sum()) / union if union else 1.0)
        a, b = one.vertices[here][both], other.vertices[there][both]
        self.pixels += len(a), (a == b).sum(), geodesics.distance(a, b).sum()

    def report(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        who, common, mine, theirs, own, own_mine, others, own_theirs = np.array(self.people, np.float64).T
        only_reference, only_other, missed, gained = (self.only / len(self.seeds)).tolist()
        pixels, equal, distance = self.pixels.tolist()
        return {
            "side": self.name,
            "annotated_people_of_both": len(who) / len(self.seeds),
            "annotated_people_of_reference_only": missed,
            "annotated_people_of_other_only": gained,
            "points_in_both_masks": int(common.sum()),
            "reference_error_cm": 100 * mine.sum() / common.sum(),
            "error_cm": 100 * theirs.sum() / common.sum(),
            "change": change(who, common, mine, common, theirs),
            "own_reference_error_cm": 100 * own_mine.sum() / own.sum(),
            "own_error_cm": 100 * own_theirs.sum() / others.sum(),
            "own_change": change(who, own, own_mine, others, own_theirs),
            "own_points": [int(own.sum()), int(others.sum())],
            "people_of_both": len(self.mask_iou) / len(self.seeds),
            "people_of_reference_only": only_reference,
            "people_of_other_only": only_other,
            "mask_iou": float(np.mean(self.mask_iou)),
            "equal_vertices": equal / pixels,
            "distance_cm": 100 * distance / pixels,
        }


def change(
    who: np.ndarray, points: np.ndarray, error: np.ndarray, others: np.ndarray, other: np.ndarray
) -> list[float]:
    """How much larger the other mean error is, as a share: [value, low, high] of a paired bootstrap over people.

    Of each person: points and the sum of their errors, on both sides. A person may be there several times, for several
    seeds, and is drawn with all of them.
    """
    _, index = np.unique(who, return_inverse=True)
    sums = np.stack([np.bincount(index, values) for values in (points, error, others, other)])
    people = sums.shape[1]
    drawn = np.random.default_rng(0).multinomial(people, np.full(people, 1 / people), size=RESAMPLES)
    a, b, c, d = (drawn @ sums.T).T
    total = sums.sum(axis=1)
    low, high = np.percentile(d / c / (b / a) - 1, TAILS)
    return [float(total[3] / total[2] / (total[1] / total[0]) - 1), float(low), float(high)]


def run_once(predictor: EnginePredictor, rgb: np.ndarray, seed: int = 0) -> VertexResult:
    """What an engine finds."""
    result = predictor.run(rgb)
    if not isinstance(result, VertexResult):
        raise SystemExit(f"{predictor.name} is no network of vertices")
    return result


def run_with_noise(predictor: EnginePredictor, rgb: np.ndarray, seed: int) -> VertexResult:
    """What an engine finds in a picture with noise."""
    return run_once(predictor, with_noise(rgb, seed))


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per side."""
    dataset = Dataset.load(arguments.data)
    pictures = dataset.pictures[: arguments.limit]
    surface = Surface.load(arguments.mesh)
    with ExitStack() as stack:
        engines = [
            stack.enter_context(Engine.load(path, num_threads=arguments.threads, num_requests=1))
            for path in arguments.engines
        ]
        first, *others = [
            EnginePredictor(engine, str(path)) for engine, path in zip(engines, arguments.engines, strict=True)
        ]
        sides = [
            Side(f"{engine.precision} {predictor.name}", partial(run_once, predictor))
            for engine, predictor in zip(engines[1:], others, strict=True)
        ]
        if arguments.seeds:
            noisy = f"noise of one grey level, {len(arguments.seeds)} times"
            sides.append(Side(noisy, partial(run_with_noise, first), arguments.seeds))
        for n, picture in enumerate(pictures):
            rgb = to_rgb_array(picture.path)
            reference = run_once(first, rgb)
            for side in sides:
                side.add(picture, rgb, reference, surface)
            if n % 20 == 19:
                print(f"{n + 1} of {len(pictures)} pictures", flush=True)
        return [side.report() for side in sides]


def print_row(row: dict[str, Any]) -> None:
    print(f"\n{row['side']}")
    print(
        f"  annotated people of both {row['annotated_people_of_both']:.1f}, of the reference only "
        f"{row['annotated_people_of_reference_only']:.1f}, of this only {row['annotated_people_of_other_only']:.1f}"
    )
    for prefix, where in (("", "points in both masks"), ("own_", "points in each one's own mask")):
        value, low, high = (100 * number for number in row[f"{prefix}change"])
        print(
            f"  error on the {where}: reference {row[f'{prefix}reference_error_cm']:.2f} cm, "
            f"this {row[f'{prefix}error_cm']:.2f} cm: {value:+.2f}% ({low:+.2f} .. {high:+.2f})"
        )
    print(
        f"  people of both {row['people_of_both']:.1f}, of the reference only {row['people_of_reference_only']:.1f}, "
        f"of this only {row['people_of_other_only']:.1f}; mask IoU {row['mask_iou']:.4f}, equal vertices "
        f"{100 * row['equal_vertices']:.1f}%, mean distance {row['distance_cm']:.2f} cm"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=Path, nargs="+", metavar="ENGINE", help="the reference, then the others")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="with annotations.json")
    parser.add_argument("--mesh", type=Path, required=True, metavar="NPZ")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], metavar="N", help="of the noise")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments)
    print(f"\n{describe_machine()['cpu']}; {arguments.data}, reference {arguments.engines[0]}")
    for row in rows:
        print_row(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
