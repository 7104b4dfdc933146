"""Charts: every pixel of a person is on one of 24 parts of the body, at (u, v) on the part's chart."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from .. import _core
from ..files.npz import NpzReader
from ..model.decoder import CHARTS, DecoderDescription
from ..model.description import ModelDescription
from .base import (
    DetectedPerson,
    DetectionResult,
    check_array,
    check_people,
    patch_size,
    patch_sizes,
    read_people,
    reader_of_maps,
)
from .layers import ColorField, Contours, DataImage, Layer, Window
from .palettes import viridis

PARTS = 24  # labels are 1 .. 24; 0 is background
#: Maps beside the four of charts that a network may have, each of which becomes a confidence of the same name.
CONFIDENCES = ("sigma_2", "kappa_u", "kappa_v", "fine_segm_confidence", "coarse_segm_confidence")
_MAPS = ("coarse_segm", "fine_segm", "u", "v")

# Hues follow the body (torso blue, hands yellow, feet red, upper and lower legs violet and pink, upper and lower arms
# green and cyan, head orange); lightness tells left from right and one face of a limb from the other. Evenly spaced in
# OKLCH. In the order of the labels 1 .. 24.
PART_COLORS = np.frombuffer(
    bytes.fromhex(
        "026fd7 02a9f7 b4cc08 e7e824 fe825c da4433 763ebd a95dda 9270f4 c598ff bd307d e9548d "
        "ed65b9 fd9ac6 029e72 077649 0fd18b 0fa757 1bb3ba 028a9b 1ee6e7 0dc1d0 e19005 fdc010"
    ),
    np.uint8,
).reshape(PARTS, 3)


@dataclass(frozen=True, eq=False)
class Person(DetectedPerson):
    """One person of a result; arrays are views into it."""

    box: np.ndarray
    """float32 [4]: x0, y0, x1, y1 in pixels of the picture."""
    score: float
    x: int
    """Column of the patch's left edge in the picture."""
    y: int
    """Row of the patch's top edge in the picture."""
    labels: np.ndarray
    """uint8 [h, w]: 0 is background, 1 .. 24 the part."""
    uv: np.ndarray
    """float32 [2, h, w]: U and V, each about 0 .. 1, on the part's chart."""
    confidences: dict[str, np.ndarray]
    """Name -> float32 [h, w]."""

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.labels.shape
        return height, width

    def inside(self, window: Window) -> np.ndarray:
        """Where there is a part, bool ``[h, w]``."""
        return self.labels[window] > 0


def _part_index(person: Person, window: Window) -> np.ndarray:
    return person.labels[window]


def _coordinate(plane: int) -> Callable[[Person, Window], np.ndarray]:
    def index(person: Person, window: Window) -> np.ndarray:
        return np.clip(person.uv[(plane, *window)] * 255, 0, 255).astype(np.uint8)  # as in the IUV image

    return index


_PART_PALETTE = PART_COLORS[np.clip(np.arange(PARTS + 1), 1, PARTS) - 1].astype(np.float32)
_COORDINATE_PALETTE = viridis(np.arange(256) / 255)


