"""COCO DensePose annotation files, read with distrust: a broken one is answered with the annotation and the key.

The format is COCO's for instances (``images``, ``annotations``, ``categories``; ``bbox`` is x, y, width, height) with
DensePose's keys: ``dp_x`` and ``dp_y``, places of points in 1/255 or 1/256 of the box; ``dp_I``, the part 1 .. 24 under
each; ``dp_U`` and ``dp_V``, 0 .. 1 on the part's chart; ``dp_masks``, up to 14 masks of body parts, 256 x 256 pixels
stretched over the box. Of embeddings, instead of ``dp_I``, ``dp_U`` and ``dp_V`` or beside them: ``dp_vertex``, the
vertex under each point, and ``ref_model``, the mesh's name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DensePoseEngineError
from ..files.fields import shown
from ..files.reading import TooLargeError, parse_json, read_regular
from ..result import PARTS
from .rle import Polygons, RunLengths

MASK_SIZE = (256, 256)
MAX_MASKS = 14
_POINT_KEYS = ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V")
_CHART_KEYS = _POINT_KEYS[2:]
_MAX_SIDE = 1 << 16  # pixels
_MOST_PIXELS = 1 << 28  # of a picture: masks have as many
_MOST_AREA = 1e18  # more than any picture has
_MOST_NUMBER = 1 << 24  # of boxes and points: float32 cannot count pixels further
#: Ten times what the largest files of COCO have.
_MOST_BYTES, _MOST_CONTAINERS = 512 << 20, 4_000_000


@dataclass(frozen=True, eq=False)
class Points:
    """The annotated points of one person; all arrays have one entry per point."""

    x: np.ndarray
    """float64: of the box's width, in the units of the file (1/255 or 1/256; the GPS definition says which)."""
    y: np.ndarray
    """float64: likewise of its height."""
    part: np.ndarray
    """int64, 1 .. 24."""
    u: np.ndarray
    """float64, about 0 .. 1."""
    v: np.ndarray
    """float64, about 0 .. 1."""

    def __len__(self) -> int:
        return len(self.part)


@dataclass(frozen=True, eq=False)
class VertexPoints:
    """The annotated points of one person, or animal, on a mesh; arrays have one entry per point."""

    x: np.ndarray
    """float64: of the box's width, in 1/255."""
    y: np.ndarray
    """float64: likewise of its height."""
    vertex: np.ndarray
    """int64; negative where nobody could say."""
    mesh: str
    part: np.ndarray | None
    """int64, 0 .. 24; None where the file does not say."""

    def __len__(self) -> int:
        return len(self.vertex)


@dataclass(frozen=True, eq=False)
class Annotation:
    """One person of a picture."""

    id: int
    box: tuple[float, float, float, float]
    """x, y, width, height in pixels."""
    area: float
    """Pixels squared."""
    crowd: bool
    points: Points | None
    """None where the person has a box alone, or points on a mesh alone."""
    masks: tuple[RunLengths, ...] | None
    """``dp_masks`` that are not empty; None where there is no such key."""
    segmentation: RunLengths | Polygons | None
    vertices: VertexPoints | None = None
    """None where the person has a box alone, or points on charts alone."""


