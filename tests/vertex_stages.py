"""What follows the maps of a model with vertices, at the sizes of a stage file: the closest vertices, and the mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import reference
from stages import SEARCHED, thinning

from densepose_engine import _core

#: By how much the distance of another vertex than detectron2's may be larger, relative to the largest there is.
TIE = 1e-6


def searched(stages: Mapping[str, np.ndarray]) -> list[str]:
    """The names of what a stage file has of it, as MESH.i, for box i."""
    begin = SEARCHED[0]
    return [n.removeprefix(begin) for n in stages if n.startswith(begin) and not n.endswith((".shape", ".largest"))]


def vertex_differences(
    maps: Mapping[str, np.ndarray], vertices: Mapping[str, np.ndarray], stages: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float, float]]:
    """For each search of a full or a committed stage file: its name, the shares of pixels with another vertex or mask.

    Args:
        maps: ``coarse_segm`` and ``embedding`` of the first boxes.
        vertices: embeddings ``(V, D)`` by the mesh's name.

    detectron2 looked for vertices everywhere, and its masks are those of the logits. A vertex or a side of the mask
    that differs must be a tie.
    """
    for name in searched(stages):
        mesh, _, box = name.rpartition(".")
        shape = tuple(int(side) for side in stages.get(f"closest.{name}.shape", stages[f"closest.{name}"].shape))
        coarse, embedding = (maps[one][int(box)] for one in ("coarse_segm", "embedding"))
        everywhere = np.stack([np.zeros_like(coarse[0]), np.ones_like(coarse[0])])
        closest, _ = _search(everywhere, embedding, vertices[mesh], shape)
        _, mask = _search(coarse, embedding, vertices[mesh], shape)
        pixels = np.arange(closest.size)[:: _step(stages, f"closest.{name}", closest.size)]
        other = pixels[closest.ravel()[pixels] != stages[f"closest.{name}"].ravel()]
        expected = dict(zip(pixels.tolist(), stages[f"closest.{name}"].ravel().tolist(), strict=True))
        resampled = reference.resample(embedding, *shape).reshape(len(embedding), -1).T
        for pixel in other.tolist():
            distances = ((resampled[pixel] - vertices[mesh].astype(np.float64)) ** 2).sum(axis=1)
            excess = distances[expected[pixel]] - distances[closest.ravel()[pixel]]
            assert abs(excess) <= TIE * distances.max(), f"{name}: pixel {pixel} is no tie, {excess}"
        differs = mask.ravel()[pixels].astype(bool) != stages[f"mask.{name}"].ravel()
        resampled = reference.resample(coarse, *shape)
        lead = np.abs(resampled[0] - resampled[1:].max(axis=0)).ravel()[pixels[differs]]
        assert (lead <= 1e-5 * np.abs(coarse).max()).all(), f"{name}: the mask is another where nothing is near a tie"
        yield name, len(other) / len(pixels), float(differs.mean())


def _step(stages: Mapping[str, np.ndarray], name: str, size: int) -> int:
    return thinning(size) if f"{name}.shape" in stages else 1


def _search(
    coarse: np.ndarray, embedding: np.ndarray, vertices: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and mask of a box of this shape."""
    tree = _core.vertex_tree(np.ascontiguousarray(vertices))
    sheets = np.array([0, len(tree[3])], np.int32)
    box = np.array([[0, 0, shape[1], shape[0]]], np.float32)
    maps = [np.ascontiguousarray(one[None], np.float32) for one in (coarse, embedding)]
    closest, mask, _ = _core.ops.ClosestVertices()(*maps, box, np.zeros(1, np.int32), *tree[:4], sheets)
    return closest.reshape(shape), mask.reshape(shape)
