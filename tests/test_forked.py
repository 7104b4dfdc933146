"""A forked child of a process with an engine: it can end, in every way, and is told what it cannot do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# Each is run by a child, which then leaves as the interpreter does; `say` lets the parent know how it went.
_IN_THE_CHILD = {
    "nothing": "",
    "del": "del engine, stream; gc.collect()",
    "close": "engine.close(); engine.close()",
    "with": "with engine: pass",
    "infer": "refused(lambda: engine.infer(picture))",
    "infer_async": "refused(lambda: engine.infer_async(picture))",
    "stream": "refused(lambda: next(stream))",
    "close the stream": "stream.close()",
    "session": "refused(lambda: engine._session.request().__enter__()); engine._session.close()",
    "core": "_core.resize(picture, 200, 300, threads=3)",
    "load": "refused(lambda: Engine.load(sys.argv[1], cache_dir=None, warm_up=0), BackendUnavailable)",
}

_PROGRAM = """
import gc, os, signal, sys, threading, time, warnings
import numpy as np
from densepose_engine import BackendUnavailable, Engine, InferenceError, _core
warnings.simplefilter("ignore", DeprecationWarning)

engine = Engine.load(sys.argv[1], cache_dir=None, warm_up=0, num_requests=2)
picture = np.zeros((60, 80, 3), np.uint8)
engine.infer_async(picture).result()
stream = engine.stream([picture] * 6, depth=2)
next(stream)

def refused(call, kind=InferenceError):
    try:
        call()
    except kind as error:
        assert "before the process was forked" in str(error), error
    else:
        raise AssertionError("it was not refused")

stop = threading.Event()
def others():
    while not stop.is_set():
        engine.infer(picture)
threads = [threading.Thread(target=others) for _ in range(int(sys.argv[2]))]
for thread in threads:
    thread.start()
time.sleep(0.05 * len(threads))
children = {}
for name, code in CASES.items():
    pid = os.fork()
    if pid == 0:
        signal.alarm(90)  # a child that hangs dies of it
        exec(code)
        sys.exit(0)
    children[pid] = name
for pid, name in children.items():
    print(name, os.waitpid(pid, 0)[1], flush=True)
stop.set()
for thread in threads:
    thread.join()
assert len(list(stream)) == 5
engine.infer(picture)
engine.close()
"""


def run(program: str, engine: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, str(engine), *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("busy_threads", [0, 3])
def test_a_child_ends_whatever_it_does_and_the_parent_goes_on(demo_engine: Path, busy_threads: int) -> None:
    cases = dict(_IN_THE_CHILD)
    if busy_threads:  # OpenVINO's own locks may be held by a thread that the child has not
        del cases["core"]
    said = run(f"CASES = {cases!r}\n{_PROGRAM}", demo_engine, str(busy_threads))
    assert said.splitlines() == [f"{name} 0" for name in cases], f"{signal.SIGALRM:d}: it hung; 256: see stderr"


_MULTIPROCESSING = """
import multiprocessing, sys, warnings
import numpy as np
from densepose_engine import Engine
warnings.simplefilter("ignore", DeprecationWarning)

def work(number):
    return number * number

with Engine.load(sys.argv[1], cache_dir=None, warm_up=0) as engine:
    engine.infer(np.zeros((60, 80, 3), np.uint8))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(work, range(4)))
        pool.close()
        pool.join()
"""


def test_multiprocessing_by_fork_beside_an_engine(demo_engine: Path) -> None:
    assert run(_MULTIPROCESSING, demo_engine) == "[0, 1, 4, 9]\n"
