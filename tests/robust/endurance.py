"""Many loads and many frames: memory stays within its bound, and every result is the first one's."""

from __future__ import annotations

import gc
import json
import resource
import sys
from pathlib import Path
from random import Random

from densepose_engine import DensePoseResult, Engine

from . import material
from .counts import BUILD, Counts
from .target import WrongResult, check_same
from .verbs import run

_LOADS, _FRAMES, _SIZED_FRAMES = 200, 2000, 500
_LONG_LOADS, _LONG_FRAMES, _LONG_SIZED_FRAMES = 2000, 20_000, 5000
# After the first tenth, in bytes. Loads and fixed frames take what the allocator scatters; a dynamic engine keeps what
# was compiled for the last sizes.
_MOST_GROWTH = {"loads": 64 << 20, "frames": 32 << 20, "sizes": 256 << 20}
_SIDES = (32, 900)
_SECONDS = 36_000.0
_PICTURES = 20


def part(scale: float, long: bool) -> Counts:
    """``make test-robust``: 200 loads, 2,000 frames of one size, 500 of many; the long run ten times as many."""
    counts = Counts("endurance")
    material.make_demo()
    loads, frames, sized = (_LONG_LOADS, _LONG_FRAMES, _LONG_SIZED_FRAMES) if long else (_LOADS, _FRAMES, _SIZED_FRAMES)
    if not long:
        loads, frames, sized = (max(round(number * scale), 10) for number in (loads, frames, sized))
    fixed, dynamic = str(material.DEMO_ENGINE), str(material.DEMO_DYNAMIC_ENGINE)
    in_process("robust.endurance", ["loads", fixed, str(loads)], f"{loads} loads", counts, _SECONDS)
    # The long run mixes the sizes of pictures on the fixed engine, too: its network's input stays what it is.
    in_process(
        "robust.endurance", ["mixed" if long else "frames", fixed, str(frames)], f"{frames} frames", counts, _SECONDS
    )
    in_process("robust.endurance", ["sizes", dynamic, str(sized)], f"{sized} sizes, dynamic", counts, _SECONDS)
    return counts


def in_process(module: str, words: list[str], what: str, counts: Counts, seconds: float) -> None:
    """Run a module that ends with ``tell`` in a process of its own, and count what it told."""
    ended = run([sys.executable, "-m", module, *words], seconds=seconds)
    if ended.code == 0:
        told = json.loads(ended.stdout.strip().splitlines()[-1])
        counts.tried += told["tried"]
        for kind, text, size in told["failures"]:
            counts.fail(kind, f"{what}: {text}", size)
        if told["note"]:
            print(f"  {what}: {told['note']}", file=sys.stderr, flush=True)
        return
    counts.tried += 1
    if ended.code is None:
        counts.fail("hangs", f"{what}: does not end")
    else:
        kind = "crashes" if ended.code < 0 else "wrong exception types"
        counts.fail(kind, f"{what}: exit code {ended.code}: {ended.last_line}")


def tell(tried: int, failures: list[tuple[str, str, int]], note: str = "") -> None:
    """The last line of a module that ``in_process`` runs."""
    print(json.dumps({"tried": tried, "failures": failures, "note": note}))


class _Memory:
    """What the process has resident, and by how much it grew after the first tenth."""

    def __init__(self, kind: str, total: int) -> None:
        self._kind, self._begin = kind, max(total // 10, 1)
        self._first = 0

    def look(self, number: int) -> None:
        if number == self._begin:
            self._first = _resident()

    def end(self) -> tuple[list[tuple[str, str, int]], str]:
        gc.collect()
        now = _resident()
        growth, most = now - self._first, _MOST_GROWTH[self._kind]
        note = f"memory {self._first >> 20} MB after a tenth, {now >> 20} MB at the end"
        failures = [("bytes lost", f"memory grew by {growth >> 20} MB, the bound is {most >> 20}", growth - most)]
        return (failures if growth > most else []), note


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def loads(path: str, total: int) -> None:
    """Load, infer, close; with the cache, but for every tenth."""
    image, memory = material.picture(240, 320), _Memory("loads", total)
    failures: list[tuple[str, str, int]] = []
    first = None
    for number in range(total):
        memory.look(number)
        cache = None if number % 10 == 0 else BUILD / "work" / "loads"
        with Engine.load(path, cache_dir=cache, num_requests=1, warm_up=1) as engine:
            result = engine.infer(image, score_threshold=0.1)
        first = first or result
        failures += _different(result, first, f"load {number}")
    grown, note = memory.end()
    tell(total, failures + grown, note)


def frames(path: str, total: int, kind: str) -> None:
    """Frames of one size, or of many: each picture again and again, and the same result every time."""
    rng = Random(kind)
    failures: list[tuple[str, str, int]] = []
    memory = _Memory("sizes" if kind == "sizes" else "frames", total)
    sizes = [(480, 640)] * _PICTURES
    if kind != "frames":
        sizes = [(rng.randint(*_SIDES), rng.randint(*_SIDES)) for _ in range(max(total // 2, _PICTURES))]
    first: dict[int, DensePoseResult] = {}
    with Engine.load(path, cache_dir=None, num_requests=1, warm_up=4) as engine:
        for number in range(total):
            memory.look(number)
            which = number % len(sizes)
            result = engine.infer(material.picture(*sizes[which], seed=which % _PICTURES), score_threshold=0.1)
            if which in first:
                failures += _different(result, first[which], f"frame {number} of {sizes[which]}")
            elif len(first) < _PICTURES:  # more would be memory of the test's own
                first[which] = result
        grown, note = memory.end()
    tell(total, failures + grown, note)


def _different(result: DensePoseResult, expected: DensePoseResult, where: str) -> list[tuple[str, str, int]]:
    try:
        check_same(result, expected, where)
    except WrongResult as error:
        return [("bytes lost", str(error), error.size)]
    return []


if __name__ == "__main__":
    if sys.argv[1] == "loads":
        loads(sys.argv[2], int(sys.argv[3]))
    else:
        frames(sys.argv[2], int(sys.argv[3]), sys.argv[1])
