"""The seam between a network's maps and what a user gets: results by kind, and the decoders that make them.

A third kind is a module beside ``charts`` and ``embeddings`` with these two classes, and a line in ``decoders``: who
saves, draws, compares or runs results asks here and knows no kind by name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from ..errors import DensePoseEngineError
from ..files.npz import NpzReader, write_npz
from ..model.decoder import DecoderDescription
from ..model.description import ModelDescription
from .layers import DataImage, Layer, Window

_MAX_COORDINATE = 1 << 24  # pixels; float32 cannot count further
_MOST_PEOPLE = 100_000  # in a file
_MOST_PIXELS = 1 << 31  # of a file's picture
#: The array of an npz that names the kind of its result; without it, it has charts.
KIND = "kind"

_Result = TypeVar("_Result", bound="DetectionResult")


def patch_size(box: np.ndarray) -> tuple[int, int]:
    """(height, width) of the patch of a box, float32 xyxy: detectron2 subtracts in float32 and then truncates."""
    ((height, width),) = patch_sizes(box[None])
    return height, width


def patch_sizes(boxes: np.ndarray) -> list[tuple[int, int]]:
    """``patch_size`` of many boxes, float32 ``[N, 4]``."""
    # After a network has emptied the caches, each numpy function costs as much as dozens of lines.
    sides = (boxes[:, 2:] - boxes[:, :2]).tolist()
    return [(max(int(height), 1), max(int(width), 1)) for width, height in sides]


class DetectedPerson:
    """One person of a result, whatever its kind; arrays are views into it."""

    box: np.ndarray
    score: float
    x: int
    y: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the patch."""
        raise NotImplementedError

    def inside(self, window: Window) -> np.ndarray:
        """Which pixels of a window of the patch are the person's and not background, bool ``[h, w]``."""
        raise NotImplementedError

    def windows(self, height: int, width: int) -> tuple[Window, Window]:
        """What a picture of this size and the patch have in common, as an index into the one and into the other."""
        h, w = self.size
        top, left = max(self.y, 0), max(self.x, 0)
        bottom, right = max(min(self.y + h, height), top), max(min(self.x + w, width), left)
        rows, columns = slice(top, bottom), slice(left, right)
        return (rows, columns), (slice(top - self.y, bottom - self.y), slice(left - self.x, right - self.x))


