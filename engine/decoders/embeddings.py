"""Continuous surface embeddings (CSE): every pixel of a person is one vertex of a mesh, of people or of animals.

Source: DensePose modeling/cse/utils.py and vis/densepose_outputs_vertex.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import _core
from ..files.fields import Fields
from ..files.npz import NpzReader
from ..model.decoder import DecoderDescription
from ..model.description import ModelDescription
from .base import (
    KIND,
    DetectedPerson,
    DetectionResult,
    check_array,
    check_people,
    patch_sizes,
    read_people,
    reader_of_maps,
)
from .layers import ColorField, DataImage, Layer, Window
from .palettes import jet

EMBEDDINGS = "embeddings"
_MAPS = ("coarse_segm", "embedding")
_FORMAT_VERSION = 2  # of result files; those of charts, which do not say it, are of version 1
_MOST_VERTICES = 1 << 22  # of a mesh
_MOST_CLASSES, _MOST_MESHES = 1024, 256


@dataclass(frozen=True, eq=False)
class Surface:
    """A mesh by its ``name``, and where its vertices lie in the three directions in which their embeddings vary most.

    ``places``: uint8 ``[vertices, 3]``, each direction from 0 to 255. Neighbors on the surface have similar embeddings,
    and so similar places: that is what overlays are colored by.
    """

    name: str
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def of(cls, name: str, embeddings: np.ndarray) -> Surface:
        """``embeddings``: float32 ``[vertices, dimensions]``."""
        centered = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
        _, directions = np.linalg.eigh(centered.T @ centered)
        directions = directions[:, ::-1][:, :3]
        # A direction is as good as its opposite; the one that the largest weight is positive in is always the same.
        largest = np.abs(directions).argmax(axis=0)
        directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
        values = np.zeros((len(embeddings), 3))
        values[:, : directions.shape[1]] = centered @ directions
        low, high = values.min(axis=0), values.max(axis=0)
        return cls(name, np.rint(255 * (values - low) / np.maximum(high - low, 1e-12)).astype(np.uint8))


@dataclass(frozen=True, eq=False)
class VertexPerson(DetectedPerson):
    """One person, or animal, of a result; arrays are views into it."""

    box: np.ndarray
    """float32 [4]: x0, y0, x1, y1 in pixels of the picture."""
    score: float
    x: int
    """Column of the patch's left edge in the picture."""
    y: int
    """Row of the patch's top edge in the picture."""
    class_id: int
    mesh: str
    vertices: np.ndarray
    """uint16 or int32 [h, w]: the number of the closest vertex, 0 outside the mask."""
    mask: np.ndarray
    """bool [h, w]: where the person is."""
    surface: Surface

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.mask.shape
        return height, width

    def inside(self, window: Window) -> np.ndarray:
        """Where the person is, bool ``[h, w]``."""
        return self.mask[window].copy()


def _vertex_index(person: VertexPerson, window: Window) -> np.ndarray:
    return person.vertices[window]


def _place_palette(person: VertexPerson) -> np.ndarray:
    return person.surface.places.astype(np.float32)


def _jet_palette(person: VertexPerson) -> np.ndarray:
    return jet(person.surface.places[:, 0] / 255)


