"""ClosestVertices against what DensePose does: the product of all pixels with all vertices in chunks, then argmin.

One person of 150 x 300 pixels of a trained network (``--cse``, a folder with ``traces/``, a checkpoint and
``mesh.npz``), on its own mesh, on the same surface subdivided to 27,554 vertices, and with vertices strewn at random,
where no vertex can be passed over. Without such a folder a made-up surface takes the place of the mesh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from densepose_engine import _core

SMPL_VERTICES = 27_554
PERSON = (300, 150)
CHUNK = 10_000  # pixels whose distances to all vertices are in memory together, as DensePose has it

Contenders = dict[str, Callable[[], Any]]


class Scene(NamedTuple):
    """One person's maps, and the mesh that the embeddings belong to."""

    coarse: np.ndarray  # [1, 2, S, S]
    embedding: np.ndarray  # [1, D, S, S]
    vertices: np.ndarray  # [V, D]
    faces: np.ndarray | None


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def trained_scene(folder: Path) -> Scene:
    state = torch.load(next(folder.glob("*.pth")), weights_only=True)["model"]
    (vertices,) = (v for name, v in state.items() if ".embedder_" in name and name.endswith(".embeddings"))
    trace, mesh = np.load(folder / "traces" / "000000.npz"), np.load(folder / "mesh.npz")
    coarse, embedding = (np.ascontiguousarray(trace[name][:1]) for name in ("coarse_segm", "embedding"))
    return Scene(coarse, embedding, unit(vertices.numpy()), mesh["faces"])


def made_up_scene(count: int, seed: int = 0) -> Scene:
    """A closed surface, bent into 16 dimensions, and a map that wanders over it."""
    rng = np.random.default_rng(seed)
    turn, z = np.arange(count) * math.pi * (3 - math.sqrt(5)), 1 - (2 * np.arange(count) + 1) / count
    points = np.stack([np.cos(turn) * np.sqrt(1 - z**2), np.sin(turn) * np.sqrt(1 - z**2), z], axis=1)
    vertices = unit(np.stack([np.sin(points @ rng.normal(0, 2.5, 3) + rng.uniform(0, 6)) for _ in range(16)], axis=1))
    seen = torch.from_numpy(vertices[rng.integers(0, count, (1, 6, 6))].transpose(0, 3, 1, 2).copy())
    embedding = torch.nn.functional.interpolate(seen, (64, 64), mode="bilinear").numpy()
    coarse = rng.standard_normal((1, 2, 64, 64)).astype(np.float32) + np.array([0, 0.5], np.float32)[:, None, None]
    return Scene(coarse, embedding + rng.normal(0, 0.05, embedding.shape).astype(np.float32), vertices, None)


def subdivided(vertices: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
    """``count`` vertices: every edge halved, again and again, embeddings interpolated and normalized."""
    while len(vertices) < count:
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        edges, of_face = np.unique(edges, axis=0, return_inverse=True)
        middle = len(vertices) + of_face.reshape(3, -1).T
        vertices = np.concatenate([vertices, unit(vertices[edges[:, 0]] + vertices[edges[:, 1]])])
        (a, b, c), (ab, bc, ca) = faces.T, middle.T
        corners = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = np.concatenate([np.stack(corner, axis=1) for corner in corners])
    return vertices[:count]


def in_torch(pixels: torch.Tensor, vertices: torch.Tensor) -> torch.Tensor:
    """As detectron2's projects/DensePose, modeling/cse/utils.py: squared distances, first minimum."""
    squares = (vertices**2).sum(1)
    return torch.cat(
        [((x**2).sum(1, keepdim=True) + squares - 2 * x @ vertices.T).argmin(dim=1) for x in pixels.split(CHUNK)]
    )


def candidates(pixels: np.ndarray, vertices: np.ndarray, tree: tuple[np.ndarray, ...], most: int = 300) -> float:
    """Vertices that a pixel has to be compared with, on average: those in blocks that no bounding box rules out."""
    some = pixels[np.random.default_rng(0).choice(len(pixels), min(most, len(pixels)), replace=False)].astype(
        np.float64
    )
    best = (some @ vertices.T.astype(np.float64) - (vertices.astype(np.float64) ** 2).sum(1) / 2).max(axis=1)
    boxes = np.concatenate([some, np.ones((len(some), 1))], axis=1)
    low, high = (np.nan_to_num(tree[2][:, i].transpose(0, 2, 1).reshape(-1, boxes.shape[1])) for i in (0, 1))
    there = np.isfinite(tree[2][:, 1, -1]).ravel()
    bound = np.maximum(boxes, 0) @ high[there].T + np.minimum(boxes, 0) @ low[there].T
    return float(16 * (bound >= best[:, None]).sum(axis=1).mean())


def cases(threads: int, folder: Path | None = None) -> Iterator[tuple[str, Contenders]]:
    """A case for each mesh; what both find is compared before."""
    scene = made_up_scene(5001) if folder is None else trained_scene(folder)
    fine = made_up_scene(SMPL_VERTICES).vertices if scene.faces is None else None
    if scene.faces is not None:
        fine = subdivided(scene.vertices, scene.faces, SMPL_VERTICES)
    strewn = unit(np.random.default_rng(0).standard_normal((SMPL_VERTICES, scene.vertices.shape[1])))
    box = np.array([[0, 0, PERSON[1], PERSON[0]]], np.float32)
    for name, vertices in (("its own mesh", scene.vertices), ("subdivided", fine), ("strewn at random", strewn)):
        assert vertices is not None
        tree = _core.vertex_tree(vertices)
        op = _core.ops.ClosestVertices()
        arrays = (scene.coarse, scene.embedding, box, np.zeros(1, np.int32), *tree)
        sheets = np.array([0, len(tree[3])], np.int32)
        closest, mask, _ = op(*arrays, sheets, threads=threads)
        resized = torch.nn.functional.interpolate(torch.from_numpy(scene.embedding), PERSON, mode="bilinear")
        pixels = resized[0].flatten(1).T[torch.from_numpy(mask == 1)].contiguous()
        points = torch.from_numpy(vertices)
        expected = in_torch(pixels, points).numpy()
        others = np.flatnonzero(closest[mask == 1] != expected)
        doubles = [torch.from_numpy(vertices[v[others]]).double() for v in (closest[mask == 1], expected)]
        near, far = (((pixels[others].double() - v) ** 2).sum(1).numpy() for v in doubles)
        assert (np.abs(near - far) < 1e-5).all(), "neither is closer, within rounding"
        yield (
            f"ClosestVertices, {len(pixels)} pixels of {PERSON[1]}x{PERSON[0]}, {len(vertices)} vertices, {name}: "
            f"{candidates(pixels.numpy(), vertices, tree):.0f} candidates a pixel, {len(others)} ties",
            {
                "densepose_engine": lambda op=op, arrays=arrays, sheets=sheets: op(*arrays, sheets, threads=threads),
                "matmul and argmin in torch": lambda pixels=pixels, points=points: in_torch(pixels, points),
            },
        )
