"""How long a frame takes: both engines of a network and both of the yardstick, in turns, on one picture."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from densepose_engine import Engine
from densepose_engine.benchmarking.machine import Watch, describe_machine
from densepose_engine.benchmarking.timing import Effort, interleave, pair_ratios, summarize
from densepose_engine.pictures.read import to_rgb_array

from .networks import PEOPLE, PROPOSALS, Network, yardstick
from .prepare import calibration_pictures
from .state import MEASURED, PRECISIONS, PREPARED, State, digest

#: What "quiet" means: cores that others kept busy, or that a hypervisor withheld, on average over the run.
QUIET = 0.1
#: Of ``infer``: so many people, whatever their scores and however they overlap.
SETTINGS: dict[str, Any] = {
    "score_threshold": 0.0,
    "nms_threshold": 1.0,
    "max_people": PEOPLE,
    "max_proposals": PROPOSALS,
}


def inputs(network: Network, state: State, effort: Effort, threads: int) -> dict[str, Any] | None:
    """All that a measured row depends on; None where an engine that it needs is not there."""
    rows = [state.read(one, PREPARED) for one in (network, yardstick(network.size))]
    if None in rows:
        return None
    (picture,) = calibration_pictures(1)
    machine = describe_machine()
    return {
        "engines": [row["engine_sha256"] for row in rows if row is not None],
        "picture": digest([picture], picture.parent),
        "settings": SETTINGS,
        "threads": threads,
        "effort": [effort.warm_up, effort.duration, effort.iterations],
        "machine": {name: machine[name] for name in ("cpu", "cores", "instruction_set", "system")},
    }


def is_quiet(row: dict[str, Any]) -> bool:
    """Whether the machine did little else while a row was measured."""
    watch = row["watch"]
    return bool(watch["other_load"] <= QUIET and watch["stolen"] <= QUIET)


def measure(network: Network, state: State, effort: Effort, threads: int) -> None:
    """Time one network against the yardstick, and write its row."""
    wanted = inputs(network, state, effort, threads)
    assert wanted is not None, "the phases before this one see to it"
    (picture,) = calibration_pictures(1)
    frame = to_rgb_array(picture)
    reference = yardstick(network.size)
    paths: dict[str, Path] = {precision: state.engine(network, precision) for precision in PRECISIONS}
    if network != reference:
        paths |= {f"baseline {precision}": state.engine(reference, precision) for precision in PRECISIONS}
    with ExitStack() as stack:
        engines = {
            name: stack.enter_context(Engine.load(path, num_threads=threads, num_requests=1, cache_dir=None))
            for name, path in paths.items()
        }
        people = {name: len(engine.infer(frame, **SETTINGS)) for name, engine in engines.items()}
        runs: dict[str, Callable[[int], object]] = {
            name: lambda _, engine=engine: engine.infer(frame, **SETTINGS)  # type: ignore[misc]
            for name, engine in engines.items()
        }
        with Watch() as watch:
            turns = interleave(runs, effort)
    state.write(network, MEASURED, {"inputs": wanted, **_row(turns, people), "watch": watch.to_dict()})


def _row(turns: dict[str, list[np.ndarray]], people: dict[str, int]) -> dict[str, Any]:
    """The yardstick is its own baseline, in the same turns."""
    baseline = {precision: turns.get(f"baseline {precision}", turns[precision]) for precision in PRECISIONS}

    def ratio(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
        return float(np.median(pair_ratios(ours, theirs)))

    return {
        "latency_ms": {name: summarize(np.concatenate(times)) for name, times in turns.items()},
        "int8_over_fp32": ratio(turns["int8"], turns["fp32"]),
        "over_baseline": {precision: ratio(turns[precision], baseline[precision]) for precision in PRECISIONS},
        "people": people,
        "remarks": [
            f"{name} finds {count} people where {PEOPLE} are to be decoded"
            for name, count in people.items()
            if count < PEOPLE
        ],
    }
