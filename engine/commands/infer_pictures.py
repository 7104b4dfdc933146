"""The part of ``infer`` that works on pictures, one after the other, and what became of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, InferenceError
from ..files.output_files import PLACE_IS_GONE, OutputError, atomic_output, takes_files
from ..files.recognize import PICTURE, mismatch
from ..outputs.kinds import OUTPUT_KINDS, Look
from ..pictures.find import Picture
from ..wording import printable

if TYPE_CHECKING:
    import numpy as np

    from ..decoders import DetectionResult
    from ..engine import Engine


@dataclass(frozen=True)
class Outcome:
    """What became of one picture.

    ``result``: None where there is an error instead; ``milliseconds``: of resize, network and charts;
    ``total_milliseconds``: with reading, drawing and writing; ``drawn``: how many people are in what is drawn;
    ``outputs``: the files that were written; ``error``: a sentence; ``unwritten``: what could not be written, which is
    the error then; ``place_is_gone``: nothing else could be written there either.
    """

    picture: Picture
    result: DetectionResult | None = None
    milliseconds: float = 0.0
    total_milliseconds: float = 0.0
    drawn: int = 0
    outputs: Mapping[str, Path] = field(default_factory=dict)
    error: str | None = None
    unwritten: OutputError | None = None
    place_is_gone: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        error = {} if self.error is None else {"error": self.error}
        if self.result is None:
            return {"picture": str(self.picture.path), **error}
        return {
            "picture": str(self.picture.path),
            **self.result.to_dict(),
            "milliseconds": round(self.milliseconds, 3),
            "total_milliseconds": round(self.total_milliseconds, 3),
            "outputs": {kind: str(path) for kind, path in self.outputs.items()},
            **error,
        }


def infer_pictures(
    engine: Engine,
    jobs: Iterable[tuple[Picture, Mapping[str, Path]]],
    look: Look,
    place: Path | None = None,
    **settings: float | int | None,
) -> Iterator[Outcome]:
    """Run the engine on one picture after the other and write what is made of each.

    A picture that cannot be read, or on which the runtime fails, gives an outcome with an error, and the next follows;
    so does one whose outputs cannot be written, with those of them that can. Every file is complete as soon as it
    exists.

    Args:
        jobs: pictures, each with its outputs: a key of ``OUTPUT_KINDS`` -> the file.
        look: how they are drawn.
        place: the folder that all outputs are in, if there are any.
        settings: those of ``Engine.infer``.

    Raises:
        ValueError: a setting is out of range.
    """
    for picture, targets in jobs:
        begin = time.perf_counter()
        try:
            rgb = _read(picture.path)
            start = time.perf_counter()
            result = engine.infer(rgb, **settings)  # type: ignore[arg-type]
            milliseconds = 1000 * (time.perf_counter() - start)
        except OSError as error:
            yield Outcome(picture, error=f"{picture.path} cannot be read: {error.strerror or error}")
            continue
        except MemoryError:
            yield Outcome(picture, error=f"{picture.path} needs more memory than there is")
            continue
        except (ImageError, InferenceError) as error:
            text = str(error)
            yield Outcome(picture, error=text if str(picture.path) in text else f"{picture.path}: {text}")
            continue
        written, failure = _write(rgb, result, look, targets, place)
        yield Outcome(
            picture,
            result,
            milliseconds,
            1000 * (time.perf_counter() - begin),
            sum(score > look.score_threshold or look.score_threshold == 0 for score in result.scores.tolist()),
            written,
            **failure,
        )


def _read(path: Path) -> np.ndarray:
    from ..pictures.read import to_rgb_array

    # Whoever opens a pipe waits for somebody to write into it.
    if path.exists() and not path.is_file() and (sentence := mismatch(path, PICTURE)) is not None:
        raise ImageError(sentence)
    return to_rgb_array(path)


def _write(
    rgb: np.ndarray, result: DetectionResult, look: Look, targets: Mapping[str, Path], place: Path | None
) -> tuple[dict[str, Path], dict[str, Any]]:
    """The files that were written; and, where one could not be, what ``Outcome`` says of it."""
    written: dict[str, Path] = {}
    failure: dict[str, Any] = {}
    for kind, path in targets.items():
        try:
            with atomic_output(path) as temporary:
                OUTPUT_KINDS[kind].save(rgb, result, look, temporary)
            written[kind] = path
        except MemoryError:
            failure.setdefault("error", f"{path} needs more memory than there is")
        except OutputError as error:
            failure |= {"error": str(error), "unwritten": error}
            if error.cause in PLACE_IS_GONE or not takes_files(place or path.parent):
                failure["place_is_gone"] = True
                break
    return written, failure


@dataclass(frozen=True)
class Thresholds:
    """Who is taken for a person: with a score above ``data`` in results, above ``drawn`` in what is drawn.

    ``chosen``: by the user, and not by the model and the eye.
    """

    data: float
    drawn: float
    chosen: bool

    def describe(self) -> str:
        """For the summary."""
        origin = "--score-threshold" if self.chosen else "the model's own"
        return f"score above {self.data:g}, {origin}"


class Tally:
    """Counts of a run, for its summary and its end.

    ``limit``: how many people the model gives at most, None where the user says how many; ``draws``, ``keeps``: whether
    something is drawn, and whether results are kept as data.
    """

    def __init__(
        self, total: int, skipped: int, thresholds: Thresholds, limit: int | None, *, draws: bool, keeps: bool
    ) -> None:
        self.total, self.skipped, self.failed, self.unwritten = total, skipped, 0, 0
        self.people = self.drawn = self.at_limit = 0
        self._thresholds, self._limit, self._draws, self._keeps = thresholds, limit, draws, keeps
        self._milliseconds: list[float] = []
        self._totals: list[float] = []

    @property
    def done(self) -> int:
        return self.failed + len(self._milliseconds)

    @property
    def nothing_written(self) -> bool:
        """Whether every picture failed because its outputs could not be written."""
        return self.unwritten > 0 and self.unwritten == self.done

    def add(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.failed += 1
            self.unwritten += outcome.unwritten is not None
            return
        assert outcome.result is not None
        self.people += len(outcome.result)
        self.drawn += outcome.drawn
        self.at_limit += self.reached_limit(outcome)
        self._milliseconds.append(outcome.milliseconds)
        self._totals.append(outcome.total_milliseconds)

    def reached_limit(self, outcome: Outcome) -> bool:
        """Whether there may be more people in a picture than the model's limit let through."""
        result = outcome.result
        if self._limit is None or result is None or not len(result) >= self._limit > 0:
            return False
        # The best come first: where the last one is not drawn, nobody is missing in what is.
        return self._keeps or float(result.scores[-1]) > self._thresholds.drawn

    def line(self, outcome: Outcome) -> str:
        """One picture, for people."""
        assert outcome.result is not None
        people = len(outcome.result)
        parts = [f"{people} {'person' if people == 1 else 'people'}"]
        if self._draws and outcome.drawn < people:
            parts.append(f"{people - outcome.drawn} of them not drawn")
        if self.reached_limit(outcome):
            parts.append("the limit")
        return f"{printable(outcome.picture.path)}: {', '.join(parts)}, {outcome.milliseconds:.1f} ms"

    def summary(self, place: Path | None) -> str:
        parts = [
            f"{self.done} of {self.total} pictures",
            f"people found: {self.people} ({self._thresholds.describe()})",
        ]
        if self._draws:
            left = self.people - self.drawn
            parts.append(
                f"drawn: {self.drawn} (above {self._thresholds.drawn:g})" + (f", left out: {left}" * bool(left))
            )
        if self._milliseconds:
            parts.append(
                f"median {statistics.median(self._milliseconds):.1f} ms (resize, network and charts), "
                f"{_duration(statistics.median(self._totals))} with reading, drawing and writing"
            )
        if self.at_limit:
            where = f"in {self.at_limit} {'picture' if self.at_limit == 1 else 'pictures'}"
            limit = f"the model's limit of {self._limit} people was reached"
            parts.append(f"{where} {limit}, and there may be more: --max-people")
        if self.skipped:
            parts.append(f"skipped: {self.skipped}, whose outputs are there")
        if self.failed:
            parts.append(f"failed: {self.failed}")
        if place is not None and self._milliseconds:
            parts.append(f"results in {printable(place)}")
        return ", ".join(parts)


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"
