"""The shared thread pool, through the resize: many callers at once, many threads for little work, and forks.

Each test runs with the pool's own workers, and with the threads that OpenVINO lends.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from densepose_engine import _core
from densepose_engine.backends.openvino import make_core

IMAGE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
EXPECTED = _core.resize(IMAGE, 160, 200, threads=1)


@pytest.fixture(params=["own", "borrowed"], autouse=True)
def _workers(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "borrowed":
        make_core()
    else:
        _core.return_threads()
    yield
    _core.return_threads()


@pytest.mark.parametrize("threads", [2, 3, 16, 256])
def test_any_number_of_threads_gives_the_same_bytes(threads: int) -> None:
    assert np.array_equal(_core.resize(IMAGE, 160, 200, threads=threads), EXPECTED)
    assert _core.resize(IMAGE[:1, :1], 1, 1, threads=threads).tolist() == [[IMAGE[0, 0].tolist()]]


def test_many_callers_at_once() -> None:
    """Each gets its own picture's result: no job is lost, mixed up with another's, or left waiting."""
    wrong: list[int] = []

    def call(caller: int) -> None:
        image = np.roll(IMAGE, caller, axis=1)
        expected = _core.resize(image, 160, 200, threads=1)
        for i in range(40):
            if not np.array_equal(_core.resize(image, 160, 200, threads=2 + (caller + i) % 4), expected):
                wrong.append(caller)

    callers = [threading.Thread(target=call, args=(k,), daemon=True) for k in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert not any(caller.is_alive() for caller in callers), "a caller waits for ever"
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    _core.resize(IMAGE, 160, 200, threads=3)  # the parent's workers, which the child does not inherit
    busy = threading.Event()

    def keep_the_pool_busy() -> None:
        while not busy.is_set():
            _core.resize(IMAGE, 160, 200, threads=3)

    neighbor = threading.Thread(target=keep_the_pool_busy, daemon=True)
    neighbor.start()
    try:
        for _ in range(5):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork in a process with threads
                child = os.fork()
            if child == 0:
                signal.alarm(20)  # a child that hangs dies of it
                same = np.array_equal(_core.resize(IMAGE, 160, 200, threads=3), EXPECTED)
                os._exit(0 if same else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        busy.set()
        neighbor.join()


def test_other_python_threads_run_meanwhile() -> None:
    """The GIL is released: a thread that only counts gets on during one long resize."""
    image = np.zeros((1500, 1500, 3), np.uint8)
    counted = 0
    during: list[int] = []

    def resize() -> None:
        before = counted
        _core.resize(image, 4000, 4000)
        during.append(counted - before)

    worker = threading.Thread(target=resize)
    worker.start()
    while worker.is_alive():
        counted += 1
        time.sleep(0.0005)
    worker.join()
    assert during[0] >= 3


def test_only_a_plugin_lends_threads(tmp_path: Path) -> None:
    for library in (tmp_path / "missing.so", _core.__file__):
        with pytest.raises(RuntimeError, match=f"{library} has no threads to lend"):
            _core.borrow_threads(str(library))
    assert np.array_equal(_core.resize(IMAGE, 160, 200, threads=2), EXPECTED)
