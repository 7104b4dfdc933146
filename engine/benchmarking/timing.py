"""Running something often enough, and what the times say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_TURN = 0.1  # seconds that a contender runs before the next one's turn
_FEW = 5  # times without which no spread is known


@dataclass(frozen=True)
class Effort:
    """How long to measure: ``warm_up`` and ``duration`` in seconds, and at least ``iterations`` timed runs."""

    warm_up: float = 0.2
    duration: float = 3.0
    iterations: int = 10


@dataclass
class Times:
    """Starts and latencies of runs, in seconds; ``streams``: which of several callers made each."""

    starts: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    wall: float = 0.0

    def add(self, start: float, end: float, stream: int = 0) -> None:
        self.starts.append(start)
        self.latencies.append(end - start)
        self.streams.append(stream)

    @property
    def milliseconds(self) -> np.ndarray:
        return 1e3 * np.asarray(self.latencies)

    @property
    def throughput(self) -> float:
        """Runs per second of wall time."""
        return len(self.latencies) / self.wall if self.wall > 0 else 0.0

    def to_rows(self) -> list[dict[str, Any]]:
        """Every run in the order of their starts, for ``--exportTimes``."""
        first = min(self.starts, default=0.0)
        rows = sorted(zip(self.starts, self.latencies, self.streams, strict=True))
        return [
            {
                "startMs": 1e3 * (start - first),
                "endMs": 1e3 * (start - first + took),
                "latencyMs": 1e3 * took,
                "stream": s,
            }
            for start, took, s in rows
        ]


def summarize(milliseconds: np.ndarray, percentiles: Sequence[float] = (90, 95, 99)) -> dict[str, Any]:
    """min, max, mean, median, percentiles (by their number as text) and the coefficient of variation."""
    mean = float(np.mean(milliseconds))
    return {
        "min": float(np.min(milliseconds)),
        "max": float(np.max(milliseconds)),
        "mean": mean,
        "median": float(np.median(milliseconds)),
        "percentiles": {f"{p:g}": float(np.percentile(milliseconds, p)) for p in percentiles},
        "cv": float(np.std(milliseconds)) / mean if mean > 0 else 0.0,
        "iterations": len(milliseconds),
    }


def drift(milliseconds: np.ndarray) -> float:
    """How much slower the last quarter of the runs was than the first, as a share of the first; by medians."""
    quarter = len(milliseconds) // 4
    if quarter < _FEW:
        return 0.0
    return float(np.median(milliseconds[-quarter:]) / np.median(milliseconds[:quarter]) - 1)


def measure(run: Callable[[int], object], effort: Effort, streams: int = 1) -> Times:
    """Time ``run(frame number)`` back to back, in ``streams`` threads at once.

    The first exception of any thread ends all of them and is raised.
    """
    warm = time.perf_counter() + effort.warm_up
    number = 0
    while number == 0 or time.perf_counter() < warm:
        run(number)
        number += 1
    times = Times()
    begin = time.perf_counter()
    if streams == 1:
        _loop(run, effort, begin, times, 0)
    else:
        parts = [Times() for _ in range(streams)]
        _in_threads([lambda i=i: _loop(run, effort, begin, parts[i], i, streams) for i in range(streams)])  # type: ignore[misc]
        for part in parts:
            times.starts += part.starts
            times.latencies += part.latencies
            times.streams += part.streams
    times.wall = time.perf_counter() - begin
    return times


def _loop(
    run: Callable[[int], object], effort: Effort, begin: float, times: Times, stream: int, streams: int = 1
) -> None:
    number = stream
    end = begin
    while end - begin < effort.duration or len(times.latencies) * streams < effort.iterations:
        start = time.perf_counter()
        run(number)
        end = time.perf_counter()
        times.add(start, end, stream)
        number += streams


def _in_threads(tasks: Sequence[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def interleave(contenders: Mapping[str, Callable[[int], object]], effort: Effort) -> dict[str, list[np.ndarray]]:
    """Let contenders take turns, A B A B, so that what slows the machine down slows all of them.

    A turn is one picture, ``run(turn)``: a run that is not timed, in which caches and threads become the contender's
    own again, then timed runs for a tenth of a second, at least one. There are as many turns as the slowest needs for
    ``effort.iterations`` and all of them for ``effort.duration`` each.

    Returns:
        Milliseconds of every turn, by contender.
    """
    turns: dict[str, list[np.ndarray]] = {name: [] for name in contenders}
    spent = dict.fromkeys(contenders, 0.0)
    done = dict.fromkeys(contenders, 0)
    for run in contenders.values():
        warm = time.perf_counter() + effort.warm_up
        run(0)
        while time.perf_counter() < warm:
            run(0)
    turn = 0
    while min(spent.values()) < effort.duration or min(done.values()) < effort.iterations:
        for name, run in contenders.items():
            run(turn)
            times: list[float] = []
            end = begin = time.perf_counter()
            while not times or end < begin + _TURN:
                start = time.perf_counter()
                run(turn)
                end = time.perf_counter()
                times.append(end - start)
            turns[name].append(1e3 * np.asarray(times))
            spent[name] += sum(times)
            done[name] += len(times)
        turn += 1
    return turns


def pair_ratios(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
    """How many times longer theirs took than ours, turn by turn, by the turns' medians."""
    return np.array([np.median(b) / np.median(a) for a, b in zip(ours, theirs, strict=True)])