class DetectionResult:
    """The people in one picture, best first; what is known of each depends on the kind of network.

    Person k's patch has ``max(int(y1 - y0), 1)`` rows and ``max(int(x1 - x0), 1)`` columns, subtracted in float32, and
    its top left pixel is the picture's at row ``int(y0)`` and column ``int(x0)``, as in detectron2.
    """

    kind: ClassVar[str]
    """The name that files and descriptions have for it."""
    layers: ClassVar[Mapping[str, Layer]]
    """What can be drawn of it; the first is what is drawn where nothing is asked for."""
    images: ClassVar[Mapping[str, DataImage]]
    """Pictures that are data."""
    wants: ClassVar[Mapping[str, str]] = {}
    """Of names that results of other kinds have, what to use instead."""

    boxes: np.ndarray
    """float32 [N, 4]: x0, y0, x1, y1 in pixels of the picture."""
    scores: np.ndarray
    """float32 [N]."""
    image_size: tuple[int, int]
    """(height, width) of the picture."""

    @classmethod
    def of_judged(cls: type[_Result], *values: Any) -> _Result:
        """A result of values that are known to belong together, in the order of its fields.

        ``__init__`` would look at every map again: a tenth of a millisecond of every frame.
        """
        result = cls.__new__(cls)
        for field, value in zip(fields(cls), values, strict=True):  # type: ignore[arg-type]  # every kind is a dataclass
            object.__setattr__(result, field.name, value)
        return result

    def person(self, k: int) -> Any:
        """Person k, counted from the best; negative k counts from the end. Raises IndexError."""
        raise NotImplementedError

    def people(self: _Result, indices: Sequence[int] | np.ndarray) -> _Result:
        """A result of these people alone, in this order; arrays of pixels are views."""
        raise NotImplementedError

    def arrays(self) -> dict[str, np.ndarray]:
        """What ``save`` writes, by name."""
        raise NotImplementedError

    @classmethod
    def read(cls: type[_Result], file: NpzReader) -> _Result:
        """What ``arrays`` gave. Raises ``ValueError``, whose message says what is wrong with the file."""
        raise NotImplementedError

    def surface_labels(self, k: int) -> np.ndarray:
        """Where on the surface each pixel of person k is, integers ``[h, w]``; 0 is background."""
        raise NotImplementedError

    def surface_coordinates(self, k: int) -> np.ndarray:
        """Finer coordinates where labels are equal, float32 ``[n, h, w]``; n may be 0."""
        raise NotImplementedError

    def details(self, k: int, pixels: bool) -> dict[str, Any]:
        """What ``to_dict`` says of person k beside box, score and patch."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        height, width = self.image_size
        scores = ", ".join(f"{score:.2f}" for score in self.scores[:8]) + (", ..." if len(self) > 8 else "")
        people = f"{len(self)} {'person' if len(self) == 1 else 'people'}"
        of = f" ({scores})" if len(self) else ""
        return f"{type(self).__name__}({people}{of} in {width} x {height} pixels{self._also()})"

    def _also(self) -> str:
        """What ``repr`` says at its end."""
        return ""

    def __eq__(self, other: object) -> bool:
        """The same people, with exactly the same numbers (NaN equals NaN)."""
        if not isinstance(other, DetectionResult):
            return NotImplemented
        mine, theirs = self.arrays(), other.arrays()
        return mine.keys() == theirs.keys() and all(
            a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in ((mine[name], theirs[name]) for name in mine)
        )

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        wanted = type(self).wants.get(name)
        raise AttributeError(
            f"{type(self).__name__} has no {name}" + (f": {wanted}" if wanted else ""), name=name, obj=self
        )

    def corner(self, k: int) -> tuple[int, int]:
        """Column and row of the top left pixel of person k's patch in the picture."""
        return int(self.boxes[k, 0]), int(self.boxes[k, 1])

    def index(self, k: int) -> int:
        """``k`` counted from the beginning. Raises IndexError."""
        if not -len(self) <= k < len(self):
            raise IndexError(f"there is no person {k}, the result has {len(self)}")
        return k % len(self)

    def to_dict(self, pixels: bool = False) -> dict[str, Any]:
        """For JSON: ``image_size`` and, per person, ``box``, ``score``, ``patch`` (x, y, height, width), and more.

        ``pixels`` adds each person's maps as nested lists, which are large.
        """
        people = []
        for k, (height, width) in enumerate(patch_sizes(self.boxes)):
            x, y = self.corner(k)
            people.append(
                {
                    "box": self.boxes[k].tolist(),
                    "score": float(self.scores[k]),
                    "patch": {"x": x, "y": y, "height": height, "width": width},
                    **self.details(k, pixels),
                }
            )
        height, width = self.image_size
        return {"image_size": {"height": height, "width": width}, "people": people}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` without pickled objects, under exactly this name; nobody ever sees half a file.

        docs/result-file.md says which arrays it has. Raises ``OSError`` where the system refuses.
        """
        write_npz(path, self.arrays())


class Decoder(Protocol):
    """Makes results of a network's maps. It is made once for an engine, and several threads use it.

    ``kind``: what descriptions call it; ``result``: what it makes; ``stage``: what ``bench`` calls its time; ``maps``:
    the outputs of the graph that it reads.
    """

    kind: ClassVar[str]
    result: ClassVar[type[DetectionResult]]
    stage: ClassVar[str]
    maps: Sequence[str]

    def __init__(self, model: ModelDescription, tensors: Mapping[str, np.ndarray]) -> None:
        """``tensors``: the description's. Raises ``ValueError``: the description is not that of such a network."""

    @classmethod
    def summary(cls, description: DecoderDescription) -> str:
        """What a description says, in a line for people. Raises ``ValueError`` where it says something impossible."""

    def mesh(self, name: str | None) -> str | None:
        """Judge the mesh that people are to be looked for on; None is the model's own. Raises ``ValueError``."""

    def decode(
        self,
        outputs: Mapping[str, np.ndarray],
        image_size: tuple[int, int],
        threads: int,
        mesh: str | None,
        mark: Callable[[str], None],
    ) -> DetectionResult:
        """The result of a frame's ``outputs``, which are borrowed: boxes, scores and the maps.

        ``mark(stage)`` is told when the op is done.
        """


def reader_of_maps(
    op: Callable[..., Any], model: ModelDescription, separate: Sequence[str]
) -> tuple[Any, Sequence[str]]:
    """An op that reads a network's maps, and the outputs that it reads: all maps in one, or ``separate`` ones.

    ``op``: of ``_core.ops``, with attributes ``channels``, ``block`` and ``layout``. Raises ``ValueError`` where the
    description packs them in a way that there is not.
    """
    if (packed := model.packed_maps) is None:
        return op(), list(separate)
    try:
        return op(channels=list(packed.channels), block=packed.block, layout=packed.layout), ["maps"]
    except ValueError as error:
        raise ValueError(f"packed_maps: {error}") from error


def check_people(boxes: np.ndarray, scores: np.ndarray, image_size: tuple[int, int]) -> None:
    """Raises ``ValueError`` where they are not those of one picture."""
    check_array("scores", scores, np.float32, (len(scores),))
    check_array("boxes", boxes, np.float32, (len(scores), 4))
    height, width = image_size
    if height < 1 or width < 1:
        raise ValueError(f"image_size must be (height, width), at least 1 each, not {image_size}")
    if not all(map(math.isfinite, (*boxes.ravel().tolist(), *scores.tolist()))):
        raise ValueError("boxes and scores must be finite")


def check_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    """Raises ``ValueError`` where it is of another type or shape."""
    if (
        not isinstance(array, np.ndarray)
        or array.dtype.type is not dtype
        or not array.dtype.isnative
        or array.shape != shape
    ):
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} is {given}, it must be {np.dtype(dtype)} {shape}")


def read_people(file: NpzReader) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Boxes, scores and the picture's size, from a file. Raises ``ValueError``."""
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
    return boxes, scores, (height, width)


def read_result(path: str | os.PathLike[str], kinds: Mapping[str, type[DetectionResult]]) -> DetectionResult:
    """A result of one of ``kinds`` from a file; errors as ``load_result``."""
    try:
        with NpzReader(path) as file:
            kind = str(file.read(KIND, "U", ())[()]) if KIND in file else next(iter(kinds))
            if kind not in kinds:
                raise ValueError(f"it has results of kind {kind!r:.40}, this package reads {', '.join(kinds)}")
            return kinds[kind].read(file)
    except ValueError as error:
        raise DensePoseEngineError(f"{os.fspath(path)} is not a readable DensePose result: {error}") from error
