"""What ``build --keep-float auto`` does: arguments, pictures and progress around ``keep_float``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CalibrationError, ImageError, require
from ..pictures.find import Picture, find_pictures
from ..wording import printable
from .arguments import non_negative, positive
from .evaluate import gps_of
from .progress import ProgressBar
from .terminal import say

if TYPE_CHECKING:
    import numpy as np

    from ..calibration.judge.keep_float import Choice
    from ..calibration.place.quantizer import Quantizer
    from ..calibration.table import CalibrationTable
    from ..compile.build import Int8Options
    from ..compile.trials import Trials
    from ..model.description import ModelDescription

AUTO = "auto"
DEFAULT_MAX_DROP = 0.3  # points of AP
# Of what one grey level of noise does to FP32. More than 1: of few pictures, the ratio is known to a fifth.
DEFAULT_MAX_RATIO = 1.25
DEFAULT_HELD_OUT = 32  # pictures
_SENSITIVITY_PICTURES = 4


def add_arguments(parser: ArgumentParser) -> None:
    auto = parser.add_argument_group(
        "int8, --keep-float auto",
        "Moves layers back to float, the worst first, until INT8 loses no more than is\n"
        "allowed against FP32: points of AP on annotated pictures (--data), or, without\n"
        "labels, drift on pictures that were not calibrated on (--pictures).",
    )
    auto.add_argument("--data", type=Path, metavar="DIR", help="folder with annotations.json and its pictures")
    auto.add_argument("--max-drop", type=non_negative, metavar="POINTS",
                      help=f"with --data: of box AP and of GPS AP (default: {DEFAULT_MAX_DROP:g})")  # fmt: skip
    auto.add_argument("--gps", choices=("simple", "coco", "ogps"), help="definition of GPS, as evaluate has it")
    auto.add_argument("--surface", type=Path, metavar="FILE", help="for --gps simple (default: surface.npz beside DIR)")
    auto.add_argument("--geodesics", type=Path, metavar="FILE", help="for --gps coco")
    auto.add_argument("--mesh-file", type=Path, action="append", default=[], metavar="FILE", help="for --gps ogps")
    auto.add_argument("--pictures", type=Path, nargs="+", metavar="PICTURE",
                      help="pictures or folders; those that the table was made with are left out")  # fmt: skip
    auto.add_argument("--max-drift", type=non_negative, metavar="PERCENT",
                      help="with --pictures: people whom only one of the engines finds, and of the others, pixels with "
                      f"another part, of those that either calls one (default: {DEFAULT_MAX_RATIO:g} times what one "
                      "grey level of noise in these pictures does to FP32)")  # fmt: skip
    auto.add_argument("--held-out", type=positive, default=DEFAULT_HELD_OUT, metavar="N",
                      help="with --pictures: how many to use at most (default: %(default)s)")  # fmt: skip


def check(arguments: Namespace, auto: bool) -> None:
    """Raises ``ValueError`` where arguments do not go together."""
    given = [name for name in ("data", "pictures") if getattr(arguments, name) is not None]
    if auto and len(given) != 1:
        raise ValueError("--keep-float auto needs --data DIR (annotated pictures) or --pictures (any), and not both")
    if not auto and given:
        raise ValueError(f"--{given[0]} is for --keep-float auto")
    if arguments.max_drop is not None and arguments.data is None:
        raise ValueError("--max-drop is in points of AP, which needs --data; with --pictures it is --max-drift")
    if arguments.max_drift is not None and arguments.pictures is None:
        raise ValueError("--max-drift is for --keep-float auto with --pictures")


def choose(arguments: Namespace, options: Int8Options) -> Int8Options:
    """``options`` with the layers that stay float, and for the manifest how they were found.

    Raises:
        DensePoseEngineError: pictures or annotations cannot be used, or the bound cannot be kept.
    """
    for module in ("onnx", "onnx_ir"):
        require(module, "build", "--keep-float auto")
    from ..calibration.judge.keep_float import choose as choose_layers
    from ..calibration.judge.noise import NoiseMeter
    from ..calibration.judge.sensitivity import worst_layers
    from ..compile.build import make_quantizer
    from ..model.graph_file import read_graph

    data, _, description = read_graph(arguments.graph)
    quantizer = make_quantizer(data, arguments.backend, options)
    with _Progress(enabled=not arguments.quiet) as progress:
        trials, pictures, record = _trials(arguments, quantizer, description, progress)

        def ranking() -> list[str]:
            progress.notify("looking for the layers that cost most")
            meter = NoiseMeter(data, arguments.graph.name)
            advance = partial(progress, unit="layers")
            found = worst_layers(quantizer, meter, pictures(), keep_float=options.keep_float, advance=advance)
            return [name for name, gain in found if gain > 0]

        choice = choose_layers(
            trials.drop, ranking, record["bound"], keep_float=options.keep_float, notify=progress.notify
        )
    keep = [*options.keep_float, *(step.layer for step in choice.steps)]
    return replace(options, keep_float=keep, record={"auto": {**record, **choice.to_dict()}})


def summary(choice: Choice | dict[str, Any]) -> list[str]:
    """For people, from what the manifest says under "auto"."""
    record = choice if isinstance(choice, dict) else choice.to_dict()
    unit = record.get("unit", "")
    lines = [f"drop       {record['before']:.2f} {unit} with all in INT8, {record['bound']:.2f} allowed"]
    if "measure" in record:
        lines.append(f"measured   {record['measure']}, {record['pictures']} pictures")
    if record.get("yardstick"):
        lines.append(
            f"yardstick  one grey level of noise moves FP32 by {record['yardstick']:.2f} {unit}; INT8 moves "
            f"{record['after'] / record['yardstick']:.2f} times as far"
        )
    for step in record["steps"]:
        lines.append(f"in float   {step['layer']}: {step['drop']:.2f}, bought {step['bought']:.2f}")
    if record["steps"]:
        lines.append(f"in the end {record['after']:.2f} {unit}")
    return lines


def _trials(
    arguments: Namespace, quantizer: Quantizer, description: ModelDescription, progress: _Progress
) -> tuple[Trials, Callable[[], list[np.ndarray]], dict[str, Any]]:
    """How to measure, pictures for the sensitivity, and what the manifest says of both."""
    from ..compile.trials import grey_level_percent, trials_with_labels, trials_without_labels
    from ..pictures.read import to_rgb_array

    if arguments.data is not None:
        from ..evaluation.accuracy import Dataset
        from ..evaluation.rle import coco_tools

        coco_tools("coco")  # missing, it would be missed after the first engine
        dataset = Dataset.load(arguments.data)
        bound = DEFAULT_MAX_DROP if arguments.max_drop is None else arguments.max_drop
        advance = partial(progress, total=len(dataset.pictures), unit="pictures")
        trials = trials_with_labels(quantizer, description, dataset, gps_of(arguments), advance)
        first = [picture.path for picture in dataset.pictures[:_SENSITIVITY_PICTURES]]
        measure = {"measure": "box AP or GPS AP, whichever drops more", "unit": "points of AP"}
        record = {**measure, "bound": bound, "pictures": len(dataset.pictures)}
        return trials, lambda: [to_rgb_array(one) for one in first], record
    found = _held_out(find_pictures(arguments.pictures), quantizer.table, arguments.held_out)
    advance = partial(progress, total=len(found), unit="pictures")
    trials = trials_without_labels(quantizer, description, found, advance)
    record = {"measure": "drift from FP32 without labels", "unit": "percent", "pictures": len(found)}
    bound = arguments.max_drift
    if bound is None:
        progress.notify("measuring what one grey level of noise does to FP32, which INT8 is judged by")
        yardstick = grey_level_percent(trials, found, advance)
        bound = DEFAULT_MAX_RATIO * yardstick
        record |= {"yardstick": yardstick, "max_ratio": DEFAULT_MAX_RATIO}
    return trials, lambda: found[:_SENSITIVITY_PICTURES], {**record, "bound": bound}


def _held_out(pictures: list[Picture], table: CalibrationTable, count: int) -> list[np.ndarray]:
    """Pictures that calibration has not seen, in its order, so that a smaller count there leaves the same ones here."""
    from ..calibration.collect.images import choose as choose_pictures
    from ..pictures.read import to_rgb_array

    seen = set(table.images.names) | set(table.images.skipped)
    unseen = [one for one in choose_pictures(pictures, len(pictures), table.images.seed) if one.path.name not in seen]
    if not unseen:
        raise CalibrationError(
            f"the table was made with all of the {len(pictures)} pictures of --pictures; name others, or calibrate "
            "with fewer (--count) so that some are left to judge it"
        )
    found: list[np.ndarray] = []
    for picture in unseen:
        if len(found) == count:
            break
        try:
            found.append(to_rgb_array(picture.path))
        except (ImageError, OSError) as error:
            say(f"left out: {printable(picture.path)}: {printable(error)}")
    if not found:
        raise CalibrationError("none of the pictures that were not calibrated on can be read")
    return found


class _Progress:
    """A bar for each piece of work, and remarks in between."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._bar: ProgressBar | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._clear()

    def __call__(self, done: int, total: int, unit: str) -> None:
        """``done`` of ``total``; 0 begins another piece of work."""
        if done == 0 or self._bar is None:
            self._clear()
            self._bar = ProgressBar(total, unit, enabled=self._enabled)
        if done:
            self._bar.advance()

    def notify(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        if self._enabled:
            say(printable(text))

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.clear()
            self._bar = None
