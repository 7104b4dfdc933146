"""``densepose-engine report``: what INT8 costs, tensor by tensor and on pictures, as a page and as JSON."""

from __future__ import annotations

import io
import json
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import require
from ..files.output_files import check_outputs, write_all
from ..files.recognize import GRAPH, TABLE, expect
from ..pictures.find import Picture
from ..wording import megabytes, percent, printable
from .arguments import pictures_of, positive
from .build import add_int8_arguments, int8_options
from .progress import Stages
from .terminal import say

if TYPE_CHECKING:
    from ..calibration.judge.report import Report
    from ..calibration.judge.report_page import PicturePair
    from ..evaluation.drift import Drift
    from ..model.engine_file import EngineFile

NAME = "report"
HELP = "what INT8 costs, tensor by tensor and on pictures, as a page to read and as JSON"
DEFAULT_COUNT = 6
_SHOWN_SIDE = 640  # pixels of a picture on the page, at most
_QUALITY = 85  # of its JPEG
_WORST = 5  # tensors in the summary


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("graph", type=Path, metavar="ONNX", help="what export wrote")
    parser.add_argument(
        "pictures",
        nargs="*",
        type=Path,
        metavar="PICTURE",
        help="picture or folder, to measure on and to show; without any, noise is estimated from the table alone",
    )
    parser.add_argument(
        "--count",
        type=positive,
        default=DEFAULT_COUNT,
        metavar="N",
        help="how many pictures to use at most, those that were not calibrated on first (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="HTML", help="default: beside the graph, with suffix .report.html"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON too")
    parser.add_argument("--force", action="store_true", help="overwrite the outputs")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: the runtime decides")
    add_int8_arguments(parser)


def run(arguments: Namespace) -> int:
    if "auto" in arguments.keep_float.split(","):
        raise ValueError("'build --keep-float auto' lists the layers that it found; name them here")
    if arguments.calib is None:
        raise ValueError("--calib names the table that calibrate wrote; a report is about it")
    output: Path = arguments.output or arguments.graph.with_suffix(".report.html")
    outputs = [output, *([arguments.json] if arguments.json else [])]
    if any(path.absolute() in (arguments.graph.absolute(), arguments.calib.absolute()) for path in outputs):
        raise ValueError("an output is the graph or the table itself; -o and --json name other files")
    expect(arguments.graph, GRAPH)
    expect(arguments.calib, TABLE)
    check_outputs(outputs, arguments.force)
    pictures = pictures_of(arguments.pictures, arguments.quiet)
    for module in ("onnx", "onnx_ir"):
        require(module, "build", "a report")

    from ..calibration.judge.report import analyze, to_dict
    from ..calibration.judge.report_page import page
    from ..calibration.place.quantize import TARGETS
    from ..calibration.place.quantizer import Quantizer
    from ..calibration.table import CalibrationTable
    from ..compile.build import build_engine
    from ..compile.layer_precision import int8_mac_share

    options = int8_options(arguments)
    with Stages(enabled=not arguments.quiet) as stages:
        stages("reading the calibration table")
        table = CalibrationTable.load(arguments.calib)
        graph = arguments.graph.read_bytes()
        quantizer = Quantizer(graph, table, TARGETS["openvino"], options.observer, options.adapt_weights)
        stages("compiling the int8 engine")
        engine = build_engine(arguments.graph, "openvino", "int8", options)
        named = _read(_choose(pictures, table.images.names, arguments.count))
        if pictures and not named:
            raise FileNotFoundError("none of the pictures can be read")
        stages(f"measuring noise on {len(named)} pictures" if named else "estimating noise")
        report = analyze(
            quantizer,
            arguments.graph.name,
            keep_float=options.keep_float,
            pictures=[rgb for _, rgb in named],
            calibrated_on=sum(name in table.images.names for name, _ in named),
            compiled_layers=engine.model.layers or (),
            num_threads=arguments.threads,
        )
        pairs: list[PicturePair] = []
        moved: Drift | None = None
        yardstick: dict[str, float] | None = None
        if named:
            stages("comparing with the fp32 engine")
            reference = build_engine(arguments.graph, "openvino", "fp32")
            pairs, moved, yardstick = _compare(reference, engine, named, arguments.threads)
    share = int8_mac_share(engine.model.layers or ())
    drift = None if moved is None else asdict(moved)
    title = engine.model.architecture
    content = page(report, title=title, pictures=pairs, drift=drift, yardstick=yardstick, int8_mac_share=share)
    if not arguments.quiet:  # first: it is what is left where the files cannot be written
        for line in summary(report, share, moved, yardstick):
            print(printable(line))
    texts = {output: content}
    if arguments.json is not None:
        texts[arguments.json] = json.dumps(to_dict(report, share, drift, yardstick), indent=1) + "\n"
    write_all({path: partial(Path.write_text, data=text, encoding="utf-8") for path, text in texts.items()})
    if not arguments.quiet:
        print(f"{printable(output)}: {megabytes(output.stat().st_size)}")
    return 0


