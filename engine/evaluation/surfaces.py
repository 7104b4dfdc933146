"""Where points of a body lie on its surface, and how far they are from each other along it.

Two tables, for the two definitions of GPS: ``GridSurface`` is a file of its own (``surface.npz``), ``SmplSurface`` is
made by ``python -m densepose_engine.evaluation.convert_geodesics`` of what the DensePose project publishes.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import DensePoseEngineError, require
from ..files.npz import NpzReader
from ..files.reading import open_regular
from ..result import PARTS

_LEVELS = 256  # of U and V in DensePose's results, which are bytes
_MOST_CELLS = 1024  # of a grid's side
_TABLE = ("u", "v", "part", "vertex", "distance")
# Of .mat files, as of .npz; coordinates and distances hardly compress.
_LEAST_LIMIT, _MOST_RATIO, _CHUNK, _COMPRESSED = 256 << 20, 64, 1 << 20, 15

HOW_TO_GET_GEODESICS = (
    "--gps coco needs the geodesic distances of the SMPL surface, which may not be shipped with this package: download "
    "SMPL_subdiv.mat, SMPL_SUBDIV_TRANSFORM.mat and Pdist_matrix.pkl of the DensePose project (from "
    "https://dl.fbaipublicfiles.com/densepose/data/), convert them once with 'python -m "
    "densepose_engine.evaluation.convert_geodesics FOLDER geodesics.npz', and pass --geodesics geodesics.npz"
)


class GridSurface:
    """A surface of P points with a square grid of nearest points per part.

    ``surface.npz`` has ``grid`` [24, cells, cells], integers: (part - 1, V cell, U cell) -> point, and ``distance``
    [P, P], floats in metres.
    """

    def __init__(self, grid: np.ndarray, distance: np.ndarray) -> None:
        if grid.ndim != 3 or len(grid) != PARTS or grid.shape[1] != grid.shape[2] or grid.shape[1] == 0:
            raise ValueError(f"its grid is of shape {grid.shape}, it must be ({PARTS}, cells, cells)")
        if grid.shape[1] > _MOST_CELLS:
            raise ValueError(f"its grid has {grid.shape[1]} cells a side, at most {_MOST_CELLS} are read")
        if distance.ndim != 2 or distance.shape[0] != distance.shape[1]:
            raise ValueError(f"its distance is of shape {distance.shape}, it must be square")
        if grid.min() < 0 or grid.max() >= len(distance):
            raise ValueError("its grid names points that have no distance")
        if not (distance >= 0).all():  # false of NaN; infinite is allowed: not connected
            raise ValueError("its distance has entries that are negative or no numbers")
        self._grid, self._distance = grid.astype(np.int64), distance

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GridSurface:
        """Raises ``FileNotFoundError`` and, for a file that is no such table, ``DensePoseEngineError``."""
        try:
            with NpzReader(path) as file:
                return cls(file.read("grid", "ui", (PARTS, None, None)), file.read("distance", "f", (None, None)))
        except ValueError as error:
            raise DensePoseEngineError(f"{os.fspath(path)} is no readable surface table: {error}") from error

    def points(self, part: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The surface's points at U, V of parts 1 .. 24."""
        cells = self._grid.shape[1]
        row, column = (np.clip((x * cells).astype(np.int64), 0, cells - 1) for x in (v, u))
        return self._grid[part - 1, row, column]

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """float64, metres along the surface."""
        return self._distance[a, b].astype(np.float64)


