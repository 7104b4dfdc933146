"""Runs targets in worker processes, and counts what becomes of their inputs: also of those that end the process."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .counts import BUILD, Counts, environment, keep
from .fuzz_worker import limit_memory, outcome
from .target import Target
from .targets import NAMES, corpus, target_class

SEED = "1"
_STARTING = 300.0  # seconds for a worker's imports and its target's preparation
_WALL = 12.0  # times the processor time that an input may take: on a busy machine, it has to wait for the processor
_SANITIZED = 10.0  # times as slow, at most
_TICKS = os.sysconf("SC_CLK_TCK")


def fuzz(names: Sequence[str] | None = None, scale: float = 1.0, jobs: int = 2) -> Counts:
    """All targets, ``jobs`` at a time; ``scale`` times as many inputs as each has by default."""
    counts = Counts("fuzzing")
    with ThreadPoolExecutor(jobs) as pool:
        for one in pool.map(lambda name: run_target(name, budget(name, scale)), names or NAMES):
            took = f"{one.seconds:.0f} s, {one.processor_seconds:.1f} of a processor"
            print(f"  {one.part}: {one.tried} inputs, {took}", file=sys.stderr, flush=True)
            counts.add(one)
    return counts


def budget(name: str, scale: float) -> int:
    """How many inputs to generate."""
    return max(int(target_class(name).inputs * scale), 1)


def run_target(name: str, inputs: int, around: Mapping[str, str] | None = None) -> Counts:
    """The corpus and ``inputs`` generated ones; ``around``: the workers' environment, where it is a special one."""
    counts, begin = Counts(name), time.monotonic()
    folder = BUILD / "work" / name
    last = len(corpus(name)) + inputs
    position = 0
    while position < last:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        worker = _Worker(name, (position, last), folder, counts, around or environment())
        try:
            reached = worker.run()
        finally:
            worker.stop()
            counts.processor_seconds += worker.used
        if reached == position:
            counts.fail("crashes", f"{name}: the worker does not start; see {folder / 'stderr'}")
            return counts
        position = reached
    shutil.rmtree(folder, ignore_errors=True)
    counts.seconds = time.monotonic() - begin
    return counts


class _Worker:
    """One process, from its start to its end."""

    def __init__(
        self, name: str, numbers: tuple[int, int], folder: Path, counts: Counts, around: Mapping[str, str]
    ) -> None:
        """``numbers``: of the first input, and of the one after the last."""
        self._name, self._first, self._counts, self._folder = name, numbers[0], counts, folder
        self._limit = target_class(name).seconds * (_SANITIZED if around.get("LD_PRELOAD") else 1.0)
        self._current: tuple[int, Path] | None = None
        self._verb = around.get("ROBUST_REPLAY", "replay")
        self.used = 0.0
        """Seconds of processor time."""
        command = [sys.executable, "-m", "robust.fuzz_worker", name, SEED, *map(str, numbers), str(folder)]
        with (folder / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=around, cwd=folder, start_new_session=True
            )

    def run(self) -> int:
        """The number of the next input to run."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        os.set_blocking(pipe, False)
        reached, buffer = self._first, b""
        with selectors.DefaultSelector() as selector, self._process.stdout:
            selector.register(pipe, selectors.EVENT_READ)
            begin, used = time.monotonic(), 0.0
            while True:
                if selector.select(0.5):
                    data = os.read(pipe, 1 << 16)
                    if not data:
                        return self._ended(reached)
                    *lines, buffer = (buffer + data).split(b"\n")
                    for line in lines:
                        reached = self._heard(json.loads(line), reached)
                    begin, used = time.monotonic(), self._processor_time()
                    self.used = max(used, self.used)
                elif self._exceeded(time.monotonic() - begin, self._processor_time() - used):
                    return self._hung(reached)

    def stop(self) -> None:
        """End what is left of it, for whatever reason its supervisor ends."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _heard(self, line: dict[str, Any], reached: int) -> int:
        if "begin" in line:
            self._current = (line["begin"], Path(line["path"]))
        elif "end" in line:
            self._current, reached = None, line["end"] + 1
            self._counts.tried += 1
            if "kind" in line:
                text = f"{self._name}: {line['place']}; {line['replay']}"
                self._counts.fail(line["kind"], text, line.get("size", 1))
        return reached

    def _exceeded(self, wall: float, processor: float) -> bool:
        if self._current is None:
            return wall > _STARTING
        return processor > self._limit or wall > _WALL * self._limit

    def _processor_time(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _hung(self, reached: int) -> int:
        os.killpg(self._process.pid, signal.SIGABRT)  # faulthandler writes where it was
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        return self._failed("hangs", f"no end after {self._limit:g} s of processor time", reached)

    def _ended(self, reached: int) -> int:
        code = self._process.wait()
        if self._current is None:
            return reached
        text = f"signal {signal.Signals(-code).name}" if code < 0 else f"the process ended with {code}"
        return self._failed("crashes", text, reached)

    def _failed(self, kind: str, text: str, reached: int) -> int:
        if self._current is None:
            return reached
        number, path = self._current
        said = (self._folder / "stderr").read_text(errors="replace")[-50_000:]
        lines = [line.strip() for line in said.splitlines()]
        frames = [line for line in lines if "runtime error:" in line or "ERROR: AddressSanitizer" in line][:1]
        frames += [line for line in lines if line.startswith("File")][:2]
        place = f"{text} {' '.join(frames)}"
        self._counts.tried += 1
        self._counts.fail(kind, f"{self._name}: {place}; {keep(self._name, path, kind, place, said, self._verb)}")
        return number + 1


def replay(name: str, path: Path) -> int:
    """Run one kept input in this process and say what becomes of it; 1 where it fails."""
    folder = BUILD / "work" / "replay"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    target: Target = target_class(name)(folder)
    limit_memory(target.memory)
    failure = outcome(target, path.resolve())
    print(f"{failure['kind']}: {failure['place']}\n{failure['text']}" if failure else "ends as documented")
    return 1 if failure else 0


#: Which targets ``part`` runs.
CHOSEN: list[str] = []


def part(scale: float, long: bool) -> Counts:
    """Structure-aware fuzzing of every file that is read, and of arguments."""
    return fuzz(CHOSEN, scale)
