"""What the engine finds: boxes, scores and dense poses of the people in one picture, and the file that holds them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from .errors import DensePoseEngineError
from .files.npz import NpzReader, write_npz

PARTS = 24  # labels are 1 .. 24; 0 is background
_MAX_COORDINATE = 1 << 24  # pixels; float32 cannot count further
_MOST_PEOPLE = 100_000  # in a file
_MOST_PIXELS = 1 << 31  # of a file's picture


def patch_size(box: np.ndarray) -> tuple[int, int]:
    """(height, width) of the patch of a box, float32 xyxy: detectron2 subtracts in float32 and then truncates."""
    ((height, width),) = patch_sizes(box[None])
    return height, width


def patch_sizes(boxes: np.ndarray) -> list[tuple[int, int]]:
    """``patch_size`` of many boxes, float32 ``[N, 4]``."""
    # After a network has emptied the caches, each numpy function costs as much as dozens of lines.
    sides = (boxes[:, 2:] - boxes[:, :2]).tolist()
    return [(max(int(height), 1), max(int(width), 1)) for width, height in sides]


@dataclass(frozen=True, eq=False)
class Person:
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

    def windows(self, height: int, width: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """What a picture of this size and the patch have in common, as an index into the one and into the other."""
        h, w = self.labels.shape
        top, left = max(self.y, 0), max(self.x, 0)
        bottom, right = max(min(self.y + h, height), top), max(min(self.x + w, width), left)
        rows, columns = slice(top, bottom), slice(left, right)
        return (rows, columns), (slice(top - self.y, bottom - self.y), slice(left - self.x, right - self.x))


@dataclass(frozen=True, eq=False, repr=False)
class DensePoseResult:
    """The people in one picture, best first.

    Person k's patch has ``max(int(y1 - y0), 1)`` rows and ``max(int(x1 - x0), 1)`` columns, subtracted in float32, and
    its top left pixel is the picture's at row ``int(y0)`` and column ``int(x0)``, as in detectron2.

    Raises (on construction):
        ValueError: shapes, dtypes or lengths that do not belong together.
    """

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
        _check_people(self.boxes, self.scores, self.image_size)
        people = len(self.scores)
        maps: dict[str, Sequence[np.ndarray]] = {"labels": self.labels, "uv": self.uv, **self.confidences}
        for name, arrays in maps.items():
            if len(arrays) != people:
                raise ValueError(f"{name} has {len(arrays)} arrays, there are {people} people")
        for k, (h, w) in enumerate(patch_sizes(self.boxes)):
            size = (h, w)
            _check(f"labels[{k}]", self.labels[k], np.uint8, size)
            _check(f"uv[{k}]", self.uv[k], np.float32, (2, *size))
            for name, arrays in self.confidences.items():
                _check(f"{name}[{k}]", arrays[k], np.float32, size)

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
        _check_people(boxes, scores, image_size)
        count = len(confidence_names)
        total = int(offsets[-1])
        values = np.zeros(0, np.float32) if confidences is None else confidences
        for name, array, dtype, expected in (
            ("offsets", offsets, np.int64, len(boxes) + 1),
            ("labels", labels, np.uint8, total),
            ("uv", uv, np.float32, 2 * total),
            ("confidences", values, np.float32, count * total),
        ):
            _check(name, array, dtype, (expected,))
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
        # Made without __init__, which would look at every map again: a tenth of a millisecond of every frame.
        result = cls.__new__(cls)
        values_of = (boxes, scores, tuple(split[0]), tuple(split[1]), image_size, of_name)
        for name, value in zip(_FIELDS, values_of, strict=True):
            object.__setattr__(result, name, value)
        return result

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        height, width = self.image_size
        scores = ", ".join(f"{score:.2f}" for score in self.scores[:8]) + (", ..." if len(self) > 8 else "")
        people = f"{len(self)} {'person' if len(self) == 1 else 'people'}"
        confidences = f", with {', '.join(self.confidences)}" if self.confidences else ""
        of = f" ({scores})" if len(self) else ""
        return f"DensePoseResult({people}{of} in {width} x {height} pixels{confidences})"

    def __eq__(self, other: object) -> bool:
        """The same people, with exactly the same numbers (NaN equals NaN)."""
        if not isinstance(other, DensePoseResult):
            return NotImplemented
        mine, theirs = _arrays(self), _arrays(other)
        return mine.keys() == theirs.keys() and all(
            a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in ((mine[name], theirs[name]) for name in mine)
        )

    __hash__ = None  # type: ignore[assignment]

    def person(self, k: int) -> Person:
        """Person k, counted from the best; negative k counts from the end. Raises IndexError."""
        if not -len(self) <= k < len(self):
            raise IndexError(f"there is no person {k}, the result has {len(self)}")
        x, y = int(self.boxes[k, 0]), int(self.boxes[k, 1])
        confidences = {name: maps[k] for name, maps in self.confidences.items()}
        return Person(self.boxes[k], float(self.scores[k]), x, y, self.labels[k], self.uv[k], confidences)

    def iuv(self, height: int | None = None, width: int | None = None) -> np.ndarray:
        """The IUV image: uint8 [height, width, 3] with the channels part (0 .. 24), U * 255 and V * 255.

        U and V are clipped to 0 .. 1 and their products truncated, as DensePose's evaluation and visualiser do. Where
        people overlap, the one with the higher score is on top; a person's background pixels hide nobody. Another size
        than the picture's, which is the default, is sampled at the nearest pixel: labels cannot be interpolated.
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

    def to_dict(self, pixels: bool = False) -> dict[str, Any]:
        """For JSON: ``image_size`` and, per person, ``box``, ``score`` and ``patch`` (x, y, height, width).

        ``pixels`` adds each person's ``labels``, ``uv`` and ``confidences`` as nested lists, which are large.
        """
        people = []
        for k in range(len(self)):
            person = self.person(k)
            height, width = person.labels.shape
            entry: dict[str, Any] = {
                "box": person.box.tolist(),
                "score": person.score,
                "patch": {"x": person.x, "y": person.y, "height": height, "width": width},
            }
            if pixels:
                entry["labels"] = person.labels.tolist()
                entry["uv"] = person.uv.tolist()
                entry["confidences"] = {name: values.tolist() for name, values in person.confidences.items()}
            people.append(entry)
        height, width = self.image_size
        return {"image_size": {"height": height, "width": width}, "people": people}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` without pickled objects, under exactly this name; nobody ever sees half a file.

        Its arrays are ``boxes``, ``scores``, ``labels_K`` and ``uv_K`` of person K, ``image_size``,
        ``confidence_names`` and ``NAME_K`` for each of these names. Raises ``OSError`` where the system refuses.
        """
        write_npz(path, _arrays(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DensePoseResult:
        """Read what ``save`` wrote, or a file with at least the first four kinds of arrays (floats of any width).

        Without ``image_size`` the picture is taken to end where the boxes do.

        Raises:
            FileNotFoundError, OSError: there is no such file, or it may not be read.
            DensePoseEngineError: it is truncated, damaged, or no result.
        """
        try:
            with NpzReader(path) as file:
                return _read(file)
        except ValueError as error:
            raise DensePoseEngineError(f"{os.fspath(path)} is not a readable DensePose result: {error}") from error


_FIELDS = [field.name for field in fields(DensePoseResult)]


def _arrays(result: DensePoseResult) -> dict[str, np.ndarray]:
    arrays = {"boxes": result.boxes, "scores": result.scores}
    for name, maps in {"labels": result.labels, "uv": result.uv, **result.confidences}.items():
        arrays |= {f"{name}_{k}": array for k, array in enumerate(maps)}
    arrays["image_size"] = np.array(result.image_size, np.int64)
    arrays["confidence_names"] = np.array(list(result.confidences), np.str_)
    return arrays


def _read(file: NpzReader) -> DensePoseResult:
    scores = file.read("scores", "f", (None,)).astype(np.float32)
    if len(scores) > _MOST_PEOPLE:
        raise ValueError(f"it has {len(scores)} people, at most {_MOST_PEOPLE} are read")
    boxes = file.read("boxes", "f", (len(scores), 4)).astype(np.float32)
    if not np.isfinite(boxes).all() or (np.abs(boxes) > _MAX_COORDINATE).any():
        raise ValueError("its boxes are not those of a picture")
    if "image_size" in file:
        height, width = file.read("image_size", "iu", (2,)).tolist()
    else:
        width, height = np.ceil(boxes[:, 2:].max(axis=0, initial=1)).astype(int).tolist()
    if not (0 < height <= _MAX_COORDINATE and 0 < width <= _MAX_COORDINATE and height * width <= _MOST_PIXELS):
        raise ValueError(f"its image_size of {height} x {width} is not that of a picture")
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
        (height, width),
        {
            name: tuple(file.read(f"{name}_{k}", "f", size).astype(np.float32) for k, size in enumerate(sizes))
            for name in names
        },
    )


def _check_people(boxes: np.ndarray, scores: np.ndarray, image_size: tuple[int, int]) -> None:
    _check("scores", scores, np.float32, (len(scores),))
    _check("boxes", boxes, np.float32, (len(scores), 4))
    height, width = image_size
    if height < 1 or width < 1:
        raise ValueError(f"image_size must be (height, width), at least 1 each, not {image_size}")
    if not all(map(math.isfinite, (*boxes.ravel().tolist(), *scores.tolist()))):
        raise ValueError("boxes and scores must be finite")


def _check(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    if (
        not isinstance(array, np.ndarray)
        or array.dtype.type is not dtype
        or not array.dtype.isnative
        or array.shape != shape
    ):
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} is {given}, it must be {np.dtype(dtype)} {shape}")
