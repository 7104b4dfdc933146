"""16 threads on pictures of mixed sizes, through every way to infer, against the bytes that one thread gives."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from random import Random

import numpy as np

from densepose_engine import DensePoseResult, Engine

from . import material
from .counts import Counts
from .endurance import in_process, tell
from .target import WrongResult, check_same

_THREADS = 16
_PICTURES = 800  # over all threads, on each engine
_SIZES = ((240, 320), (480, 640), (64, 64), (1, 1), (3, 500), (333, 217), (500, 80), (97, 98))
_SECONDS = 1800.0


def part(scale: float, long: bool) -> Counts:
    """``scale`` times 800 pictures on a fixed and a dynamic engine, small and of the demo checkpoint."""
    counts = Counts("threads")
    material.make_demo()
    engines = (material.INT8_ENGINE, material.DYNAMIC_ENGINE, material.DEMO_ENGINE, material.DEMO_DYNAMIC_ENGINE)
    for engine in engines:
        for requests in (1, 4):
            words = [str(engine), str(requests), str(max(round(_PICTURES * scale / 2), _THREADS))]
            in_process(
                "robust.threads", words, f"{_THREADS} threads, {engine.name}, {requests} requests", counts, _SECONDS
            )
    return counts


def infer_in_threads(path: str, requests: str, count: str) -> tuple[int, list[tuple[str, str, int]]]:
    """How many pictures were run, and kind and text of each failure."""
    pictures = [material.picture(*size, seed=number) for number, size in enumerate(_SIZES)]
    failures: list[tuple[str, str, int]] = []
    with Engine.load(path, cache_dir=None, num_threads=2, num_requests=int(requests), warm_up=2) as engine:
        expected = [engine.infer(picture, score_threshold=0.1) for picture in pictures]

        def work(thread: int) -> int:
            rng, done = Random(thread), 0
            while done < int(count) // _THREADS:
                chosen = [rng.randrange(len(pictures)) for _ in range(rng.choice([1, 1, 4]))]
                for number, result in zip(chosen, _infer(engine, [pictures[n] for n in chosen], rng), strict=True):
                    try:
                        check_same(result, expected[number], f"picture {_SIZES[number]} in thread {thread}")
                    except WrongResult as error:
                        failures.append(("bytes lost", str(error), error.size))
                    done += 1
            return done

        with ThreadPoolExecutor(_THREADS) as pool:
            done = sum(pool.map(work, range(_THREADS)))
    return done, failures


def _infer(engine: Engine, pictures: list[np.ndarray], rng: Random) -> list[DensePoseResult]:
    kind = rng.random()
    if kind < 0.25:
        return [result for _, result in engine.stream(pictures, score_threshold=0.1)]
    if kind < 0.5:
        return [future.result() for future in [engine.infer_async(one, score_threshold=0.1) for one in pictures]]
    return [engine.infer(one, score_threshold=0.1) for one in pictures]


if __name__ == "__main__":
    tell(*infer_in_threads(*sys.argv[1:]))