class SmplSurface:
    """DensePose's subdivided SMPL surface: the nearest vertex of a part in its U, V; distances between merged vertices.

    Args:
        u, v: float [V], chart coordinates of the subdivided vertices.
        part: integer [V], 1 .. 24.
        vertex: integer [V], 0 .. n - 1: the vertex that has the distances (those along the seams of charts coincide).
        distance: float [n(n - 1)/2], metres: of a > b at a(a - 1)/2 + b, as in DensePose's Pdist_matrix; or [n, n].
    """

    def __init__(
        self, u: np.ndarray, v: np.ndarray, part: np.ndarray, vertex: np.ndarray, distance: np.ndarray
    ) -> None:
        if not u.ndim == v.ndim == part.ndim == vertex.ndim == 1 or not len(u) == len(v) == len(part) == len(vertex):
            raise ValueError("its u, v, part and vertex are not four lists of one length")
        if u.dtype.kind != "f" or v.dtype.kind != "f" or distance.dtype.kind != "f":
            raise ValueError("its u, v and distance are not floating-point numbers")
        if part.dtype.kind not in "iu" or vertex.dtype.kind not in "iu":
            raise ValueError("its part and vertex are not integers")
        if missing := sorted(set(range(1, PARTS + 1)) - set(part.tolist())):
            raise ValueError(f"it has no vertex of part {missing[0]}")
        if len(part) and (part.max() > PARTS or part.min() < 1 or vertex.min() < 0):
            raise ValueError(f"its part is not 1 .. {PARTS}, or its vertex negative")
        n = len(distance) if distance.ndim == 2 else (1 + math.isqrt(1 + 8 * distance.size)) // 2
        if distance.shape not in ((n * (n - 1) // 2,), (n, n)):
            raise ValueError(
                f"its distance is of shape {distance.shape}, it must be (n(n - 1)/2,) or (n, n) of n vertices"
            )
        if vertex.max() >= n:
            raise ValueError(f"its vertex names {vertex.max()}, and there are distances of {n} vertices")
        self._distance = distance
        self._vertices = [vertex[part == k + 1].astype(np.int64) for k in range(PARTS)]
        self._places = [np.stack([u[part == k + 1], v[part == k + 1]]).astype(np.float64) for k in range(PARTS)]
        self._of_level = np.full((PARTS, _LEVELS, _LEVELS), -1, np.int64)  # found when first asked for

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SmplSurface:
        """Read the table from an ``.npz`` or a ``.mat`` file whose arrays are called as the arguments are.

        Raises:
            FileNotFoundError: there is no such file.
            BackendUnavailable: a ``.mat`` file needs SciPy.
            DensePoseEngineError: it is no such table.
        """
        path = Path(path)
        if path.suffix.lower() in (".pkl", ".pickle"):
            raise DensePoseEngineError(
                f"{path} is a pickle, which could run any program: it is not opened. {HOW_TO_GET_GEODESICS}"
            )
        read = _read_mat if path.suffix.lower() == ".mat" else _read_npz
        try:
            return cls(**read(path))
        except ValueError as error:
            raise DensePoseEngineError(f"{path} is no table of geodesics: {error}. {HOW_TO_GET_GEODESICS}") from error

    def points(self, part: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The vertices that are nearest to U, V on the charts of parts 1 .. 24."""
        found = np.empty(len(part), np.int64)
        for k in np.unique(part):
            here = np.flatnonzero(part == k)
            places = self._places[k - 1]
            for some in np.array_split(here, len(here) * places.shape[1] // (1 << 22) + 1):  # 32 MB at a time
                square = (places[0] - u[some, None]) ** 2 + (places[1] - v[some, None]) ** 2
                found[some] = self._vertices[k - 1][square.argmin(axis=1)]
        return found

    def points_of_levels(self, part: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The same for U and V in 255ths, integers 0 .. 255: each place is looked for once."""
        new = np.unique(np.stack([part - 1, u, v])[:, self._of_level[part - 1, u, v] < 0], axis=1)
        self._of_level[tuple(new)] = self.points(new[0] + 1, new[1] / 255.0, new[2] / 255.0)
        return self._of_level[part - 1, u, v]

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """float64, metres along the surface."""
        if self._distance.ndim == 2:
            return self._distance[a, b].astype(np.float64)
        more, less = np.maximum(a, b), np.minimum(a, b)
        found = np.zeros(len(a), np.float64)
        apart = more != less
        more, less = more[apart], less[apart]
        found[apart] = self._distance[more * (more - 1) // 2 + less]
        return found


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with NpzReader(path) as file:
            return {name: file.read(name, "fui", None) for name in _TABLE}
    except ValueError as error:
        raise DensePoseEngineError(f"{path} is no readable .npz file: {error}. {HOW_TO_GET_GEODESICS}") from error


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    found = load_mat(path)
    arrays = {}
    for name in _TABLE:
        if name not in found:
            raise ValueError(f"it has no array {name}")
        arrays[name] = found[name].squeeze()  # MATLAB knows no lists, only matrices with one row
    for name in ("part", "vertex"):
        if arrays[name].dtype.kind == "f" and (arrays[name] % 1 == 0).all():
            arrays[name] = arrays[name].astype(np.int64)
    return arrays


def load_mat(path: Path) -> dict[str, np.ndarray]:
    """The matrices of a ``.mat`` file.

    Raises:
        OSError: it is missing, no regular file, or may not be read.
        BackendUnavailable: SciPy is not installed.
        DensePoseEngineError: it is damaged, or inflates to more than docs/limits.md allows.
    """
    with open_regular(path) as stream:
        loadmat = require("scipy.io", purpose=f"reading {path}").loadmat
        try:
            _check_inflated(stream)
            return {name: array for name, array in loadmat(path).items() if isinstance(array, np.ndarray)}
        except Exception as error:  # SciPy's reader raises all kinds
            raise DensePoseEngineError(f"{path} is no readable .mat file: {error}. {HOW_TO_GET_GEODESICS}") from error


def _check_inflated(stream: BinaryIO) -> None:
    """Refuse a MATLAB file of version 5 whose compressed elements hold far more than they should; SciPy does not look.

    Such a file is a header of 128 bytes and elements, each a type, a size and so many bytes.
    """
    order = {b"IM": "<", b"MI": ">"}.get(stream.read(128)[126:], "")
    size = os.fstat(stream.fileno()).st_size
    most = total = max(_LEAST_LIMIT, _MOST_RATIO * size)
    while order and len(head := stream.read(8)) == 8:
        kind, left = struct.unpack(f"{order}II", head)
        if kind != _COMPRESSED:
            stream.seek(left, os.SEEK_CUR)
            continue
        inflater = zlib.decompressobj()
        while left and (chunk := stream.read(min(left, _CHUNK))):
            left -= len(chunk)
            while chunk:
                total -= len(inflater.decompress(chunk, _CHUNK))
                if total < 0:
                    raise ValueError(f"it inflates to more than {most} bytes, which are read of such a file at most")
                chunk = inflater.unconsumed_tail
