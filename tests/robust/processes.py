"""Fork and spawn: a child of a process that loaded an engine can end, and so can its parent, whatever each did."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from . import material
from .counts import Counts
from .verbs import run

_SECONDS = 120.0
_ROUNDS = 2

# What a forked child does with the engine that its parent loaded. It may be told that it cannot (an exception of ours
# or ValueError), or get the right result; it may not hang, crash, or get another one.
_CHILD: Mapping[str, str] = {
    "nothing, and os._exit": "os._exit(0)",
    "nothing": "pass",
    "sys.exit": "sys.exit(0)",
    "close": "engine.close()",
    "del": "globals().pop('engine'); gc.collect()",
    "with": "engine.__enter__(); engine.__exit__(None, None, None)",
    "infer": "allowed(lambda: right(engine.infer(PICTURE)))",
    "infer and close": "allowed(lambda: right(engine.infer(PICTURE))); engine.close()",
    "infer_async": "allowed(lambda: right(engine.infer_async(PICTURE).result(60)))",
    "stream": "allowed(lambda: [right(result) for _, result in engine.stream([PICTURE] * 3)])",
    "a load of its own": "child = load(); right(child.infer(PICTURE)); child.close()",
    "a load of its own, left open": "child = load(); right(child.infer(PICTURE))",
    "a fork of its own": "forked(lambda: engine.close())",
}

# How the child comes to be, and what its parent does meanwhile.
_PARENT: Mapping[str, str] = {
    "os.fork": "forked(child)",
    "os.fork while threads infer": "with busy(): forked(child)",
    "multiprocessing": """
process = multiprocessing.get_context("fork").Process(target=child)
process.start(); process.join(60)
assert process.exitcode == 0, f"exit code {process.exitcode}"
""",
    "os.fork, engine closed by the parent first": "engine.close(); forked(child); engine = load()",
}

_PROGRAM = """
import contextlib, gc, multiprocessing, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
from densepose_engine import DensePoseEngineError, Engine
from robust import material

PICTURE = material.picture(96, 128)

def load():
    return Engine.load(sys.argv[1], cache_dir=None, num_threads=2, num_requests=2, warm_up=2)

def right(result):
    assert result == EXPECTED, "another result"

def allowed(work):
    try:
        work()
    except (DensePoseEngineError, ValueError) as error:
        assert str(error)

def forked(work):
    "Ends with the child; 60 seconds are a hang."
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except SystemExit:
            raise
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(9)
        sys.exit(0)  # as a child does that is done: with everything that runs at exit
    end = time.monotonic() + 60
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0, f"the child ended with status {status}"
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    sys.stderr.write("HANG: the forked child does not end\\n")
    os._exit(124)

@contextlib.contextmanager
def busy():
    stop = threading.Event()
    def work():
        while not stop.is_set():
            engine.infer(PICTURE)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads: thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads: thread.join()

def child():
    global engine
    CHILD

engine = load()
EXPECTED = engine.infer(PICTURE)
PARENT
right(engine.infer(PICTURE))
engine.close()
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


def infer_in_child(path: str, picture: object) -> object:
    """For pools of processes, which call by name."""
    from densepose_engine import Engine

    with Engine.load(path, cache_dir=None, num_threads=1, num_requests=1, warm_up=0) as engine:
        return engine.infer(picture)  # type: ignore[call-overload]


def part(scale: float, long: bool) -> Counts:
    """Every child with every parent, on two engines; and pools that spawn."""
    counts = Counts("processes")
    for engine in (material.INT8_ENGINE, material.DYNAMIC_ENGINE)[: max(round(_ROUNDS * scale), 1)]:
        for parent, begin in _PARENT.items():
            for child, work in _CHILD.items():
                if parent == "os.fork, engine closed by the parent first" and "infer" not in child:
                    continue
                program = _PROGRAM.replace("CHILD", work).replace("PARENT", begin)
                _run(f"{parent}, child: {child}, {engine.name}", [program, str(engine)], counts)
        for method in ("spawn", "forkserver"):
            _run(f"a pool of processes by {method}, {engine.name}", [_SPAWN, str(engine), method], counts)
    return counts


def _run(what: str, words: list[str], counts: Counts) -> None:
    ended = run([sys.executable, "-c", *words], seconds=_SECONDS)
    counts.tried += 1
    if ended.code is None or ended.code == 124:
        counts.fail("hangs", f"{what}: {ended.last_line}")
    elif ended.code < 0:
        counts.fail("crashes", f"{what}: ended by signal {-ended.code}")
    elif "another result" in ended.stderr:
        counts.fail("bytes lost", f"{what}: another result")
    elif ended.code:
        kind = (
            "crashes"
            if "ended with status" in ended.stderr and "Error" not in ended.stderr
            else "wrong exception types"
        )
        counts.fail(kind, f"{what}: {ended.last_line}")
