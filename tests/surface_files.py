"""An icosahedron with texture coordinates and distances, in every kind of file that meshes come in."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np


def icosahedron() -> tuple[np.ndarray, np.ndarray]:
    """12 vertices and 20 faces, from the definition: the corners of three golden rectangles."""
    phi = (1 + 5**0.5) / 2
    corners = [(0, a, b * phi) for a in (-1, 1) for b in (-1, 1)]
    vertices = np.array([np.roll(corner, shift) for shift in range(3) for corner in corners], np.float32)
    apart = np.linalg.norm(vertices[:, None] - vertices[None], axis=2)
    near = np.abs(apart - 2) < 1e-4
    faces = [
        (i, j, k) for i in range(12) for j in range(i) for k in range(j) if near[i, j] and near[j, k] and near[i, k]
    ]
    return vertices, np.array(faces, np.int32)


VERTICES, FACES = icosahedron()
#: A place of its own for each, none of them symmetric.
PLACES = np.stack([np.linspace(0.03, 0.97, 12), np.linspace(0.05, 0.9, 12) ** 2], axis=1).astype(np.float32)
DISTANCES = np.linalg.norm(VERTICES[:, None] - VERTICES[None], axis=2).astype(np.float32)


def make_npz(path: Path, **more: Any) -> Path:
    np.savez(path, vertices=VERTICES, faces=FACES, **more)
    return path


def make_pickle(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def make_ply(path: Path, *, binary: bool) -> Path:
    columns = "".join(f"property float {name}\n" for name in ("x", "y", "z", "s", "t"))
    kind = "binary_little_endian" if binary else "ascii"
    header = (
        f"ply\nformat {kind} 1.0\ncomment TextureFile ../secret.png\nelement vertex 12\n{columns}"
        "element face 20\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()
    rows = np.concatenate([VERTICES, PLACES * [1, -1] + [0, 1]], axis=1).astype(np.float32)
    if binary:
        body = rows.tobytes() + b"".join(struct.pack("<B3i", 3, *face) for face in FACES)
    else:
        lines = [" ".join(map(repr, row.tolist())) for row in rows] + [f"3 {a} {b} {c}" for a, b, c in FACES]
        body = "\n".join([*lines, ""]).encode()
    path.write_bytes(header + body)
    return path


def make_obj(path: Path, *, places: bool = True, seam: bool = False) -> Path:
    """With a seam, the last face's corners have places of their own as well, which come after the right ones."""
    lines = ["# made by a test", "mtllib ../secret.mtl", "o body"]
    lines += [f"v {x!r} {y!r} {z!r}" for x, y, z in VERTICES.tolist()]
    lines += [f"vt {u!r} {1 - v!r}" for u, v in PLACES.tolist()] if places else []
    lines += ["vt 0.111 0.222"] * 3 if seam else []
    lines += ["vn 0 0 1", "g one", "usemtl skin"]
    for n, face in enumerate(FACES.tolist()):
        lines += ["g two", "usemtl cloth"] if n == 10 else []
        at = [13, 14, 15] if seam and n == 19 else [i + 1 for i in face]
        lines.append("f " + " ".join(f"{i + 1}/{t}/1" if places else f"{i + 1}" for i, t in zip(face, at, strict=True)))
    path.write_text("\n".join([*lines, ""]))
    return path
