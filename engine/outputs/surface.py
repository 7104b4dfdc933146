"""What a user's own mesh file adds to a result of vertices: positions in space, and a texture on the people.

mesh = read_mesh("mesh.npz")
xyz = positions(result, 0, mesh)
picture = draw(image, result, position_layer(result, mesh))
picture = texture(image, result, "texture.png", mesh)
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decoders import DetectionResult
from ..decoders.embeddings import VertexPerson, VertexResult
from ..decoders.layers import ColorField, Window
from ..decoders.mesh import Mesh, read_mesh
from ..decoders.palettes import jet
from ..errors import DensePoseEngineError
from ..pictures.read import to_rgb_array
from .overlays import SCORE_THRESHOLD, draw

if TYPE_CHECKING:
    from ..pictures.read import Picture

__all__ = [
    "Mesh",
    "dp_vertex_layer",
    "position_colors",
    "position_layer",
    "positions",
    "read_mesh",
    "texture",
    "texture_layer",
]


def positions(result: DetectionResult, k: int, mesh: Mesh) -> np.ndarray:
    """Where on the mesh each pixel of person k is, in the mesh's own units and axes.

    Args:
        k: counted from the best; negative k counts from the end.
        mesh: what ``read_mesh`` gives.

    Returns:
        float32 ``[h, w, 3]``, of the patch's size; NaN outside the person's mask.

    Raises:
        IndexError: there is no such person.
        DensePoseEngineError: the result is of charts, or the person on another mesh.
    """
    person = _of_vertices(result).person(k)
    if mesh.name != person.mesh and mesh.name in result.surfaces:
        raise DensePoseEngineError(f"person {k} is on {person.mesh}, and the mesh file is of {mesh.name}")
    _check_count(person.mesh, len(person.surface), mesh)
    found: np.ndarray = mesh.vertices[person.vertices]
    found[~person.mask] = np.nan
    return found


def position_colors(mesh: Mesh) -> np.ndarray:
    """A color for every vertex by its place: red, green and blue along x, y and z, each from the least to the most.

    Returns:
        float32 ``[V, 3]``, 0 .. 255.
    """
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    # One scale for all three, as the body has one: a thin mesh must not become as deep as it is high.
    return (255 * (mesh.vertices - low) / max(float((high - low).max()), 1e-12)).astype(np.float32)


def position_layer(result: DetectionResult, mesh: Mesh) -> ColorField:
    """A layer for ``draw`` that has the colors of ``position_colors``. Raises as ``texture``."""
    return _layer(result, mesh, position_colors(mesh), alpha=0.65)


def dp_vertex_layer(result: DetectionResult, mesh: Mesh) -> ColorField:
    """A layer for ``draw``: "dp_vertex" as detectron2 draws it where it has the mesh, blue to red over a grey picture.

    A vertex's value is the square of x + y + z, from the least to the most. (Of smpl_27554 alone, detectron2 has a file
    of values instead.) Raises as ``texture``.
    """
    total = mesh.vertices.sum(axis=1, dtype=np.float64)
    value = (total - total.min()) / max(float(np.ptp(total)), 1e-12)
    return replace(_layer(result, mesh, jet(value**2), alpha=0.7), on_grey=True)


def texture_layer(result: DetectionResult, picture: Picture, mesh: Mesh) -> ColorField:
    """A layer for ``draw`` that has the texture's color at each vertex. Arguments and errors as ``texture``."""
    if mesh.texture_coordinates is None:
        raise DensePoseEngineError(
            f"the mesh file of {mesh.name} has no texture coordinates: an .npz has them as texture_coordinates, "
            "detectron2 in a file of its own, texcoords/texcoords_NAME.pkl, which read_mesh takes beside the mesh"
        )
    return _layer(result, mesh, _texture_colors(*_texture(picture), mesh.texture_coordinates), alpha=1.0)


