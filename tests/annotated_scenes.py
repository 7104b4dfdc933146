"""Small made-up pictures with annotated and found people, and a made-up surface."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evaluation_reference import Found, Surface

from densepose_engine import DensePoseResult
from densepose_engine.evaluation.annotations import AnnotatedPicture, Annotation, Points
from densepose_engine.evaluation.gps import SimpleGps
from densepose_engine.evaluation.rle import RunLengths
from densepose_engine.evaluation.surfaces import GridSurface

HEIGHT, WIDTH = 48, 64


def made_up_surface(rng: np.random.Generator, vertices_per_part: int = 12, points: int = 200) -> Surface:
    """Parts are clusters in space, so that a wrong part is far off."""
    part = np.repeat(np.arange(1, 25), vertices_per_part)
    u, v = rng.random((2, len(part)))
    vertex = rng.integers(0, points, len(part))
    vertex[0] = points - 1
    places = np.zeros((points, 3))
    places[vertex] = rng.random((25, 3))[part] + 0.3 * np.stack([u, v, 0 * u], axis=1)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    return Surface(u, v, part, vertex, (distance / 2).astype(np.float32))


def condensed(distance: np.ndarray) -> np.ndarray:
    """DensePose's order: of a > b at a(a - 1)/2 + b."""
    return np.array([distance[a, b] for a in range(len(distance)) for b in range(a)], np.float32)


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed, column by column."""
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def made_up_picture(rng: np.random.Generator, people: int = 2) -> tuple[list[dict[str, Any]], list[Found]]:
    """Annotations with all keys but ids, and what was found: people with wrong pixels, and a few that are not there."""
    annotations, found = [], []
    for _ in range(people):
        x, y = rng.uniform(0, WIDTH / 2), rng.uniform(0, HEIGHT / 3)
        w, h = rng.uniform(12, WIDTH - x), rng.uniform(12, HEIGHT - y)
        box = np.array([x, y, x + w, y + h], np.float32) + rng.normal(0, 0.7, 4).astype(np.float32)
        score = float(np.float32(rng.uniform(0.3, 1)))
        patch = made_up_patch(rng, box)
        points: dict[str, list[float]] = {key: [] for key in ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V")}
        for dx, dy in rng.uniform(0, 255, (12, 2)):
            row = min(max(int(dy * h / 255 + y - box[1]), 0), patch[0].shape[0] - 1)
            column = min(max(int(dx * w / 255 + x - box[0]), 0), patch[0].shape[1] - 1)
            seen = patch[0][row, column] if rng.random() < 0.9 else rng.integers(1, 25)
            u, v = patch[1][:, row, column] + rng.normal(0, 0.05, 2)
            for key, value in zip(points, (dx, dy, float(max(seen, 1)), u, v), strict=True):
                points[key].append(round(float(value), 4))
        masks = [run_lengths(rng.random((256, 256)) < 0.02), [], run_lengths(_ellipse(256, 256))]
        whole = np.zeros((HEIGHT, WIDTH), bool)
        whole[int(y) : int(y + h), int(x) : int(x + w)] = _ellipse(int(y + h) - int(y), int(x + w) - int(x))
        annotations.append(
            {
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [round(float(n), 2) for n in (x, y, w, h)],
                "area": float(w * h),
                "segmentation": run_lengths(whole),
                **points,
                "dp_masks": masks,
            }
        )
        found.append((box, score, *patch))
    for _ in range(rng.integers(0, 3)):
        corner = rng.uniform(-2, 30, 2)
        box = np.concatenate([corner, corner + rng.uniform(0.4, 30, 2)]).astype(np.float32)
        found.append((box, float(np.float32(rng.uniform(0.2, 0.9))), *made_up_patch(rng, box)))
    return annotations, sorted(found, key=lambda one: -one[1])


def made_up_patch(rng: np.random.Generator, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """labels and uv of a box."""
    h, w = max(int(box[3] - box[1]), 1), max(int(box[2] - box[0]), 1)
    parts = np.arange(w) * 4 // w * 5 + np.arange(h)[:, None] * 4 // h + 1
    return np.where(_ellipse(h, w), parts, 0).astype(np.uint8), rng.uniform(-0.02, 1.02, (2, h, w)).astype(np.float32)


def _ellipse(height: int, width: int) -> np.ndarray:
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    return x**2 + y**2 <= 1


def result(found: list[Found], height: int = HEIGHT, width: int = WIDTH) -> DensePoseResult:
    """The same people as the package has them."""
    return DensePoseResult(
        boxes=np.array([box for box, *_ in found], np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, *_ in found], np.float32),
        labels=tuple(labels for *_, labels, _ in found),
        uv=tuple(uv for *_, uv in found),
        image_size=(height, width),
    )


def write_annotations(folder: Path, pictures: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """``annotations.json`` of pictures 0.png, 1.png ... of the same size; returns what is in it."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(len(pictures))],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": 100 * i + n, "image_id": i, **annotation}
            for i, annotations in enumerate(pictures)
            for n, annotation in enumerate(annotations)
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.json").write_text(json.dumps(content))
    return content


# ---- by hand ---------------------------------------------------------------------------------------------------------


def person(
    box: tuple[float, float, float, float],
    points: Sequence[tuple[float, float, int, float, float]] | None = None,
    mask: np.ndarray | None = None,
    **changes: Any,
) -> Annotation:
    """Points are x, y, part, u, v."""
    values: dict[str, Any] = {"id": 1, "area": box[2] * box[3], "crowd": False, "masks": None}
    if points is not None:
        x, y, part, u, v = (np.array(column, np.float64) for column in zip(*points, strict=True))
        values["points"] = Points(x, y, part.astype(np.int64), u, v)
    else:
        values["points"] = None
    values["segmentation"] = None if mask is None else RunLengths.parse(run_lengths(mask))
    return Annotation(box=box, **(values | changes))


def picture(*annotations: Annotation, height: int = 40, width: int = 50, id: int = 0) -> AnnotatedPicture:
    return AnnotatedPicture(id, f"{id}.png", Path(f"{id}.png"), height, width, annotations)


def found(box: list[float], part: int = 1, u: float = 0.0, v: float = 0.0, score: float = 0.9) -> Found:
    """A person of one part, with the same U and V everywhere."""
    corners = np.array(box, np.float32)
    h, w = max(int(corners[3] - corners[1]), 1), max(int(corners[2] - corners[0]), 1)
    uv = np.broadcast_to(np.array([u, v], np.float32)[:, None, None], (2, h, w)).copy()
    return corners, score, np.full((h, w), part, np.uint8), uv


def simple_gps(distance: float = 0.255) -> SimpleGps:
    """Part 1 is point 0 where U < 0.5 and point 1 beyond; all other parts are point 2."""
    grid = np.full((24, 4, 4), 2, np.uint16)
    grid[0, :, :2], grid[0, :, 2:] = 0, 1
    table = np.full((3, 3), np.inf, np.float32)
    np.fill_diagonal(table, 0)
    table[0, 1] = table[1, 0] = distance
    return SimpleGps(GridSurface(grid, table))