def summary(
    report: Report, share: float, moved: Drift | None, yardstick: Mapping[str, float] | None = None
) -> list[str]:
    """For people: the page in a few lines."""
    kind = "measured" if report.measured_on else "estimated"
    lines = [f"int8       {percent(share)} of the MACs"]
    if report.measured_on:
        seen = f" ({report.calibrated_on} calibrated on, by name, which flatters)" if report.calibrated_on else ""
        lines.append(f"pictures   {report.measured_on}{seen}")
    if moved is not None and not moved.matched:
        lines.append(f"drift      nobody whom both find; {moved.only_reference} lost, {moved.only_other} new")
    elif moved is not None:
        lines.append(
            f"drift      part agreement {moved.part_agreement:.4f}, box IoU {moved.box_iou:.4f}, mask IoU "
            f"{moved.mask_iou:.4f}, of the {moved.matched} people whom both find; {moved.only_reference} lost, "
            f"{moved.only_other} new"
        )
    if yardstick is not None and math.isfinite(yardstick["ratio"]):
        ratio, low, high = (yardstick[name] for name in ("ratio", "low", "high"))
        lines.append(f"yardstick  {ratio:.2f} ({low:.2f} .. {high:.2f}) times as far as one grey level moves FP32")
    lines.append(f"worst      tensors, {kind} SQNR")
    lines += [f"  {one.sqnr_db:6.1f} dB  {one.name}" for one in report.tensors[:_WORST]]
    if report.results:
        lines.append("results    measured SQNR")
        lines += [f"  {value:6.1f} dB  {name}" for name, value in report.results.items()]
    if report.sharing:
        lines.append("sharing    of scales, what it costs at most")
    for group in report.sharing:
        worst = max(group, key=lambda one: one.cost_db)
        lines.append(f"  {worst.cost_db:6.1f} dB  {worst.name}, with {len(group) - 1} more")
    return lines


def _choose(pictures: Sequence[Picture], calibrated: Sequence[str], count: int) -> list[Picture]:
    """Pictures that calibration has not seen come first."""
    seen = set(calibrated)
    return sorted(pictures, key=lambda picture: picture.path.name in seen)[:count]


def _read(pictures: Sequence[Picture]) -> list[tuple[str, np.ndarray]]:
    from ..errors import ImageError
    from ..pictures.read import to_rgb_array

    found = []
    for picture in pictures:
        try:
            found.append((picture.path.name, to_rgb_array(picture.path)))
        except (ImageError, OSError) as error:
            say(f"left out: {printable(picture.path)}: {printable(error)}")
    return found


def _compare(
    reference: EngineFile, other: EngineFile, named: Sequence[tuple[str, np.ndarray]], threads: int | None
) -> tuple[list[PicturePair], Drift, dict[str, float]]:
    from ..calibration.judge.report_page import PicturePair
    from ..engine import Engine
    from ..evaluation.drift import DriftMeter
    from ..evaluation.yardstick import Yardstick
    from ..outputs.overlays import draw

    def load(file: EngineFile) -> Engine:
        return Engine.from_file(file, num_threads=threads)

    meter, pairs = DriftMeter(), []
    with load(reference) as exact, load(other) as quantized:
        yardstick = Yardstick(exact.infer)
        for name, rgb in named:
            mine, theirs = exact.infer(rgb), quantized.infer(rgb)
            meter.add(mine, theirs)
            yardstick.add(rgb, mine)
            before, after = mine.iuv()[..., 0], theirs.iuv()[..., 0]
            differs = before != after
            people = int(((before > 0) | (after > 0)).sum())
            note = f"{len(mine)} and {len(theirs)} people; "
            note += f"another part in {100 * differs.sum() / people:.1f}% of their pixels" if people else "nobody"
            shown = (rgb * 0.35 + 150).astype(np.uint8)
            shown = np.repeat(shown.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
            shown[differs] = (214, 60, 34)
            drawn = [_jpeg(draw(rgb, result, ("parts", "boxes"))) for result in (mine, theirs)]
            pairs.append(PicturePair(name, drawn[0], drawn[1], _jpeg(shown), note))
    ratio = yardstick.ratio(meter)
    noise = {"part_drift": yardstick.part_drift, "ratio": ratio.value, "low": ratio.low, "high": ratio.high}
    return pairs, meter.drift(), noise


def _jpeg(rgb: np.ndarray) -> bytes:
    from PIL import Image

    image: Any = Image.fromarray(rgb)
    image.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