def texture(
    image: Picture,
    result: DetectionResult,
    picture: Picture,
    mesh: Mesh,
    alpha: float | None = None,
    score_threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """The image with a texture on the people, as detectron2's ``dp_cse_texture`` draws it.

    Args:
        image: what ``to_rgb_array`` takes, of the size that the result is of.
        picture: the texture, likewise, or RGBA: uint8 ``[h, w, 4]`` or a file. Without opacity of its own, black is
            transparent, as in detectron2.
        mesh: with texture coordinates. Where the result is on several meshes, the people on this one are drawn.
        alpha: opacity over all, 0 .. 1; None is 1.
        score_threshold: people with a score above this are drawn; 0 draws everybody who was found.

    Returns:
        A new uint8 RGB array of the image's shape.

    Raises:
        TypeError, ValueError, ImageError: as ``draw``.
        DensePoseEngineError: the result is of charts or on other meshes, or the mesh has no texture coordinates.
    """
    return draw(image, result, texture_layer(result, picture, mesh), alpha, score_threshold)


# ---- whose mesh it is ------------------------------------------------------------------------------------------------


def _of_vertices(result: DetectionResult) -> VertexResult:
    if not isinstance(result, VertexResult):
        raise DensePoseEngineError(
            f"a mesh file goes with results of vertices, and this one is of {result.kind}; its places on the body are "
            "labels[k] and uv[k]"
        )
    return result


def _check_count(name: str, vertices: int, mesh: Mesh) -> None:
    if vertices != len(mesh):
        raise DensePoseEngineError(
            f"the mesh file of {mesh.name} has {len(mesh)} vertices, and the result is on {name}, which has {vertices}"
            "; it must be the mesh that the network was trained on, with its vertices in the same order"
        )


def _mesh_in(result: VertexResult, mesh: Mesh) -> str | None:
    """What the result calls the mesh; None where nobody is on it. Where there is one mesh, files may say otherwise."""
    if not result.surfaces:
        return None
    if mesh.name not in result.surfaces and len(result.surfaces) > 1:
        raise DensePoseEngineError(
            f"the mesh file is of {mesh.name}, and the result is on {', '.join(result.surfaces)}; read_mesh(path, "
            "name=...) says which of these it is"
        )
    name = mesh.name if mesh.name in result.surfaces else next(iter(result.surfaces))
    _check_count(name, len(result.surfaces[name]), mesh)
    return name


def _layer(result: DetectionResult, mesh: Mesh, colors: np.ndarray, alpha: float) -> ColorField:
    """``colors`` of the mesh's vertices, float32 [V, 3] or [V, 4]; people on other meshes are left as they are."""
    name = _mesh_in(_of_vertices(result), mesh)

    def index(person: VertexPerson, window: Window) -> np.ndarray:
        return person.vertices[window]

    def palette(person: VertexPerson) -> np.ndarray:
        return colors if person.mesh == name else np.zeros((len(person.surface), 4), np.float32)

    return ColorField(index, palette, alpha)


# ---- textures --------------------------------------------------------------------------------------------------------


def _texture(picture: Any) -> tuple[np.ndarray, np.ndarray]:
    """Colors, float32 [h, w, 3], and opacity, float32 [h, w], of a texture."""
    own: np.ndarray | None
    if isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 4:
        rgb, own = to_rgb_array(picture[..., :3]), picture[..., 3]
    else:
        rgb, own = to_rgb_array(picture), _opacity(picture)
    opacity = 255 * (rgb.max(axis=-1) > 0) if own is None else own
    return rgb.astype(np.float32), opacity.astype(np.float32) / 255


def _opacity(picture: Any) -> np.ndarray | None:
    """uint8 [h, w] of a picture that ``to_rgb_array`` could read; None where it has none."""
    if isinstance(picture, np.ndarray):
        return None
    from PIL import Image

    if isinstance(picture, Image.Image):
        image = picture
    elif isinstance(picture, str | os.PathLike):
        image = Image.open(picture)
    else:
        image = Image.open(io.BytesIO(picture))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return None
    # By the same function as the colors, which turns pictures upright.
    return to_rgb_array(image.convert("RGBA").getchannel("A"))[..., 0]


def _texture_colors(rgb: np.ndarray, opacity: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """float32 [V, 4]: the texture's color and opacity at each vertex, of the pixel that it is in."""
    known = np.isfinite(coordinates).all(axis=1)
    places = np.where(known[:, None], coordinates, 0).clip(0, 1)
    column, row = (
        np.minimum((places[:, axis] * size).astype(np.int64), size - 1) for axis, size in enumerate(rgb.shape[1::-1])
    )
    return np.concatenate([rgb[row, column], (opacity[row, column] * known)[:, None]], axis=1).astype(np.float32)
