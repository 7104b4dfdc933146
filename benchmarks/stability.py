"""Does a frame's time depend on the frames before it? Does memory grow?

Frames whose number of people is drawn uniformly from 0 .. 8, one after the other: for each count the 99th percentile
over the median of that count, and resident memory at frame 100 and at the last. The percentile is given again without
the frames in which the system took a processor away for another program (an involuntary context switch): what is left
is the engine's own doing.

    python benchmarks/stability.py demo.engine --threads 2
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from densepose_engine import Engine
from densepose_engine.benchmarking.bench import noise_frame
from densepose_engine.benchmarking.footprint import resident_mb
from densepose_engine.benchmarking.machine import Watch, describe_machine

MOST_PEOPLE = 8
PICTURES = 16
SETTLED = 100  # frames after which memory should not grow


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The report, ready for JSON."""
    rng = np.random.default_rng(arguments.seed)
    pictures = [np.roll(noise_frame(), 37 * i, axis=1) for i in range(PICTURES)]
    times: dict[int, list[float]] = defaultdict(list)
    undisturbed: dict[int, list[float]] = defaultdict(list)
    memory: dict[int, float] = {}
    wrong = 0
    with Engine.load(arguments.engine, num_threads=arguments.threads) as engine, Watch() as watch:
        for frame in range(1, max(arguments.frames, arguments.memory_frames) + 1):
            people = int(rng.integers(0, MOST_PEOPLE + 1))
            picture = pictures[int(rng.integers(PICTURES))]
            switches = _involuntary_switches()
            begin = time.perf_counter()
            result = engine.infer(picture, score_threshold=0, max_people=people, max_proposals=arguments.max_proposals)
            took = 1e3 * (time.perf_counter() - begin)
            wrong += len(result) != people
            if frame <= arguments.frames:
                times[people].append(took)
                if _involuntary_switches() == switches:
                    undisturbed[people].append(took)
            if frame in (SETTLED, arguments.frames, arguments.memory_frames):
                memory[frame] = resident_mb()
    rows = [
        {
            "people": people,
            "frames": len(values),
            "median_ms": float(np.median(values)),
            "p99_ms": float(np.percentile(values, 99)),
            "max_ms": max(values),
            "p99_over_median": _tail(values),
            "undisturbed_frames": len(undisturbed[people]),
            "undisturbed_p99_over_median": _tail(undisturbed[people]),
        }
        for people, values in sorted(times.items())
    ]
    last = max(memory)
    return {
        "engine": str(arguments.engine),
        "machine": describe_machine(),
        "watch": watch.to_dict(),
        "frames": arguments.frames,
        "wrong_counts": wrong,
        "people": rows,
        "resident_mb": {str(frame): value for frame, value in sorted(memory.items())},
        "growth": memory[last] / memory[SETTLED] - 1 if SETTLED in memory else None,
    }


def _tail(values: list[float]) -> float:
    return float(np.percentile(values, 99) / np.median(values)) if values else float("nan")


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--frames", type=int, default=1000, help="frames that are timed (default: 1000)")
    parser.add_argument(
        "--memory-frames", type=int, default=0, help="frames until memory is read the last time, e.g. 10000"
    )
    parser.add_argument("--max-proposals", type=int, help="default: the model's own")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    report = run(arguments)

    machine, watch = report["machine"], report["watch"]
    print(f"{arguments.engine} on {machine['cpu']}, {machine['cores']} cores, power mode {machine['power_mode']}")
    print(f"other processes kept {watch['other_load']:.2f} cores busy, the hypervisor withheld {watch['stolen']:.2f}")
    print("\npeople  frames   median ms      p99 ms      max ms  p99 / median  undisturbed  p99 / median")
    for row in report["people"]:
        print(
            f"{row['people']:6d}  {row['frames']:6d}  {row['median_ms']:10.2f}  {row['p99_ms']:10.2f}  "
            f"{row['max_ms']:10.2f}  {row['p99_over_median']:12.2f}  {row['undisturbed_frames']:11d}  "
            f"{row['undisturbed_p99_over_median']:12.2f}"
        )
    largest = {name: max(row[name] for row in report["people"]) for name in report["people"][0] if "over" in name}
    print(f"\nlargest p99 / median: {largest['p99_over_median']:.2f}")
    print(f"of frames in which no processor was taken away: {largest['undisturbed_p99_over_median']:.2f}")
    print(f"frames with another number of people than asked for: {report['wrong_counts']}")
    for frame, value in report["resident_mb"].items():
        print(f"resident memory at frame {frame}: {value:.1f} MB")
    if report["growth"] is not None:
        print(f"growth since frame {SETTLED}: {report['growth']:+.2%}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