@dataclass(frozen=True, eq=False, repr=False)
class VertexResult(DetectionResult):
    """The people, or animals, in one picture, best first: of every pixel the closest vertex of a mesh.

    Patches lie as ``DetectionResult`` says.

    Raises (on construction):
        ValueError: shapes, dtypes or lengths that do not belong together.
    """

    kind: ClassVar[str] = EMBEDDINGS
    layers: ClassVar[Mapping[str, Layer]] = {
        "vertex": ColorField(_vertex_index, _place_palette, boxes=True),
        "dp_vertex": ColorField(_vertex_index, _jet_palette, alpha=0.7, on_grey=True),
    }
    images: ClassVar[Mapping[str, DataImage]] = {}
    wants: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("labels", "uv", "iuv", "confidences"),
        "this network has embeddings, not charts; take vertices[k] (numbers of vertices of the mesh meshes[k]) and "
        "masks[k], and to look at them draw(image, result, 'vertex')",
    )

    boxes: np.ndarray
    """float32 [N, 4]: x0, y0, x1, y1 in pixels of the picture."""
    scores: np.ndarray
    """float32 [N]."""
    class_ids: np.ndarray
    """int32 [N]: the network's class, from 0."""
    vertices: Sequence[np.ndarray]
    """N arrays, uint16 [h, w] (int32 where the mesh has more than 65,536 vertices): the closest vertex, 0 outside the
    mask."""
    masks: Sequence[np.ndarray]
    """N arrays, bool [h, w]: where the person is."""
    meshes: Sequence[str]
    """N names: the mesh that the vertices are of."""
    image_size: tuple[int, int]
    """(height, width) of the picture."""
    surfaces: Mapping[str, Surface]
    """By name, of every mesh in ``meshes``."""

    def __post_init__(self) -> None:
        check_people(self.boxes, self.scores, self.image_size)
        people = len(self.scores)
        check_array("class_ids", self.class_ids, np.int32, (people,))
        for name, values in {"vertices": self.vertices, "masks": self.masks, "meshes": self.meshes}.items():
            if len(values) != people:
                raise ValueError(f"{name} has {len(values)} entries, there are {people} people")
        for name, known in self.surfaces.items():
            check_array(f"places of {name}", known.places, np.uint8, (len(known.places), 3))
        for k, size in enumerate(patch_sizes(self.boxes)):
            surface = self.surfaces.get(self.meshes[k])
            if surface is None:
                raise ValueError(f"surfaces has no {self.meshes[k]!r:.80}, which person {k} is on")
            check_array(f"vertices[{k}]", self.vertices[k], _vertex_dtype(len(surface)), size)
            check_array(f"masks[{k}]", self.masks[k], np.bool_, size)
            if self.vertices[k].max() >= len(surface) or self.vertices[k].min() < 0:
                raise ValueError(f"vertices[{k}] has numbers beyond the {len(surface)} vertices of {surface.name}")

    def person(self, k: int) -> VertexPerson:
        """Person k, counted from the best; negative k counts from the end. Raises IndexError."""
        k = self.index(k)
        mesh = self.meshes[k]
        return VertexPerson(
            self.boxes[k],
            float(self.scores[k]),
            *self.corner(k),
            int(self.class_ids[k]),
            mesh,
            self.vertices[k],
            self.masks[k],
            self.surfaces[mesh],
        )

    def people(self, indices: Sequence[int] | np.ndarray) -> VertexResult:
        """A result of these people alone, in this order; arrays of pixels are views."""
        meshes = tuple(self.meshes[k] for k in indices)
        return self.of_judged(
            self.boxes[indices],
            self.scores[indices],
            self.class_ids[indices],
            tuple(self.vertices[k] for k in indices),
            tuple(self.masks[k] for k in indices),
            meshes,
            self.image_size,
            {name: self.surfaces[name] for name in dict.fromkeys(meshes)},
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """``boxes``, ``scores``, ``class_ids``, ``vertices_K`` and ``mask_K`` of person K, ``mesh_names`` of everybody,
        ``surface_names`` and ``surface_I`` (places) of each of these, ``image_size``, ``kind``, ``format_version``."""
        arrays = {"boxes": self.boxes, "scores": self.scores, "class_ids": self.class_ids}
        for name, maps in {"vertices": self.vertices, "mask": self.masks}.items():
            arrays |= {f"{name}_{k}": array for k, array in enumerate(maps)}
        arrays["mesh_names"] = np.array(list(self.meshes), np.str_)
        arrays["surface_names"] = np.array(list(self.surfaces), np.str_)
        arrays |= {f"surface_{i}": surface.places for i, surface in enumerate(self.surfaces.values())}
        arrays["image_size"] = np.array(self.image_size, np.int64)
        arrays[KIND] = np.array(self.kind, np.str_)
        arrays["format_version"] = np.array(_FORMAT_VERSION, np.int64)
        return arrays

    @classmethod
    def read(cls, file: NpzReader) -> VertexResult:
        """What ``arrays`` gave. Raises ``ValueError``."""
        version = int(file.read("format_version", "iu", ())[()])
        if version != _FORMAT_VERSION:
            raise ValueError(f"it has format version {version}, this package reads {_FORMAT_VERSION}")
        boxes, scores, image_size = read_people(file)
        people = len(scores)
        meshes = file.read("mesh_names", "U", (people,)).tolist()
        names = file.read("surface_names", "U", (None,)).tolist()
        if len(set(names)) != len(names) or len(names) > _MOST_MESHES:
            raise ValueError(f"its surface names are not distinct, or more than {_MOST_MESHES}")
        surfaces = {name: Surface(name, file.read(f"surface_{i}", "u", (None, 3))) for i, name in enumerate(names)}
        if missing := [name for name in meshes if name not in surfaces]:
            raise ValueError(f"it has no surface of the mesh {missing[0]!r:.80}")
        sizes = patch_sizes(boxes)
        vertices: list[np.ndarray] = []
        for k, size in enumerate(sizes):
            found = file.read(f"vertices_{k}", "iu", size)
            if found.max() >= len(surfaces[meshes[k]]) or found.min() < 0:
                raise ValueError(f"its vertices_{k} has numbers beyond the mesh's vertices")
            vertices.append(found.astype(_vertex_dtype(len(surfaces[meshes[k]]))))
        return VertexResult(
            boxes,
            scores,
            file.read("class_ids", "iu", (people,)).astype(np.int32),
            tuple(vertices),
            tuple(file.read(f"mask_{k}", "b", size) for k, size in enumerate(sizes)),
            tuple(meshes),
            image_size,
            surfaces,
        )

    def surface_labels(self, k: int) -> np.ndarray:
        """The vertex's number and one, int64 ``[h, w]``, in a range of its own for each mesh."""
        # Of a name, not of an order: two results of one picture may know different meshes.
        of_mesh = zlib.crc32(self.meshes[k].encode()) << 30
        return np.where(self.masks[k], self.vertices[k].astype(np.int64) + (1 + of_mesh), 0)

    def surface_coordinates(self, k: int) -> np.ndarray:
        """None: vertices are as fine as it gets. float32 ``[0, h, w]``."""
        return np.zeros((0, *self.masks[k].shape), np.float32)

    def details(self, k: int, pixels: bool) -> dict[str, Any]:
        """``class_id`` and ``mesh``; with ``pixels``, ``vertices`` and ``mask``."""
        entry: dict[str, Any] = {"class_id": int(self.class_ids[k]), "mesh": self.meshes[k]}
        if pixels:
            entry |= {"vertices": self.vertices[k].tolist(), "mask": self.masks[k].tolist()}
        return entry

    def _also(self) -> str:
        meshes = dict.fromkeys(self.meshes)
        return f", on {', '.join(meshes)}" if meshes else ""


def _vertex_dtype(vertices: int) -> type:
    return np.uint16 if vertices <= 1 << 16 else np.int32


@dataclass(frozen=True)
class EmbeddingSettings:
    """What a description says of embeddings: ``meshes``, which of them each class is looked for on, and their size."""

    meshes: tuple[str, ...]
    class_meshes: tuple[int, ...]
    embedding_size: int

    @classmethod
    def from_json(cls, data: object) -> EmbeddingSettings:
        """Read what ``to_json`` wrote. Raises ``FieldError``."""
        fields = Fields(data, "decoder.settings")
        meshes = fields.texts("meshes", 1, _MOST_MESHES)
        if len(set(meshes)) != len(meshes):
            raise fields.refuse("meshes", "a list of different names")
        classes = fields.integers("class_meshes", (1, _MOST_CLASSES), 0, len(meshes) - 1)
        return cls(meshes, classes, fields.integer("embedding_size", 1, 1024))

    def to_json(self) -> dict[str, Any]:
        return {
            "meshes": list(self.meshes),
            "class_meshes": list(self.class_meshes),
            "embedding_size": self.embedding_size,
        }


class EmbeddingDecoder:
    """The closest vertices of every pixel of a box, by the op ClosestVertices. See ``base.Decoder``.

    Tensors: ``vertex_embeddings/I`` of mesh I, float32 ``[vertices, embedding size]``, rows of length 1.
    """

    kind: ClassVar[str] = EMBEDDINGS
    result: ClassVar[type[DetectionResult]] = VertexResult
    stage: ClassVar[str] = "closest vertices"

    def __init__(self, model: ModelDescription, tensors: Mapping[str, np.ndarray]) -> None:
        if missing := [name for name in _MAPS if name not in model.maps]:
            raise ValueError(f"maps lacks {', '.join(missing)}")
        self._settings = EmbeddingSettings.from_json(dict(model.decoder.settings))
        self._class_meshes = np.array(self._settings.class_meshes, np.int32)
        if model.packed_maps is not None and tuple(model.maps) != _MAPS:
            raise ValueError(f"packed maps are {', '.join(model.maps)}, they must be {', '.join(_MAPS)}")
        self.maps: Sequence[str]
        self._op, self.maps = reader_of_maps(_core.ops.ClosestVertices, model, _MAPS)
        embeddings = [self._embeddings(tensors, i) for i in range(len(self._settings.meshes))]
        self._surfaces = [Surface.of(name, rows) for name, rows in zip(self._settings.meshes, embeddings, strict=True)]
        trees = [_core.vertex_tree(np.ascontiguousarray(rows)) for rows in embeddings]
        sheets = np.cumsum([0, *(len(tree[3]) for tree in trees)]).astype(np.int32)
        self._tree = (*(np.concatenate([tree[i] for tree in trees]) for i in range(4)), sheets)

    def _embeddings(self, tensors: Mapping[str, np.ndarray], i: int) -> np.ndarray:
        name, size = f"vertex_embeddings/{i}", self._settings.embedding_size
        rows = tensors.get(name)
        if rows is None or rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != size:
            raise ValueError(f"decoder.tensors lacks {name}, float32 of {size} columns")
        if len(rows) > _MOST_VERTICES or not np.isfinite(rows).all():
            raise ValueError(f"decoder.tensors: {name} is not finite, or has more than {_MOST_VERTICES} vertices")
        return rows

    @classmethod
    def summary(cls, description: DecoderDescription) -> str:
        settings = EmbeddingSettings.from_json(dict(description.settings))
        sizes = {tensor.name: tensor.shape[0] for tensor in description.tensors}
        meshes = [
            f"{name} ({sizes.get(f'vertex_embeddings/{i}', '?')} vertices)" for i, name in enumerate(settings.meshes)
        ]
        classes = len(settings.class_meshes)
        return f"embeddings of {settings.embedding_size} of {', '.join(meshes)}; {classes} class" + "es" * (classes > 1)

    @property
    def meshes(self) -> tuple[str, ...]:
        """Names of the meshes that the network has embeddings of."""
        return self._settings.meshes

    def mesh(self, name: str | None) -> str | None:
        if name is not None and name not in self.meshes:
            raise ValueError(f"mesh must be one of {', '.join(self.meshes)}, not {name!r:.80}")
        return name

    def decode(
        self,
        outputs: Mapping[str, np.ndarray],
        image_size: tuple[int, int],
        threads: int,
        mesh: str | None,
        mark: Callable[[str], None],
    ) -> VertexResult:
        boxes = np.array(outputs["boxes"], np.float32)
        classes = outputs.get("classes")
        class_ids = np.zeros(len(boxes), np.int32) if classes is None else np.array(classes, np.int32)
        if mesh is None:
            which = self._class_meshes[np.clip(class_ids, 0, len(self._class_meshes) - 1)]
        else:
            which = np.full(len(boxes), self.meshes.index(mesh), np.int32)
        maps = [outputs[name] for name in self.maps]
        closest, mask, offsets = self._op(*maps, boxes, which, *self._tree, threads=threads)
        mark(self.stage)
        vertices, masks, names = [], [], []
        for k, (height, width) in enumerate(patch_sizes(boxes)):
            begin, end = int(offsets[k]), int(offsets[k + 1])
            surface = self._surfaces[which[k]]
            vertices.append(closest[begin:end].reshape(height, width).astype(_vertex_dtype(len(surface))))
            masks.append(mask[begin:end].reshape(height, width).view(np.bool_))
            names.append(surface.name)
        used = {self.meshes[i]: self._surfaces[i] for i in dict.fromkeys(which.tolist())}
        scores = np.array(outputs["scores"], np.float32)
        people = (tuple(vertices), tuple(masks), tuple(names))
        return VertexResult.of_judged(boxes, scores, class_ids, *people, image_size, used)
