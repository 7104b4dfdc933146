"""``densepose-engine calibrate``: ONNX graph and pictures to a calibration table."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.output_files import check_outputs, output_errors
from ..files.recognize import GRAPH, expect
from ..wording import megabytes, printable
from .arguments import count, pictures_of, positive
from .progress import ProgressBar, Stages
from .terminal import say

if TYPE_CHECKING:
    from ..calibration.table import CalibrationTable

NAME = "calibrate"
HELP = "ONNX graph and pictures to a calibration table, which an int8 engine is built with"
DEFAULT_COUNT, DEFAULT_SEED, DEFAULT_MIN_PEOPLE = 128, 0, 8
_WORST = 5  # tensors in the summary
_BULK = 99.9  # percent of the values, which the summary compares the extremes with


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("graph", type=Path, metavar="ONNX", help="what export wrote")
    parser.add_argument(
        "pictures",
        nargs="+",
        type=Path,
        metavar="PICTURE",
        help="picture, or folder that is searched for pictures; with people, and like what the engine will see",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="JSON", help="default: beside the graph, with suffix .calib.json"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    choice = parser.add_argument_group("pictures")
    choice.add_argument(
        "--count",
        type=positive,
        default=DEFAULT_COUNT,
        metavar="N",
        help="how many to use at most, chosen by their names and the seed (default: %(default)s)",
    )
    choice.add_argument("--seed", type=count, default=DEFAULT_SEED, metavar="N", help="default: %(default)s")
    choice.add_argument(
        "--min-people",
        type=positive,
        default=DEFAULT_MIN_PEOPLE,
        metavar="N",
        help="fewer people in all pictures together are an error (default: %(default)s)",
    )
    runtime = parser.add_argument_group("runtime")
    runtime.add_argument("--threads", type=positive, metavar="N", help="default: the runtime decides")
    runtime.add_argument(
        "--no-resume",
        action="store_true",
        help="start from the first picture, even if OUTPUT.partial is there from a run that was interrupted",
    )


def run(arguments: Namespace) -> int:
    output: Path = arguments.output or arguments.graph.with_suffix(".calib.json")
    if output.absolute() == arguments.graph.absolute():
        raise ValueError(f"{output} is the graph itself; -o names another file")
    expect(arguments.graph, GRAPH)
    pictures = pictures_of(arguments.pictures, arguments.quiet)
    partial = output.with_name(f"{output.name}.partial")
    check_outputs([output], arguments.force)
    check_outputs([partial], force=True)
    if arguments.no_resume:
        with output_errors(partial):
            partial.unlink(missing_ok=True)

    from ..calibration.collect.activations import collect

    with output_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with _Progress(arguments.graph, enabled=not arguments.quiet) as progress:
        table = collect(
            arguments.graph,
            pictures,
            count=arguments.count,
            seed=arguments.seed,
            min_people=arguments.min_people,
            num_threads=arguments.threads,
            resume_path=partial,
            progress=progress,
            notify=progress.notify,
        )
    table.save(output)
    with output_errors(partial):
        partial.unlink(missing_ok=True)
    if not arguments.quiet:
        for line in summary(table):
            print(printable(line))
        print(f"{printable(output)}: {megabytes(output.stat().st_size)}")
    return 0


def summary(table: CalibrationTable) -> Iterator[str]:
    """For people: what the table comes from, and the tensors whose extremes are furthest from the bulk of their values.

    Those are the ones that quantization costs most: with all values inside the range, few of its levels are used.
    """
    from ..calibration.place.observers import range_of

    images = table.images
    skipped = f" ({len(images.skipped)} more could not be read)" if images.skipped else ""
    yield f"pictures   {images.count}{skipped}"
    yield f"people     {table.people}"
    yield f"proposals  {table.proposals}"
    yield f"tensors    {len(table.tensors)}, read by {len(table.layers)} layers"
    rows = []
    for name, one in table.tensors.items():
        bulk = range_of(one, "percentile", symmetric=True, percentile=_BULK)[1]
        bound = max(-one.minimum, one.maximum)
        if bulk > 0:
            rows.append((bound / bulk, name, one.minimum, one.maximum, bulk))
    rows.sort(reverse=True)
    yield f"widest     of max|x| to what holds {_BULK:g}% of |x|"
    for ratio, name, minimum, maximum, bulk in rows[:_WORST]:
        yield f"  {ratio:6.1f} x  {minimum:10.4g} .. {maximum:<10.4g}  {_BULK:g}% within {bulk:<10.4g}  {name}"


class _Progress:
    """The stage while the graph compiles, then a bar; a bar of what is left, where the first pictures were resumed."""

    def __init__(self, graph: Path, enabled: bool) -> None:
        self._enabled = enabled
        self._stages: Stages | None = Stages(enabled=enabled)
        self._stages(f"compiling {graph.name}")
        self._bar: ProgressBar | None = None

    def __enter__(self) -> _Progress:
        if self._stages is not None:
            self._stages.__enter__()
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._end_stages()
            self._bar = ProgressBar(total - done, "pictures", enabled=self._enabled)
        else:
            self._bar.advance()

    def notify(self, text: str) -> None:
        """A remark between two drawings of the bar."""
        self._end_stages()
        if self._bar is not None:
            self._bar.clear()
        if self._enabled:
            say(printable(text))

    def __exit__(self, *exception: object) -> None:
        self._end_stages()
        if self._bar is not None:
            self._bar.clear()

    def _end_stages(self) -> None:
        if self._stages is not None:
            self._stages.__exit__(None, None, None)
            self._stages = None
