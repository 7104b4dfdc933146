"""The user's own mesh: where the vertices of a result lie in space, in a texture, and how far apart along the surface.

Vertices of a result are numbers; whose they are, a file says. None is shipped: detectron2's have no license.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DensePoseEngineError
from ..files.npz import NpzReader
from ..files.numpy_pickle import NUMPY_BUILDERS, PickledArray
from ..files.pickle_reader import read_pickle
from ..files.reading import NotRegularError, TooLargeError, open_regular, read_regular
from ..files.surface_formats import read_obj, read_ply

_MOST_VERTICES = 1 << 22
_MOST_FACES = 1 << 24
_MOST_BYTES = 64 << 20  # of text, which takes some 30 times as many; those of 27,554 vertices have 4 MB
_MOST_PICKLE_BYTES = 8 << 30  # geodesics of 27,554 vertices are 3 GB
_MOST_METERS = 1e6  # positions may be in millimeters
#: What files call each array; the first is ours.
_VERTICES, _FACES = ("vertices", "points"), ("faces", "triangles")
_TEXTURE = ("texture_coordinates", "texcoords", "uv")
_SQUARE, _UPPER = ("geodesics", "geodists", "distance"), ("geodesic_upper",)
#: How detectron2 names the files beside a mesh's.
_GEODESICS_FILE = "geodists_"


@dataclass(frozen=True, eq=False)
class Mesh:
    """A mesh of V vertices, in the order of the network's vertex embeddings.

    ``texture_coordinates``: from the left and from the top of a texture picture, 0 .. 1, as detectron2 has them; NaN
    where a vertex has none.

    Raises (on construction):
        ValueError: arrays that do not belong together.
    """

    name: str
    vertices: np.ndarray
    """float32 [V, 3]."""
    faces: np.ndarray | None = None
    """int32 [F, 3]: numbers of vertices."""
    texture_coordinates: np.ndarray | None = None
    """float32 [V, 2]."""

    def __post_init__(self) -> None:
        _check(self.vertices, "vertices", np.float32, 3)
        if not 0 < len(self.vertices) <= _MOST_VERTICES:
            raise ValueError(f"it has {len(self.vertices)} vertices, it must have 1 .. {_MOST_VERTICES}")
        if not (np.abs(self.vertices) <= _MOST_METERS).all():  # false of NaN
            raise ValueError("its vertices are not all finite, or farther out than any mesh")
        if self.faces is not None:
            _check(self.faces, "faces", np.int32, 3)
            if len(self.faces) and not 0 <= self.faces.min() <= self.faces.max() < len(self.vertices):
                raise ValueError(f"its faces name vertices beyond its {len(self.vertices)}")
        if self.texture_coordinates is not None:
            _check(self.texture_coordinates, "texture coordinates", np.float32, 2)
            if len(self.texture_coordinates) != len(self.vertices):
                raise ValueError(
                    f"it has texture coordinates of {len(self.texture_coordinates)} vertices, and {len(self.vertices)} "
                    "vertices (detectron2's catalog gives horse_5004 those of zebra_5002)"
                )

    def __len__(self) -> int:
        return len(self.vertices)

    def __repr__(self) -> str:
        faces = "" if self.faces is None else f", {len(self.faces)} faces"
        return f"Mesh({self.name!r}, {len(self)} vertices{faces})"


class Geodesics:
    """Distances along a mesh's surface between any two of its vertices, in the mesh's units: meters.

    Args:
        name: the mesh's.
        distance: floats, ``[V, V]``, or its upper triangle without the diagonal, row by row: ``[V(V - 1)/2]``.

    Raises:
        ValueError: it is of another shape, or has entries that are no distances.
    """

    def __init__(self, name: str, distance: np.ndarray) -> None:
        self.name = name
        count = len(distance) if distance.ndim == 2 else (1 + math.isqrt(1 + 8 * distance.size)) // 2
        if distance.dtype.kind != "f" or distance.shape not in ((count, count), (count * (count - 1) // 2,)):
            raise ValueError(
                f"its geodesic distances are {distance.dtype} {distance.shape}, they must be floats of shape (V, V) or "
                "(V(V - 1)/2,) for V vertices"
            )
        # In pieces: the largest have 3 GB. Infinite is allowed: not connected.
        flat = distance.reshape(-1) if distance.flags.c_contiguous else distance.T.reshape(-1)
        if any(not (flat[at : at + (1 << 24)] >= 0).all() for at in range(0, flat.size, 1 << 24)):  # false of NaN
            raise ValueError("its geodesic distances are negative somewhere, or no numbers")
        self._distance, self._count = distance, count

    def __len__(self) -> int:
        return self._count

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """float64, of the shape of ``a`` and ``b``, which are numbers of vertices."""
        if self._distance.ndim == 2:
            return self._distance[a, b].astype(np.float64)
        low, high = np.minimum(a, b).astype(np.int64), np.maximum(a, b).astype(np.int64)
        found = np.zeros(low.shape, np.float64)
        apart = low != high
        low, high = low[apart], high[apart]
        found[apart] = self._distance[low * (2 * self._count - low - 1) // 2 + (high - low - 1)]
        return found


def read_mesh(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    texture_coordinates: str | os.PathLike[str] | None = None,
) -> Mesh:
    """The mesh in a file, which may come from anywhere; nothing in it is ever run.

    Args:
        path: ``.npz`` with ``vertices`` and, as far as it has them, ``faces``, ``texture_coordinates`` and ``name``;
            ``.ply`` or ``.obj`` (needs trimesh), whose order of vertices is kept; detectron2's ``.pkl`` with
            ``vertices`` and ``faces``.
        name: the mesh's; None is the one in the file, or else the file's own, without its suffix.
        texture_coordinates: a file of their own, ``.npz`` or detectron2's ``texcoords_NAME.pkl``.

    Raises:
        OSError: a file is missing, or may not be read.
        BackendUnavailable: trimesh is not installed.
        DensePoseEngineError: it is of another kind, damaged, or beyond what docs/limits.md allows.
    """
    path = Path(path)
    found = _read(path, "mesh")
    own_name = found.get("name")
    try:
        if texture_coordinates is not None:
            other = _read(Path(texture_coordinates), "mesh's texture coordinates")
            found = {**found, _TEXTURE[0]: _first(other, (*_TEXTURE, ""), f"{texture_coordinates}")}
        return Mesh(
            name or (own_name if isinstance(own_name, str) and own_name else path.stem),
            _floats(_first(found, _VERTICES, "it"), "vertices"),
            None if (faces := _first(found, _FACES)) is None else _integers(faces),
            None if (places := _first(found, _TEXTURE)) is None else _floats(places, "texture coordinates"),
        )
    except ValueError as error:
        raise DensePoseEngineError(f"{path} is no readable mesh: {error}") from error


def read_geodesics(path: str | os.PathLike[str], *, name: str | None = None) -> Geodesics:
    """The geodesic distances in a file: a mesh's ``.npz`` that has them, or detectron2's ``geodists_NAME.pkl``.

    Of an ``.npz``: ``geodesic_upper`` (the upper triangle) or ``geodesics`` (``[V, V]``).

    Args:
        name: the mesh's; None is the one in the file, or else the file's own, without ``geodists_`` and its suffix.

    Raises:
        OSError: the file is missing, or may not be read.
        DensePoseEngineError: it has none, is damaged, or beyond what docs/limits.md allows.
    """
    path = Path(path)
    found = _read(path, "mesh's geodesic distances")
    distance = _first(found, (*_UPPER, *_SQUARE, ""))
    if distance is None:
        raise DensePoseEngineError(
            f"{path} has no geodesic distances: an .npz has them as {_UPPER[0]} or {_SQUARE[0]}, detectron2 in a file "
            f"of its own, geodists/{_GEODESICS_FILE}{path.stem}.pkl"
        )
    own_name = found.get("name")
    name = name or (own_name if isinstance(own_name, str) and own_name else path.stem.removeprefix(_GEODESICS_FILE))
    try:
        geodesics = Geodesics(name, distance)
        vertices = _first(found, _VERTICES)
        if vertices is not None and len(vertices) != len(geodesics):
            raise ValueError(f"it has {len(vertices)} vertices, and geodesic distances of {len(geodesics)}")
    except ValueError as error:
        raise DensePoseEngineError(f"{path} is no readable file of geodesic distances: {error}") from error
    return geodesics


# ---- files -----------------------------------------------------------------------------------------------------------


def _read(path: Path, content: str) -> dict[str, Any]:
    """The arrays of a file by name, "" for one without; and perhaps "name"."""
    readers = {".npz": _read_npz, ".pkl": _read_pickle, ".ply": _read_by_library, ".obj": _read_by_library}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DensePoseEngineError(f"{path} is no {content}: {', '.join(readers)} are read, by the file's suffix")
    try:
        return reader(path, content)
    except NotRegularError as error:
        raise DensePoseEngineError(f"{error}; a {content} is a file") from error
    except TooLargeError as error:
        raise DensePoseEngineError(f"{path} {error}") from error
    except ValueError as error:
        also = "; an .npz with the same arrays is read too" if reader is _read_pickle else ""
        raise DensePoseEngineError(f"{path} is no readable {content}: {error}{also}") from error


def _read_npz(path: Path, content: str) -> dict[str, Any]:
    wanted = {"mesh": (*_VERTICES, *_FACES, *_TEXTURE), "mesh's texture coordinates": _TEXTURE}
    found: dict[str, Any] = {}
    with NpzReader(path) as file:
        for name in wanted.get(content, (*_VERTICES, *_UPPER, *_SQUARE)):
            if name in file:
                found[name] = file.read(name, "fui", None)
        if "name" in file:
            found["name"] = str(file.read("name", "U", ())[()])[:200]
    return found


def _read_pickle(path: Path, content: str) -> dict[str, Any]:
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > _MOST_PICKLE_BYTES:
            raise TooLargeError(f"has {size} bytes, at most {_MOST_PICKLE_BYTES} are read")
        loaded = read_pickle(stream, size, NUMPY_BUILDERS, content=f"{content} of plain arrays")
    entries = loaded if isinstance(loaded, Mapping) else {"": loaded}
    return {name: _array(value) for name, value in entries.items() if isinstance(name, str) and _is_array(value)}


def _is_array(value: object) -> bool:
    return isinstance(value, PickledArray | list | tuple)


def _array(value: Any) -> np.ndarray:
    """An array that was pickled as such, or as rows of numbers."""
    if isinstance(value, PickledArray):
        return value.array.astype(value.array.dtype.newbyteorder("="), copy=False)
    # The same row could stand there a million times, so each must be short.
    if not all(
        isinstance(row, list | tuple) and len(row) <= 3 and all(type(n) in (int, float) for n in row) for row in value
    ):
        raise ValueError("it has lists of something else than rows of two or three numbers")
    if len({len(row) for row in value}) > 1:
        raise ValueError("it has rows of different lengths")
    return np.array(value, np.float64)


def _read_by_library(path: Path, content: str) -> dict[str, Any]:
    data = read_regular(path, _MOST_BYTES)
    return (read_ply if path.suffix.lower() == ".ply" else read_obj)(data, f"reading {path}")


def _first(found: Mapping[str, Any], names: tuple[str, ...], file: str | None = None) -> np.ndarray | None:
    """The first of these; where there is none, None, or a ``ValueError`` that calls the file as ``file`` says."""
    value = next((found[name] for name in names if name in found), None)
    if value is None and file is not None:
        raise ValueError(f"{file} has no array {' or '.join(name for name in names if name)}")
    return value


def _floats(array: np.ndarray | None, what: str) -> np.ndarray:
    if array is None or array.dtype.kind != "f":
        raise ValueError(f"its {what} are not floating-point numbers")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused
        return np.ascontiguousarray(array, np.float32)


def _integers(array: np.ndarray) -> np.ndarray:
    if array.size > 3 * _MOST_FACES:
        raise ValueError(f"it has more than {_MOST_FACES} faces")
    if array.dtype.kind == "f" and (array % 1 == 0).all() and (np.abs(array) < 1 << 31).all():
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu" or (array.size and not 0 <= int(array.min()) <= int(array.max()) < 1 << 31):
        raise ValueError("its faces are not numbers of vertices")
    return np.ascontiguousarray(array, np.int32)


def _check(array: np.ndarray, what: str, dtype: type, columns: int) -> None:
    if array.dtype != dtype or array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(f"its {what} are {array.dtype} {array.shape}, they must be {np.dtype(dtype)} (n, {columns})")
