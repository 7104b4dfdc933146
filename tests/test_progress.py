"""The progress display: silent when it is quick, in place on a terminal, in lines elsewhere."""

from __future__ import annotations

import io
import sys
import time

import pytest

from densepose_engine import progress
from densepose_engine.progress import ProgressBar, Stages, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return stream


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.4, 59.6, 3599, 3661)] == ["0:00", "0:59", "1:00", "59:59", "1:01:01"]


def test_a_bar_on_a_terminal(clock: Clock, terminal: Terminal) -> None:
    with ProgressBar(4, "pictures") as bar:
        clock.now += 30
        bar.advance()
        text = terminal.getvalue()
        assert text.endswith("1/4 pictures, 0:30 gone, 1:30 left")
        drawn = text.rpartition("[")[2].partition("]")[0]
        assert drawn.count("=") == len(drawn) // 4 > 5
        assert len(text.removeprefix("\r\x1b[K")) < 80
        bar.clear()
        assert terminal.getvalue().endswith("\r\x1b[K")
        bar.advance()
        assert "2/4" in terminal.getvalue().rpartition("\x1b[K")[2]
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert "\n" not in terminal.getvalue()


def test_a_narrow_terminal_gets_no_bar(clock: Clock, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    clock.now += 1
    bar = ProgressBar(2, "pictures")
    clock.now += 1
    bar.advance()
    assert terminal.getvalue() == "\r\x1b[K1/2 pictures, 0:01 gone, 0:01 left"


def test_a_log_gets_lines_now_and_then(clock: Clock, log: io.StringIO) -> None:
    with ProgressBar(100, "pictures") as bar:
        for _ in range(100):
            clock.now += 0.5
            bar.advance()
    lines = log.getvalue().splitlines()
    assert lines[0] == "densepose-engine: 4/100 pictures, 0:02 gone, 0:48 left"
    assert len(lines) == 4
    assert "\r" not in log.getvalue()


def test_what_is_quick_or_quiet_says_nothing(clock: Clock, log: io.StringIO) -> None:
    for enabled, seconds in ((True, 1.9), (False, 1000)):
        bar = ProgressBar(3, "pictures", enabled=enabled)
        clock.now += seconds
        bar.advance()
    with Stages() as stages:
        stages("quick")
    with Stages(enabled=False) as stages:
        stages("quiet")
    assert log.getvalue() == ""


def test_stages_on_a_terminal(terminal: Terminal) -> None:
    with Stages() as stages:
        stages("converting\x1b[2J")
        _wait_for(lambda: "converting" in terminal.getvalue())
    assert "converting\\x1b[2J, 0 s" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_stages_in_a_log(monkeypatch: pytest.MonkeyPatch, log: io.StringIO) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with Stages() as stages:
        stages("reading")
        _wait_for(lambda: "reading" in log.getvalue())
        stages("writing")
        _wait_for(lambda: "writing" in log.getvalue())
        time.sleep(0.3)
    assert log.getvalue() == "densepose-engine: reading ...\ndensepose-engine: writing ...\n"


def test_without_a_stderr_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Stages() as stages, ProgressBar(1, "pictures") as bar:
        stages("x")
        bar.advance()


def _wait_for(condition: object, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)
