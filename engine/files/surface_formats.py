"""Meshes in ``.ply`` and ``.obj`` files, read by trimesh so that no vertex is dropped, doubled or moved.

What counts here is a vertex's number: it is what a network's result says. trimesh's own way to a mesh joins and splits
vertices where that makes better pictures, so that its readers are asked for bare arrays, and what they give is counted.
Neither format may lead to another file: materials and textures are not looked at.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import require

_CONTINUED = re.compile(rb"\\\r?\n")


def read_ply(data: bytes, purpose: str) -> dict[str, np.ndarray]:
    """``vertices`` and, where it has them, ``faces`` and ``texture_coordinates``, of a ``.ply`` file.

    Args:
        purpose: what needs trimesh, as the beginning of a sentence.

    Raises:
        BackendUnavailable: trimesh is not installed.
        ValueError: it cannot be read.
    """
    load = require("trimesh.exchange.ply", "mesh", purpose).load_ply
    declared = re.search(rb"^element\s+vertex\s+(\d{1,18})\s*$", data[: 1 << 16], re.MULTILINE)
    if not data.startswith(b"ply") or declared is None:
        raise ValueError("it is no PLY file with vertices")
    found = _loaded(load, data, fix_texture=False, skip_materials=True)
    if len(found["vertices"]) != int(declared[1]):
        raise ValueError(f"it declares {int(declared[1])} vertices and has {len(found['vertices'])}")
    arrays = {"vertices": np.asarray(found["vertices"], np.float64)}
    if found.get("faces") is not None:
        arrays["faces"] = np.asarray(found["faces"])
        places = getattr(found.get("visual"), "uv", None)
        if places is not None:
            arrays["texture_coordinates"] = _from_the_top(_used(np.asarray(places, np.float64), arrays["faces"]))
    return arrays


def read_obj(data: bytes, purpose: str) -> dict[str, np.ndarray]:
    """The same of an ``.obj`` file; where a vertex has several places in the texture, the first one counts."""
    load = require("trimesh.exchange.obj", "mesh", purpose).load_obj
    lines = [line.strip() for line in _CONTINUED.sub(b" ", data).splitlines()]
    points = [line for line in lines if line[:1] == b"v" and line[1:2].isspace()]
    places = [line[2:].split() for line in lines if line[:2] == b"vt" and line[2:3].isspace()]
    corners = [line[1:].split() for line in lines if line[:1] == b"f" and line[1:2].isspace()]
    if not points:
        raise ValueError("it is no OBJ file with vertices")
    if min(numbers := {len(line.split()) - 1 for line in points}) < 3 or len(numbers) > 1:
        raise ValueError("it has vertices that are not three numbers, or not as many as others")
    faces = [[corner.split(b"/") for corner in face] for face in corners]
    if any(len(face) < 3 or not all(_counts(corner[0]) for corner in face) for face in faces):
        raise ValueError("it has faces that are not three numbers of vertices or more, counted from 1")
    if not faces:
        return {"vertices": _rows(points)}
    found = _polygons(load, points, [[corner[0] for corner in face] for face in faces])
    arrays = {"vertices": np.asarray(found["vertices"], np.float64), "faces": np.asarray(found["faces"])}
    if places and all(len(corner) > 1 and _counts(corner[1]) for face in faces for corner in face):
        if any(len(place) < 2 for place in places):
            raise ValueError("it has texture coordinates that are not two numbers")
        # Read as if they were a mesh themselves: its faces have the same corners, in the same order.
        flat = [b"v " + b" ".join([*place[:2], b"0"]) for place in places]
        textured = _polygons(load, flat, [[corner[1] for corner in face] for face in faces])
        values = np.full((len(points), 2), np.nan)
        # Backwards, so that the first of several is what stays.
        values[arrays["faces"].reshape(-1)[::-1]] = textured["vertices"][textured["faces"].reshape(-1)[::-1], :2]
        arrays["texture_coordinates"] = _from_the_top(values)
    return arrays


def _counts(number: bytes) -> bool:
    return number.isdigit() and len(number) < 10 and int(number) > 0


def _rows(points: list[bytes]) -> np.ndarray:
    try:
        return np.array([line[1:].split()[:3] for line in points], np.float64)
    except ValueError:
        raise ValueError("it has vertices that are not three numbers") from None


def _polygons(load: Any, points: list[bytes], faces: list[list[bytes]]) -> Mapping[str, Any]:
    """Vertices and triangles of lines of points and faces of any number of corners."""
    if any(int(corner) > len(points) for face in faces for corner in face):
        raise ValueError("it has faces whose corners are beyond its vertices or texture coordinates")
    text = b"\n".join([*points, *(b"f " + b" ".join(face) for face in faces), b""])
    found = _loaded(load, text, maintain_order=True, skip_materials=True)["geometry"]
    if len(found) != 1:
        raise ValueError("its vertices cannot be read")
    (mesh,) = found.values()
    triangles = sum(len(face) - 2 for face in faces)
    if len(mesh["vertices"]) != len(points) or len(mesh["faces"]) != triangles:
        raise ValueError(
            f"it has {len(points)} vertices and {triangles} triangles, of which {len(mesh['vertices'])} and "
            f"{len(mesh['faces'])} can be read"
        )
    return mesh


def _loaded(load: Any, data: bytes, **settings: Any) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = load(io.BytesIO(data), **settings)
        if "vertices" not in found and not found.get("geometry"):
            raise ValueError("it has no vertices")
    except Exception as error:  # trimesh does not say what it raises; all kinds were seen on damaged files
        raise ValueError(f"trimesh cannot read it: {type(error).__name__}: {error!s:.200}") from error
    return found


def _used(places: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """NaN at vertices without a face, whose places are unknown."""
    if faces.size and not 0 <= faces.min() <= faces.max() < len(places):
        raise ValueError(f"its faces name vertices beyond its {len(places)}")
    unused = np.ones(len(places), bool)
    unused[faces.reshape(-1)] = False
    places[unused] = np.nan
    return places


def _from_the_top(places: np.ndarray) -> np.ndarray:
    """Both formats count from the bottom of the texture, detectron2 from its top."""
    return places * [1, -1] + [0, 1]
