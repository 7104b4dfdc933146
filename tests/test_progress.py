"""The progress display: silent when it is quick, in place on a terminal, in lines elsewhere."""

from __future__ import annotations

import io
import sys
import time

import pytest

from densepose_engine.commands import progress
from densepose_engine.commands.progress import ProgressBar, Stages, duration


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


# Not fixtures: between the set-up and the call of a test, pytest puts a stream of its own into ``sys.stderr``.
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    return stream


def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.4, 59.6, 3599, 3661)] == ["0:00", "0:59", "1:00", "59:59", "1:01:01"]


def test_a_bar_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with ProgressBar(4, "pictures") as bar:
        clock.now += 30
        bar.advance()
        text = screen.getvalue()
        assert text.endswith("1/4 pictures, 0:30 gone, 1:30 left")
        drawn = text.rpartition("[")[2].partition("]")[0]
        assert drawn.count("=") == len(drawn) // 4 > 5
        assert len(text.removeprefix("\r\x1b[K")) < 80
        bar.clear()
        assert screen.getvalue().endswith("\r\x1b[K")
        bar.advance()
        assert "2/4" in screen.getvalue().rpartition("\x1b[K")[2]
    assert screen.getvalue().endswith("\r\x1b[K")
    assert "\n" not in screen.getvalue()


def test_a_narrow_terminal_gets_what_fits(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch, columns=20)
    clock.now += 1
    bar = ProgressBar(2, "pictures")
    clock.now += 1
    bar.advance()
    assert screen.getvalue() == "\r\x1b[K" + "1/2 pictures, 0:01 gone, 0:01 left"[:19]


def test_a_log_gets_lines_now_and_then(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = log(monkeypatch)
    with ProgressBar(100, "pictures") as bar:
        for _ in range(100):
            clock.now += 0.5
            bar.advance()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "densepose-engine: 4/100 pictures, 0:02 gone, 0:48 left"
    assert len(lines) == 4
    assert "\r" not in stream.getvalue()


def test_what_is_quick_or_quiet_says_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = log(monkeypatch)
    for enabled, seconds in ((True, 1.9), (False, 1000)):
        bar = ProgressBar(3, "pictures", enabled=enabled)
        clock.now += seconds
        bar.advance()
    with Stages() as stages:
        stages("quick")
    with Stages(enabled=False) as stages:
        stages("quiet")
    assert stream.getvalue() == ""


def test_stages_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with Stages() as stages:
        stages("converting\x1b[2J")
        _wait_for(lambda: "converting" in screen.getvalue())
    assert "converting\\x1b[2J, 0 s" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_stages_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = log(monkeypatch)
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with Stages() as stages:
        stages("reading")
        _wait_for(lambda: "reading" in stream.getvalue())
        stages("writing")
        _wait_for(lambda: "writing" in stream.getvalue())
        time.sleep(0.3)
    assert stream.getvalue() == "densepose-engine: reading ...\ndensepose-engine: writing ...\n"


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