@dataclass(frozen=True, eq=False, repr=False)
class DensePoseResult(DetectionResult):
    """The people in one picture, best first.

    Person k's patch has ``max(int(y1 - y0), 1)`` rows and ``max(int(x1 - x0), 1)`` columns, subtracted in float32, and
    its top left pixel is the picture's at row ``int(y0)`` and column ``int(x0)``, as in detectron2.

    Raises (on construction):
        ValueError: shapes, dtypes or lengths that do not belong together.
    """

    kind: ClassVar[str] = CHARTS
    layers: ClassVar[Mapping[str, Layer]] = {
        "parts": ColorField(_part_index, lambda person: _PART_PALETTE, boxes=True),
        "u": ColorField(_coordinate(0), lambda person: _COORDINATE_PALETTE),
        "v": ColorField(_coordinate(1), lambda person: _COORDINATE_PALETTE),
        "contours": Contours(lambda person: person.labels, lambda person: person.uv, PARTS),
    }
    images: ClassVar[Mapping[str, DataImage]] = {"iuv": DataImage(lambda result: result.iuv())}
    wants: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("vertices", "masks", "meshes", "class_ids"),
        "this network has charts, whose results have labels and uv; vertices come from networks with embeddings (CSE)",
    )

    boxes: np.ndarray
    """float32 [N, 4]: x0, y0, x1, y1 in pixels of the picture."""
    scores: np.ndarray
    """float32 [N]."""
    labels: Sequence[np.ndarray]
    """N arrays, uint8 [h, w]: 0 is background, 1 .. 24 the part."""
    uv: Sequence[np.ndarray]
    """N arrays, float32 [2, h, w]: U and V, each about 0 .. 1; 0 on background."""
    image_size: tuple[int, int]
    """(height, width) of the picture."""
    confidences: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    """Name -> N arrays, float32 [h, w]. The networks that there are have some of sigma_2, kappa_u, kappa_v,
    fine_segm_confidence and coarse_segm_confidence, or none."""

    def __post_init__(self) -> None:
        check_people(self.boxes, self.scores, self.image_size)
        people = len(self.scores)
        maps: dict[str, Sequence[np.ndarray]] = {"labels": self.labels, "uv": self.uv, **self.confidences}
        for name, arrays in maps.items():
            if len(arrays) != people:
                raise ValueError(f"{name} has {len(arrays)} arrays, there are {people} people")
        for k, (h, w) in enumerate(patch_sizes(self.boxes)):
            size = (h, w)
            check_array(f"labels[{k}]", self.labels[k], np.uint8, size)
            check_array(f"uv[{k}]", self.uv[k], np.float32, (2, *size))
            for name, arrays in self.confidences.items():
                check_array(f"{name}[{k}]", arrays[k], np.float32, size)

    @classmethod
    def from_flat(
        cls,
        *,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        uv: np.ndarray,
        offsets: np.ndarray,
        image_size: tuple[int, int],
        confidence_names: Sequence[str] = (),
        confidences: np.ndarray | None = None,
    ) -> DensePoseResult:
        """A result over the flat buffers that the ChartResult op fills, person after person; nothing is copied.

        Args:
            labels: uint8 [T].
            uv: float32 [2T]: u and then v of each person.
            offsets: int64 [N + 1]: where each person begins in ``labels``, and T.
            confidence_names: of the E confidences.
            confidences: float32 [E * T]: the E maps of each person.

        Raises:
            ValueError: the buffers do not hold what boxes and offsets say.
        """
        check_people(boxes, scores, image_size)
        count = len(confidence_names)
        total = int(offsets[-1])
        values = np.zeros(0, np.float32) if confidences is None else confidences
        for name, array, dtype, expected in (
            ("offsets", offsets, np.int64, len(boxes) + 1),
            ("labels", labels, np.uint8, total),
            ("uv", uv, np.float32, 2 * total),
            ("confidences", values, np.float32, count * total),
        ):
            check_array(name, array, dtype, (expected,))
        split: tuple[list[np.ndarray], ...] = tuple([] for _ in range(2 + count))
        ends = offsets.tolist()
        for (h, w), begin, end in zip(patch_sizes(boxes), ends[:-1], ends[1:], strict=True):
            if end - begin != h * w:
                raise ValueError(f"a box of {h} x {w} pixels has {end - begin} labels")
            split[0].append(labels[begin:end].reshape(h, w))
            split[1].append(uv[2 * begin : 2 * end].reshape(2, h, w))
            if count:
                for e, maps in enumerate(values[count * begin : count * end].reshape(count, h, w)):
                    split[2 + e].append(maps)
        of_name = {name: tuple(maps) for name, maps in zip(confidence_names, split[2:], strict=True)}
        return cls.of_judged(boxes, scores, tuple(split[0]), tuple(split[1]), image_size, of_name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DetectionResult:
        """Read what ``save`` wrote, or a file with at least the first four kinds of arrays (floats of any width).

        What comes is of the file's kind: a ``VertexResult`` where that was saved. Without ``image_size`` the picture is
        taken to end where the boxes do.

        Raises:
            FileNotFoundError, OSError: there is no such file, or it may not be read.
            DensePoseEngineError: it is truncated, damaged, or no result.
        """
        from . import load_result

        return load_result(path)

    def person(self, k: int) -> Person:
        """Person k, counted from the best; negative k counts from the end. Raises IndexError."""
        k = self.index(k)
        confidences = {name: maps[k] for name, maps in self.confidences.items()}
        return Person(self.boxes[k], float(self.scores[k]), *self.corner(k), self.labels[k], self.uv[k], confidences)

    def people(self, indices: Sequence[int] | np.ndarray) -> DensePoseResult:
        """A result of these people alone, in this order; arrays of pixels are views."""
        return self.of_judged(
            self.boxes[indices],
            self.scores[indices],
            tuple(self.labels[k] for k in indices),
            tuple(self.uv[k] for k in indices),
            self.image_size,
            {name: tuple(maps[k] for k in indices) for name, maps in self.confidences.items()},
        )

    def iuv(self, height: int | None = None, width: int | None = None) -> np.ndarray:
        """The IUV image: uint8 [height, width, 3] with the channels part (0 .. 24), U * 255 and V * 255.

        U and V are clipped to 0 .. 1 and their products truncated, as DensePose's evaluation and visualizer do. Where
        people overlap, the one with the higher score is on top; a person's background pixels hide nobody. Another size
        than the picture's, which is the default, is sampled at the nearest pixel: labels cannot be interpolated.

        >>> from densepose_engine import Engine
        >>> with Engine.load("demo.engine") as engine:
        ...     iuv = engine.infer("person.jpg").iuv()
        >>> iuv.shape, bool(iuv[..., 0].max() <= 24)
        ((342, 512, 3), True)
        """
        rows, columns = self.image_size
        canvas = np.zeros((rows, columns, 3), np.uint8)
        for k in np.argsort(self.scores, kind="stable"):
            person = self.person(int(k))
            there, here = person.windows(rows, columns)
            labels = person.labels[here]
            uv = np.clip(person.uv[(slice(None), *here)] * 255, 0, 255).astype(np.uint8)
            np.copyto(canvas[there], np.stack([labels, *uv], axis=-1), where=(labels > 0)[..., None])
        height, width = rows if height is None else height, columns if width is None else width
        if height < 1 or width < 1:
            raise ValueError(f"height and width must be at least 1, not {height} and {width}")
        if (height, width) == (rows, columns):
            return canvas
        y = (2 * np.arange(height) + 1) * rows // (2 * height)
        x = (2 * np.arange(width) + 1) * columns // (2 * width)
        return canvas[y[:, None], x]

    def arrays(self) -> dict[str, np.ndarray]:
        """``boxes``, ``scores``, ``labels_K`` and ``uv_K`` of person K, ``image_size``, ``confidence_names`` and
        ``NAME_K`` for each of these names."""
        arrays = {"boxes": self.boxes, "scores": self.scores}
        for name, maps in {"labels": self.labels, "uv": self.uv, **self.confidences}.items():
            arrays |= {f"{name}_{k}": array for k, array in enumerate(maps)}
        arrays["image_size"] = np.array(self.image_size, np.int64)
        arrays["confidence_names"] = np.array(list(self.confidences), np.str_)
        return arrays

    @classmethod
    def read(cls, file: NpzReader) -> DensePoseResult:
        """What ``arrays`` gave, or the first four kinds of it. Raises ``ValueError``."""
        boxes, scores, image_size = read_people(file)
        names = file.read("confidence_names", "U", (None,)).tolist() if "confidence_names" in file else []
        if len(set(names)) != len(names):
            raise ValueError("its confidence names are not distinct")
        sizes = [patch_size(box) for box in boxes]
        labels = [file.read(f"labels_{k}", "u", size) for k, size in enumerate(sizes)]
        if any(array.max() > PARTS for array in labels):
            raise ValueError(f"it has labels above {PARTS}")
        return DensePoseResult(
            boxes,
            scores,
            tuple(array.astype(np.uint8) for array in labels),
            tuple(file.read(f"uv_{k}", "f", (2, *size)).astype(np.float32) for k, size in enumerate(sizes)),
            image_size,
            {
                name: tuple(file.read(f"{name}_{k}", "f", size).astype(np.float32) for k, size in enumerate(sizes))
                for name in names
            },
        )

    def surface_labels(self, k: int) -> np.ndarray:
        """The parts, uint8 ``[h, w]``."""
        return self.labels[k]

    def surface_coordinates(self, k: int) -> np.ndarray:
        """U and V, float32 ``[2, h, w]``."""
        return self.uv[k]

    def details(self, k: int, pixels: bool) -> dict[str, Any]:
        """With ``pixels``: ``labels``, ``uv`` and ``confidences``."""
        if not pixels:
            return {}
        confidences = {name: maps[k].tolist() for name, maps in self.confidences.items()}
        return {"labels": self.labels[k].tolist(), "uv": self.uv[k].tolist(), "confidences": confidences}

    def _also(self) -> str:
        return f", with {', '.join(self.confidences)}" if self.confidences else ""


class ChartDecoder:
    """Parts and (u, v) of every pixel of a box, by the op ChartResult. See ``base.Decoder``."""

    kind: ClassVar[str] = CHARTS
    result: ClassVar[type[DetectionResult]] = DensePoseResult
    stage: ClassVar[str] = "chart decode"

    def __init__(self, model: ModelDescription, tensors: Mapping[str, np.ndarray]) -> None:
        if missing := [name for name in _MAPS if name not in model.maps]:
            raise ValueError(f"maps lacks {', '.join(missing)}")
        self._confidences = tuple(name for name in CONFIDENCES if name in model.maps)
        self.maps: Sequence[str]
        self._op, self.maps = reader_of_maps(_core.ops.ChartResult, model, (*_MAPS, *self._confidences))
        self._separate = 0 if model.packed_maps else len(self._confidences)

    @classmethod
    def summary(cls, description: DecoderDescription) -> str:
        return f"charts of {PARTS} parts"

    def mesh(self, name: str | None) -> str | None:
        """There is none. Raises ``ValueError`` for a name."""
        if name is not None:
            raise ValueError(f"this network has charts and no mesh {name!r}; leave mesh out")
        return None

    def decode(
        self,
        outputs: Mapping[str, np.ndarray],
        image_size: tuple[int, int],
        threads: int,
        mesh: str | None,
        mark: Callable[[str], None],
    ) -> DensePoseResult:
        boxes = np.array(outputs["boxes"], np.float32)
        maps = [outputs[name] for name in self.maps]
        shared = len(maps) - self._separate
        labels, uv, offsets, values = self._op(*maps[:shared], boxes, *maps[shared:], threads=threads)
        mark(self.stage)
        return DensePoseResult.from_flat(
            boxes=boxes,
            scores=np.array(outputs["scores"], np.float32),
            labels=labels,
            uv=uv,
            offsets=offsets,
            image_size=image_size,
            confidence_names=self._confidences,
            confidences=values,
        )
