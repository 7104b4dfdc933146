"""Which backbone to take: what every network costs on this machine, in two series that are never mixed.

    python benchmarks/ablation.py                                # everything that is not finished yet
    python benchmarks/ablation.py --phase prepare --series a     # engines only; the machine may be busy
    python benchmarks/ablation.py --phase measure                # latencies only; the machine should be quiet
    python benchmarks/ablation.py --phase report                 # tables, CSV, JSON and plots of what is there

Series a is Mobile-RCNN A of DensePoseFnL's first generation with the 22 backbones whose AP was published, and two
baselines, at 320x448 and 800x1088; its plot shows the paper's AP against our latency. Series b is Mobile-Parsing-RCNN-B
with all 24 backbones, at 320x448. Whatever is finished is kept in the state folder, and stopping costs one network at
most. Rows that a busy machine spoiled are measured again by the next run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbone_series import measure, prepare
from backbone_series.networks import PEOPLE, PROPOSALS, ROOT, SERIES, SIZES, Network, networks, published, yardstick
from backbone_series.plot import plot
from backbone_series.report import Row, columns, table, to_csv
from backbone_series.state import MEASURED, PREPARED, State
from backbone_series.work import run_all

from densepose_engine.benchmarking.machine import Watch, usable_cores
from densepose_engine.benchmarking.timing import Effort
from densepose_engine.files.output_files import OutputError, atomic_output

_PHASES = {"all": ("prepare", "measure"), "prepare": ("prepare",), "measure": ("measure",), "report": ()}


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no size; write HEIGHTxWIDTH, as 320x448") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", choices=_PHASES, default="all", help="default: prepare, then measure")
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES), help="default: both")
    parser.add_argument("--sizes", nargs="+", type=_size, metavar="HxW", help="default: all of each series")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="default: all, the most telling first")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "ablation", metavar="FOLDER", help="%(default)s")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs", metavar="FOLDER", help="of complete series")
    parser.add_argument("--pictures", type=_positive, default=2, metavar="N", help="to calibrate on (default: 2)")
    parser.add_argument("--threads", type=_positive, default=usable_cores(), metavar="N", help="default: every core")
    parser.add_argument("--duration", type=float, default=1.5, metavar="S", help="of each engine (default: 1.5)")
    parser.add_argument("--iterations", type=_positive, default=4, metavar="N", help="at least (default: 4)")
    parser.add_argument("--force", action="store_true", help="do again what is finished, too")
    return parser.parse_args(given)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _with_yardsticks(chosen: Sequence[Network]) -> list[Network]:
    sizes = dict.fromkeys(network.size for network in chosen)
    return list(dict.fromkeys([*(yardstick(size) for size in sizes), *chosen]))


def _is_prepared(network: Network, state: State, pictures: int) -> dict[str, Any] | None:
    return state.current(network, PREPARED, prepare.inputs(network, pictures))


def _prepare(chosen: Sequence[Network], state: State, arguments: argparse.Namespace) -> int:
    """Returns how many failed."""
    wanted = _with_yardsticks(chosen)
    missing = [one for one in wanted if arguments.force or _is_prepared(one, state, arguments.pictures) is None]
    _say(f"preparing {len(missing)} networks; {len(wanted) - len(missing)} are finished")
    jobs = {one: (one, state, arguments.pictures) for one in missing}
    return len(run_all(jobs, prepare.prepare, "networks prepared", say=_say))


def _measure(chosen: Sequence[Network], state: State, arguments: argparse.Namespace, effort: Effort) -> int:
    """Returns how many could not be measured."""
    ready = {one: _is_prepared(one, state, arguments.pictures) is not None for one in _with_yardsticks(chosen)}
    absent = [one for one in chosen if not (ready[one] and ready[yardstick(one.size)])]
    for one in absent:
        cause = one if not ready[one] else f"its yardstick, {yardstick(one.size)},"
        _say(f"{one} is left out: {cause} is not prepared (any more); run --phase prepare")
    jobs, finished = {}, 0
    for one in chosen:
        if one in absent:
            continue
        inputs = measure.inputs(one, state, effort, arguments.threads)
        row = state.current(one, MEASURED, inputs) if inputs is not None else None
        if row is not None and measure.is_quiet(row) and not arguments.force:
            finished += 1
        else:
            jobs[one] = (one, state, effort, arguments.threads)
    _say(f"measuring {len(jobs)} networks; {finished} are finished")
    if jobs and (busy := _busy()):
        _say(busy)
    return len(absent) + len(run_all(jobs, measure.measure, "networks measured", say=_say))


def _busy() -> str | None:

    with Watch() as watch:
        time.sleep(1)
    if watch.other_load + watch.stolen <= measure.QUIET:
        return None
    return (
        f"others keep {watch.other_load + watch.stolen:.1f} cores of this machine busy: rows that this spoils are "
        "marked with '?', and measured again by the next run"
    )


def finished_rows(chosen: Sequence[Network], state: State, pictures: int) -> tuple[list[Row], list[str]]:
    """Rows of what is prepared, with what was measured of just these engines, all under the same circumstances.

    Returns also what a reader has to know of them, as sentences.
    """
    prepared = {one: row for one in chosen if (row := _is_prepared(one, state, pictures)) is not None}
    measured: dict[Network, dict[str, Any]] = {}
    for one, own in prepared.items():
        reference = state.read(yardstick(one.size), PREPARED)
        row = state.read(one, MEASURED)
        if row is None or reference is None:
            continue
        if row["inputs"]["engines"] == [own["engine_sha256"], reference["engine_sha256"]]:
            measured[one] = row
    remarks = []
    circumstances = {one: _circumstances(row) for one, row in measured.items()}
    if len(counted := Counter(circumstances.values())) > 1:
        # The commonest, and of equals what was measured last.
        common = max(counted, key=lambda one: counted[one])
        others = [one for one, text in circumstances.items() if text != common]
        remarks.append(
            f"{len(others)} networks were measured on another machine or with other settings, and are shown without "
            "latencies; run --phase measure"
        )
        measured = {one: row for one, row in measured.items() if one not in others}
    if other := sum(row["sources"] != prepare.sources() for row in prepared.values()):
        remarks.append(
            f"{other} networks were prepared by other sources than today's; --phase prepare --force prepares them again"
        )
    return [Row(one, row, measured.get(one)) for one, row in prepared.items()], remarks


def _circumstances(row: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in row["inputs"].items() if name != "engines"}, sort_keys=True)


def _report(arguments: argparse.Namespace, state: State) -> None:
    """Print the tables; write CSV, JSON and plots."""
    for series in arguments.series:
        for size in SIZES[series]:
            everyone = networks([series], [size])
            rows, remarks = finished_rows(everyone, state, arguments.pictures)
            if not rows or (arguments.sizes is not None and size not in arguments.sizes):
                continue
            on = _measured_on(rows)
            heading = _heading(rows, len(everyone), on) + remarks
            heading += [f"{row.network.title}: {remark}" for row in rows for remark in row.remarks]
            print("\n" + "\n".join([*heading, "", *table(rows)]))
            name = f"ablation_{series}_{size[0]}x{size[1]}"
            document = {"about": heading, "rows": [{**columns(row), "measured": row.measured} for row in rows]}
            _write(state.folder / f"{name}.csv", to_csv(rows))
            _write(state.folder / f"{name}.json", json.dumps(document, indent=1) + "\n")
            if series == "a":
                # What stands in the documentation is not replaced by half a series, or a noisy one.
                complete = len(rows) == len(everyone) and all(row.measured is not None and row.quiet for row in rows)
                caption = (
                    f"Mobile-RCNN A by backbone, {size[0]}×{size[1]}, {PROPOSALS} proposals, {PEOPLE} people\n{on}"
                )
                _plot(rows, (arguments.plots if complete else state.folder) / f"{name}.svg", caption)


def _write(path: Path, text: str) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _measured_on(rows: Sequence[Row]) -> str:
    """The machine of the latencies, which need not be this one, and the threads."""
    for row in rows:
        if row.measured is not None:
            inputs = row.measured["inputs"]
            return f"{inputs['machine']['cpu']}, {inputs['threads']} threads"
    return "nothing is measured yet"


def _heading(rows: Sequence[Row], total: int, measured_on: str) -> list[str]:
    series, (height, width) = rows[0].network.series, rows[0].network.size
    timed = sum(row.measured is not None for row in rows)
    lines = [
        f"Series {series}: {SERIES[series]}",
        f"{height}x{width}, {PROPOSALS} proposals, {PEOPLE} people; {measured_on}",
        f"{len(rows)} of {total} prepared, {timed} measured; R50 is {yardstick((height, width)).title}, of the same "
        "precision and in turns with each network",
        prepare.WEIGHTS_NOTE,
    ]
    if series == "a":
        lines.append(f"AP is the paper's, not ours: {published()['what']}; {published()['source']}. *: Pareto front")
    return lines


def _plot(rows: Sequence[Row], target: Path, caption: str) -> None:
    try:
        if plot(rows, target, caption):
            print(f"\nplot: {target}")
    except ModuleNotFoundError as error:
        _say(f"no plot: {error.name} is not installed; pip install matplotlib, then --phase report")


def main(given: Sequence[str] | None = None) -> int:
    arguments = _arguments(given)
    effort = Effort(0.2, arguments.duration, arguments.iterations)
    state = State(arguments.state)
    try:
        chosen = networks(arguments.series, arguments.sizes, arguments.only)
        prepare.calibration_pictures(arguments.pictures)
    except ValueError as error:
        _say(f"error: {error}")
        return 2
    failures = 0
    try:
        if "prepare" in _PHASES[arguments.phase]:
            failures += _prepare(chosen, state, arguments)
        if "measure" in _PHASES[arguments.phase]:
            failures += _measure(chosen, state, arguments, effort)
    except KeyboardInterrupt:
        _say(f"stopped; what is finished is kept in {state.folder}: run the same command again to go on")
        return 130
    try:
        _report(arguments, state)
    except OutputError as error:
        _say(f"error: {error}")
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
