"""FP32, bf16 and INT8 engines of one graph, frame by frame in turn: whole frames, and of them the convolutions.

    python benchmarks/precisions.py demo.fp32.engine demo.bf16.engine demo.engine --threads 2 --max-proposals 100

The first engine is the reference. Frames are timed by engines that do not count; convolutions and matrix products by a
second set that does, because counting costs time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from densepose_engine import Engine
from densepose_engine.benchmarking.bench import noise_frame
from densepose_engine.benchmarking.machine import describe_machine
from densepose_engine.benchmarking.stages import is_matrix_layer

WARM_UP = 10


class Contender:
    """An engine that is timed."""

    def __init__(self, path: Path, threads: int | None, counting: bool) -> None:
        self.path = path
        self.engine = Engine.load(path, num_threads=threads, num_requests=1, warm_up=0, profile=counting)
        self.times: list[float] = []
        self.runs = 0

    def infer(self, frame: np.ndarray, settings: dict[str, Any]) -> None:
        begin = time.perf_counter()
        self.engine.infer(frame, **settings)
        self.times.append(1e3 * (time.perf_counter() - begin))
        self.runs += 1

    def matrix_sum(self) -> float:
        """Milliseconds of convolutions and matrix products in all runs; the vendor gives means."""
        assert self.engine._session is not None
        with self.engine._session.request() as request:
            return self.runs * sum(layer.milliseconds for layer in request.profile() if is_matrix_layer(layer))


def take_turns(contenders: list[Contender], frame: np.ndarray, settings: dict[str, Any], seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for contender in contenders:
            contender.infer(frame, settings)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per engine."""
    frame = noise_frame()
    settings = {"score_threshold": 0, "max_people": arguments.people, "max_proposals": arguments.max_proposals}
    plain, counting = (
        [Contender(path, arguments.threads, counts) for path in arguments.engines] for counts in (False, True)
    )
    for contenders in (plain, counting):
        for _ in range(WARM_UP):
            for contender in contenders:
                contender.infer(frame, settings)
    warm = [contender.matrix_sum() for contender in counting]
    take_turns(plain, frame, settings, arguments.seconds)
    take_turns(counting, frame, settings, arguments.seconds)
    times = [np.array(contender.times[WARM_UP:]) for contender in plain]
    matrix = [(c.matrix_sum() - w) / (c.runs - WARM_UP) for c, w in zip(counting, warm, strict=True)]
    return [
        {
            "engine": str(contender.path),
            "precision": contender.engine.precision,
            "size": contender.path.stat().st_size,
            "frame_ms": float(np.median(times[i])),
            "frame_ratio": float(np.median(times[0] / times[i])),  # of the same turn
            "matrix_ms": matrix[i],
            "matrix_ratio": matrix[0] / matrix[i],
        }
        for i, contender in enumerate(plain)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", type=Path, nargs="+")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--max-proposals", type=int)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two parts (default: 10)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments)
    print(f"{describe_machine()['cpu']}; {arguments.people} people, {arguments.max_proposals or 'default'} proposals")
    print("precision     size    frame  times faster   convolutions  times faster")
    for row in rows:
        print(
            f"{row['precision']:9s} {row['size'] / 1e6:5.1f} MB {row['frame_ms']:5.1f} ms  {row['frame_ratio']:8.2f} x"
            f"      {row['matrix_ms']:6.2f} ms  {row['matrix_ratio']:8.2f} x"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