@dataclass(frozen=True, eq=False)
class AnnotatedPicture:
    """A picture and the people in it."""

    id: int
    file_name: str
    path: Path
    height: int
    width: int
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures with annotations, in the order of the file."""

    source: Path
    """The annotation file."""
    pictures: tuple[AnnotatedPicture, ...]

    @property
    def people(self) -> int:
        """How many annotations there are."""
        return sum(len(picture.annotations) for picture in self.pictures)

    def first(self, count: int) -> Dataset:
        """The first ``count`` pictures."""
        return replace(self, pictures=self.pictures[:count])

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        annotations: str | os.PathLike[str] | None = None,
        images: str | os.PathLike[str] | None = None,
    ) -> Dataset:
        """Read an annotation file.

        Args:
            folder: holds ``annotations.json`` and the pictures.
            annotations: the annotation file, where it is another one.
            images: the folder of the pictures, where it is another one.

        Raises:
            FileNotFoundError: there is no annotation file.
            DensePoseEngineError: it is damaged, or nobody in it has DensePose points.
        """
        path = Path(annotations) if annotations is not None else Path(folder) / "annotations.json"
        if not path.is_file():
            hint = "" if annotations is not None else "; --annotations names another file"
            raise FileNotFoundError(f"there is no annotation file {path}{hint}")
        try:
            content = parse_json(read_regular(path, _MOST_BYTES), _MOST_CONTAINERS, constants=True)
        except TooLargeError as error:
            raise DensePoseEngineError(f"{path} {error}") from error
        except (JSONDecodeError, UnicodeDecodeError) as error:
            raise DensePoseEngineError(f"{path} is not JSON, it may be truncated ({error})") from error
        except ValueError as error:
            raise DensePoseEngineError(f"{path} is not readable: {error}") from error
        try:
            pictures = _pictures(content, Path(images) if images is not None else Path(folder))
        except ValueError as error:
            raise DensePoseEngineError(f"{path}: {error}") from error
        return cls(path, tuple(pictures))


def _pictures(content: Any, folder: Path) -> list[AnnotatedPicture]:
    if not isinstance(content, Mapping):
        raise ValueError("it is no COCO annotation file, which is a JSON object")
    for key in ("images", "annotations"):
        if not isinstance(content.get(key), list):
            raise ValueError(f"it is no COCO annotation file: it has no list {key}")
    images: dict[int, Mapping[str, Any]] = {}
    for n, entry in enumerate(content["images"]):
        image, where = _object(entry, "image", n)
        image_id = _integer(image, "id", where, least=None)
        if image_id in images:
            raise ValueError(f"{where}: its id is taken by another image")
        images[image_id] = image
    people: dict[int, list[Annotation]] = {image_id: [] for image_id in images}
    sizes = {image_id: _size(image, f"image {image_id}") for image_id, image in images.items()}
    category = _person_category(content)
    for n, entry in enumerate(content["annotations"]):
        annotation, where = _object(entry, "annotation", n)
        image_id = _integer(annotation, "image_id", where, least=None)
        if image_id not in images:
            raise ValueError(f"{where}: its image_id {image_id} is none of the images")
        if category is None or annotation.get("category_id") == category:
            people[image_id].append(_annotation(annotation, where, n, sizes[image_id]))
    everybody = [annotation for annotations in people.values() for annotation in annotations]
    if all(annotation.points is None and annotation.vertices is None for annotation in everybody):
        raise ValueError(
            "nobody in it has dp_x, dp_y, dp_I, dp_U and dp_V, or dp_x, dp_y, dp_vertex and ref_model: it is no "
            "DensePose annotation file"
        )
    pictures = []
    for image_id, image in images.items():
        name = image.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"image {image_id}: its file_name is {shown(name)}, it must be a path")
        size = sizes[image_id]
        pictures.append(AnnotatedPicture(image_id, name, folder / name, *size, tuple(people[image_id])))
    return pictures


def _person_category(content: Mapping[str, Any]) -> int | None:
    """The id of the category "person"; None where there is one category at most, so that all is people."""
    categories = content.get("categories", [])
    if not isinstance(categories, list) or not all(isinstance(c, Mapping) for c in categories):
        raise ValueError("its categories are not a list of objects")
    if len(categories) <= 1:
        return None
    for category in categories:
        if category.get("name") == "person":
            return _integer(category, "id", "category person", least=None)
    raise ValueError("none of its categories is named person, and one is scored: of others, keep one in the file")


def _annotation(entry: Mapping[str, Any], where: str, n: int, size: tuple[int, int]) -> Annotation:
    x, y, width, height = _numbers(entry, "bbox", where, 4).tolist()
    if width < 0 or height < 0:
        raise ValueError(f"{where}: its bbox has a negative width or height")
    area = entry.get("area", width * height)
    if type(area) not in (int, float) or not 0 <= area <= _MOST_AREA:
        raise ValueError(f"{where}: its area is {shown(area)}, it must be a number of at least 0")
    return Annotation(
        id=_integer(entry, "id", where, least=None) if "id" in entry else n,
        box=(x, y, width, height),
        area=float(area),
        crowd=bool(entry.get("iscrowd", 0)),
        points=_points(entry, where),
        masks=_masks(entry, where),
        segmentation=_segmentation(entry, where, size),
        vertices=_vertices(entry, where),
    )


def _points(entry: Mapping[str, Any], where: str) -> Points | None:
    if "dp_x" not in entry or ("dp_vertex" in entry and not all(key in entry for key in _CHART_KEYS)):
        return None
    x, y, part, u, v = _columns(entry, _POINT_KEYS, where)
    part = _parts(part, where)
    some = part > 0  # 0 is no part: there is nothing to be near to
    return Points(x[some], y[some], part[some], u[some], v[some])


def _vertices(entry: Mapping[str, Any], where: str) -> VertexPoints | None:
    if "dp_x" not in entry or "dp_vertex" not in entry:
        return None
    x, y, vertex = _columns(entry, ("dp_x", "dp_y", "dp_vertex"), where)
    if (vertex % 1 != 0).any():
        raise ValueError(f"{where}: its dp_vertex has values that are no numbers of vertices")
    mesh = entry.get("ref_model")
    if not isinstance(mesh, str) or not mesh:
        raise ValueError(f"{where}: its ref_model is {shown(mesh)}, it must be the name of its dp_vertex's mesh")
    part = _columns(entry, ("dp_x", "dp_I"), where)[1] if "dp_I" in entry else None
    return VertexPoints(x, y, vertex.astype(np.int64), mesh, None if part is None else _parts(part, where))


def _columns(entry: Mapping[str, Any], keys: Sequence[str], where: str) -> list[np.ndarray]:
    """Lists of numbers of one length, float64."""
    columns = [_numbers(entry, key, where) for key in keys]
    for key, values in zip(keys, columns, strict=True):
        if len(values) != len(columns[0]):
            raise ValueError(f"{where}: its {key} has {len(values)} entries, {keys[0]} has {len(columns[0])}")
    return columns


def _parts(part: np.ndarray, where: str) -> np.ndarray:
    if ((part < 0) | (part > PARTS) | (part % 1 != 0)).any():
        raise ValueError(f"{where}: its dp_I has values other than 1 .. {PARTS}")
    return part.astype(np.int64)


def _masks(entry: Mapping[str, Any], where: str) -> tuple[RunLengths, ...] | None:
    masks = entry.get("dp_masks")
    if masks is None:
        return None
    if not isinstance(masks, list) or len(masks) > MAX_MASKS:
        raise ValueError(f"{where}: its dp_masks are not a list of up to {MAX_MASKS} masks")
    try:
        return tuple(RunLengths.parse(mask, MASK_SIZE) for mask in masks if mask)
    except ValueError as error:
        raise ValueError(f"{where}: one of its dp_masks cannot be read: {error}") from error


def _segmentation(entry: Mapping[str, Any], where: str, size: tuple[int, int]) -> RunLengths | Polygons | None:
    segmentation = entry.get("segmentation")
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, list):
            return Polygons.parse(segmentation, size)
        return RunLengths.parse(segmentation, size)
    except ValueError as error:
        raise ValueError(f"{where}: its segmentation cannot be read: {error}") from error


def _object(entry: Any, kind: str, n: int) -> tuple[Mapping[str, Any], str]:
    """Entry n of a list, and what it is called in messages."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{kind} number {n} of the list is no object")
    return entry, f"{kind} {entry['id']}" if type(entry.get("id")) is int else f"{kind} number {n} of the list"


def _size(image: Mapping[str, Any], where: str) -> tuple[int, int]:
    height, width = (_integer(image, key, where, least=1) for key in ("height", "width"))
    if max(height, width) > _MAX_SIDE or height * width > _MOST_PIXELS:
        raise ValueError(f"{where}: its size is {width} x {height}, that is no picture")
    return height, width


def _integer(entry: Mapping[str, Any], key: str, where: str, least: int | None) -> int:
    value = entry.get(key)
    if type(value) is not int or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{where}: its {key} is {shown(value)}, it must be an integer{bound}")
    return value


def _numbers(entry: Mapping[str, Any], key: str, where: str, count: int | None = None) -> np.ndarray:
    values = entry.get(key)
    if not isinstance(values, Sequence) or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{where}: its {key} is not a list of numbers")
    if count is not None and len(values) != count:
        raise ValueError(f"{where}: its {key} has {len(values)} entries, it must have {count}")
    try:
        array = np.array(values, np.float64)
    except OverflowError:
        array = np.full(1, math.inf)
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: its {key} has values that are not finite")
    if (np.abs(array) > _MOST_NUMBER).any():
        raise ValueError(f"{where}: its {key} has values beyond {_MOST_NUMBER}, farther than any picture reaches")
    return array
