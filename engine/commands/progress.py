"""How far it is, on stderr: a bar where the number of steps is known, the running stage where it is not.

On a terminal they are redrawn in place and vanish at the end. Elsewhere (a log file, a pipe) what takes longer than two
seconds says so in plain lines.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from types import TracebackType
from typing import TextIO

from ..wording import printable
from .terminal import say, write_remark

_PATIENCE = 2.0  # seconds without a sign of life that nobody minds
_DRAW_EVERY, _LINE_EVERY = 0.1, 15.0  # seconds, on a terminal and in a log
_ERASE, _FRAMES = "\r\x1b[K", "|/-\\"


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def _columns() -> int:
    """How much fits on a line: one that wraps could not be erased."""
    return shutil.get_terminal_size().columns - 1


def duration(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ProgressBar:
    """Steps done of ``total`` (0: nobody knows how many there will be), and when it will be finished.

    ``rate``: say how many steps a second there are.
    Print to the same terminal only after ``clear``; the next ``advance`` draws the bar again.
    """

    def __init__(self, total: int, unit: str, enabled: bool = True, rate: bool = False) -> None:
        self._total, self._unit, self._rate = total, unit, rate
        self._stream = sys.stderr
        self._enabled = enabled and self._stream is not None
        self._terminal = _is_terminal(self._stream)
        self._done = 0
        self._start = time.monotonic()
        self._next = self._start + (_DRAW_EVERY if self._terminal else _PATIENCE)
        self._drawn = False

    def advance(self) -> None:
        """One more step is done."""
        self._done += 1
        now = time.monotonic()
        if not self._enabled or now < self._next:
            return
        self._next = now + (_DRAW_EVERY if self._terminal else _LINE_EVERY)
        text = self._text(now - self._start)
        if not self._terminal:
            say(text)
            return
        columns = _columns()
        bar = max(min(columns - len(text) - 3, 40), 0) if self._total else 0
        filled = min(bar * self._done // max(self._total, 1), bar)
        drawn = f"[{'=' * filled}{' ' * (bar - filled)}] {text}" if bar else text
        write_remark(self._stream, _ERASE + drawn[:columns])
        self._drawn = True

    def clear(self) -> None:
        """Take the bar off the terminal."""
        if self._drawn:
            write_remark(self._stream, _ERASE)
            self._drawn = False
            self._next = 0.0  # it has to come back with the next step, not a tenth of a second later

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def _text(self, elapsed: float) -> str:
        rate = f", {self._done / max(elapsed, 1e-9):.1f} {self._unit} per second" if self._rate else ""
        if not self._total:
            return f"{self._done} {self._unit}, {duration(elapsed)} gone{rate}"
        # A total may be an estimate, and too low.
        left = elapsed / self._done * max(self._total - self._done, 0)
        return f"{self._done}/{self._total} {self._unit}, {duration(elapsed)} gone, {duration(left)} left{rate}"


class Stages:
    """Says which stage of a piece of work is running, for work that cannot say how far it is.

    A call with a stage's name begins it; the end of the ``with`` block ends the last.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._stream = sys.stderr
        self._enabled = enabled and self._stream is not None
        self._terminal = _is_terminal(self._stream)
        self._stage = ""
        self._start = time.monotonic()
        self._stop = threading.Event()
        # A thread of its own, because the work sits in a vendor's compiler for seconds.
        self._thread = threading.Thread(target=self._run, name="densepose-engine progress", daemon=True)

    def __call__(self, stage: str) -> None:
        self._stage = printable(stage)

    def __enter__(self) -> Stages:
        if self._enabled:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._enabled:
            self._thread.join()

    def _run(self) -> None:
        drawn, said, frame = False, "", 0
        while not self._stop.wait(_DRAW_EVERY):
            elapsed, stage = time.monotonic() - self._start, self._stage
            if self._terminal:
                frame += 1
                write_remark(self._stream, _ERASE + f"{_FRAMES[frame % 4]} {stage}, {elapsed:.0f} s"[: _columns()])
                drawn = True
            elif elapsed > _PATIENCE and stage != said:
                say(f"{stage} ...")
                said = stage
        if drawn:
            write_remark(self._stream, _ERASE)
