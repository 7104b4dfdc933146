"""Where results to be scored come from: an engine, or files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ..decoders import DetectionResult, load_result
from ..errors import DensePoseEngineError, ImageError
from ..pictures.read import to_rgb_array
from .annotations import AnnotatedPicture

if TYPE_CHECKING:
    from ..engine import Engine


_Result = TypeVar("_Result", bound=DetectionResult)


class Predictor(Protocol):
    """Gives the people of a picture."""

    name: str

    def __call__(self, picture: AnnotatedPicture) -> DetectionResult:
        """Raises ``ImageError`` or ``OSError`` for a picture that cannot be read; anything else ends the evaluation."""


class EnginePredictor:
    """Runs an engine on pictures from files.

    Args:
        name: what the engine is called in reports.
        score_threshold, max_proposals: None is the model's own.
    """

    def __init__(
        self,
        engine: Engine,
        name: str = "engine",
        score_threshold: float | None = None,
        max_people: int = 20,
        max_proposals: int | None = None,
    ) -> None:
        self.name = name
        self._engine = engine
        self._settings: dict[str, Any] = {
            "score_threshold": score_threshold,
            "max_people": min(max_people, int(engine.model["capacity"]["max_people"])),
            "max_proposals": max_proposals,
        }

    def __call__(self, picture: AnnotatedPicture) -> DetectionResult:
        rgb = to_rgb_array(picture.path)
        if rgb.shape[:2] != (picture.height, picture.width):
            raise ImageError(
                f"{picture.path} is {rgb.shape[1]} x {rgb.shape[0]} pixels, its annotations are of "
                f"{picture.width} x {picture.height}"
            )
        return self.run(rgb)

    def run(self, rgb: np.ndarray) -> DetectionResult:
        """The people in a uint8 RGB picture, at the same settings."""
        return self._engine.infer(rgb, **self._settings)


class SavedPredictions:
    """Reads what ``infer --save npz`` wrote: of ``a/b.jpg``, FOLDER/a/b.npz, FOLDER/a/b.jpg.npz or FOLDER/b.npz.

    Args:
        score_threshold: people with a score above this; None for all.
    """

    def __init__(
        self, folder: str | os.PathLike[str], name: str | None = None, score_threshold: float | None = None
    ) -> None:
        self._folder, self._score_threshold = Path(folder), score_threshold
        self.name = str(folder) if name is None else name

    def __call__(self, picture: AnnotatedPicture) -> DetectionResult:
        name = Path(picture.file_name)
        names = (name.with_suffix(".npz"), name.with_name(f"{name.name}.npz"), Path(f"{name.stem}.npz"))
        for path in (self._folder / name for name in names):
            if path.is_file():
                result = load_result(path)
                if self._score_threshold is None:
                    return result
                return result.people(np.flatnonzero(result.scores > self._score_threshold))
        raise DensePoseEngineError(
            f"there is no prediction {self._folder / names[0]} for {picture.file_name}; a picture in which nobody was "
            "found has one too"
        )


def predict(
    engine: Engine,
    pictures: Iterable[np.ndarray | str | os.PathLike[str]],
    *,
    score_threshold: float | None = None,
    max_people: int = 20,
) -> list[DetectionResult]:
    """The people in each picture (uint8 RGB arrays or paths), for ``drift``; the thresholds are those of evaluation."""
    people = min(max_people, int(engine.model["capacity"]["max_people"]))
    return [engine.infer(one, score_threshold=score_threshold, max_people=people) for one in pictures]


def best_people(result: _Result, count: int) -> _Result:
    """The ``count`` people with the highest scores, best first."""
    order = np.argsort(-result.scores, kind="stable")[:count]
    return result if np.array_equal(order, np.arange(len(result))) else result.people(order)
