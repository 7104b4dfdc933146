"""Fork and spawn: a child of a process that loaded an engine can end, and so can its parent, whatever each did."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

import numpy as np

from densepose_engine import DensePoseResult, Engine

from . import material
from .counts import Counts
from .verbs import Ended, run

_SECONDS = 900.0
_ANOTHER_RESULT = 10

# What a forked child does with the engine that its parent loaded. It may be told that it cannot (an exception of ours
# or ValueError), or get the right result; it may not hang, crash, or get another one.
_CHILD: Mapping[str, str] = {
    "os._exit": "os._exit(0)",
    "nothing": "pass",
    "sys.exit": "sys.exit(0)",
    "close": "engine.close()",
    "del": "globals().pop('engine'); gc.collect()",
    "with": "engine.__enter__(); engine.__exit__(None, None, None)",
    "infer": "allowed(lambda: right(engine.infer(PICTURE)))",
    "infer and close": "allowed(lambda: right(engine.infer(PICTURE))); engine.close()",
    "infer_async": "allowed(lambda: right(engine.infer_async(PICTURE).result(60)))",
    "stream": "allowed(lambda: [right(result) for _, result in engine.stream([PICTURE] * 3)])",
    "a load of its own": "allowed(lambda: [right(own.infer(PICTURE)) or own.close() for own in [load()]])",
    "a load of its own, left open": "allowed(lambda: right(load().infer(PICTURE)))",
    "a fork of its own": "fork(engine.close, SECONDS / 2)",
}

# How children come to be, and what their parent does meanwhile.
_PARENT: Mapping[str, str] = {
    "os.fork": "every(fork)",
    "os.fork while threads infer": "with busy(): every(fork)",
    "multiprocessing": "every(process)",
    "os.fork after close": "engine.close(); every(fork); engine = load()",
}

_PROGRAM = """
import contextlib, gc, json, multiprocessing, os, signal, sys, threading, time, traceback, warnings
warnings.simplefilter("ignore")
from densepose_engine import DensePoseEngineError, Engine
from robust import material

PICTURE = material.picture(96, 128)
SECONDS = 20
CHILDREN = json.loads(sys.argv[2])
found = []

def load():
    return Engine.load(sys.argv[1], cache_dir=None, num_threads=2, num_requests=2, warm_up=2)

def right(result):
    if result != EXPECTED:
        os._exit(10)

def allowed(work):
    try:
        work()
    except (DensePoseEngineError, ValueError) as error:
        assert str(error)

def child(name):
    try:
        exec(CHILDREN[name], globals())
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        os._exit(9)

def every(way):
    for name in CHILDREN:
        try:
            way(lambda: child(name))
        except ChildFailed as error:
            found.append([name, *error.args])

class ChildFailed(Exception):
    pass

def fork(work, seconds=SECONDS):
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)  # as a child does that is done: with everything that runs at exit
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return judge(os.waitstatus_to_exitcode(status))
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise ChildFailed("hangs", "the child does not end")

def process(work):
    one = multiprocessing.get_context("fork").Process(target=work)
    one.start()
    one.join(SECONDS)
    if one.is_alive():
        one.kill()
        one.join()
        raise ChildFailed("hangs", "the child does not end")
    judge(one.exitcode)

def judge(code):
    if code < 0:
        raise ChildFailed("crashes", f"the child was ended by signal {-code}")
    if code == 10:
        raise ChildFailed("bytes lost", "the child got another result")
    if code:
        raise ChildFailed("wrong exception types", f"the child ended with {code}")

@contextlib.contextmanager
def busy():
    stop = threading.Event()
    def work():
        while not stop.is_set():
            engine.infer(PICTURE)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()

engine = load()
EXPECTED = engine.infer(PICTURE)
exec(sys.argv[3])
right(engine.infer(PICTURE))
engine.close()
print(json.dumps(found))
"""

# Processes that begin anew load engines of their own; results come back whole.
_SPAWN = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from densepose_engine import Engine
from robust import material
from robust.processes import infer_in_child
if __name__ == "__main__":
    engine = Engine.load(sys.argv[1], cache_dir=None, num_threads=1, num_requests=1, warm_up=0)
    pictures = [material.picture(*size) for size in material.SIZES]
    expected = [engine.infer(picture) for picture in pictures]
    with ProcessPoolExecutor(2, multiprocessing.get_context(sys.argv[2])) as pool:
        found = list(pool.map(infer_in_child, [sys.argv[1]] * len(pictures), pictures))
    assert found == expected, "another result"
"""


def infer_in_child(path: str, picture: np.ndarray) -> DensePoseResult:
    """For pools of processes, which call by name."""
    with Engine.load(path, cache_dir=None, num_threads=1, num_requests=1, warm_up=0) as engine:
        return engine.infer(picture)


def part(scale: float, long: bool) -> Counts:
    """Every child of every parent, on two engines; and pools that spawn."""
    counts = Counts("processes")
    for engine in (material.INT8_ENGINE, material.DYNAMIC_ENGINE)[: max(round(2 * scale), 1)]:
        for parent, program in _PARENT.items():
            what = f"{parent}, {engine.name}"
            ended = _run(what, [_PROGRAM, str(engine), json.dumps(_CHILD), program], counts)
            counts.tried += len(_CHILD)
            for child, kind, text in json.loads(ended.stdout.splitlines()[-1]) if ended.code == 0 else ():
                counts.fail(kind, f"{what}, child: {child}: {text}")
        for method in ("spawn", "forkserver"):
            _run(f"a pool of processes by {method}, {engine.name}", [_SPAWN, str(engine), method], counts)
            counts.tried += 1
    return counts


def _run(what: str, words: list[str], counts: Counts) -> Ended:
    ended = run([sys.executable, "-c", *words], seconds=_SECONDS)
    if ended.code is None:
        counts.fail("hangs", f"{what}: does not end")
    elif ended.code < 0:
        counts.fail("crashes", f"{what}: ended by signal {-ended.code}")
    elif ended.code == _ANOTHER_RESULT or "another result" in ended.stderr:
        counts.fail("bytes lost", f"{what}: another result")
    elif ended.code:
        counts.fail("wrong exception types", f"{what}: {ended.last_line}")
    return ended
