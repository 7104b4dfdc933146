"""``densepose-engine bench``: how fast an engine is, where its time goes, and how it stands against others."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.output_files import check_outputs, write_all
from ..files.recognize import CHECKPOINT, CONFIG, ENGINE, GRAPH, PICKLE, TABLE, expect
from .arguments import count, pictures_of, positive
from .progress import Stages

if TYPE_CHECKING:
    from ..benchmarking.bench import Contender
    from ..benchmarking.peers import Sources

NAME = "bench"
HELP = "latency, throughput, stages and memory of an engine, and how it stands against others"
#: Runtimes that the same network can be run in.
PEERS = ("torch", "onnxruntime", "openvino-stock")


def _milliseconds(text: str) -> float:
    return _number(text, 0.0, 1e7)


def _seconds(text: str) -> float:
    return _number(text, 0.0, 1e5)


def _number(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
    return value


def _percentiles(text: str) -> tuple[float, ...]:
    return tuple(dict.fromkeys(_number(part, 0.0, 100.0) for part in text.split(",")))


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(count(part) for part in text.split(","))) if text else ()


def _peers(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PEERS:
            raise ArgumentTypeError(f"{name!r} is none of {','.join(PEERS)}")
    return tuple(dict.fromkeys(names))


def _reference(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    if not (name and equals):
        raise ArgumentTypeError(f"{text!r} is not NAME=MILLISECONDS")
    return name, _number(value, 1e-3, 1e7)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="what build wrote")
    what = parser.add_argument_group(
        "what is measured",
        "Whole frames: a uint8 array of 640x480 in, the result at that size out (resize, network, charts).",
    )
    what.add_argument(
        "--loadInputs", nargs="+", type=Path, metavar="PICTURE", help="pictures or folders instead of 640x480 noise"
    )
    what.add_argument(
        "--people",
        type=count,
        metavar="N",
        help="N people in every picture: score threshold 0, the best N boxes (default: 2; with --loadInputs, who is "
        "found)",
    )
    what.add_argument("--max-proposals", type=count, metavar="N", help="regions looked at (default: the model's own)")
    what.add_argument(
        "--sweep",
        type=_counts,
        metavar="N,...",
        help="people per picture, measured one after the other; '' for none (default: 0,1,2,4,8, as far as the graph "
        "has room)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--warmUp", type=_milliseconds, default=200.0, metavar="MS", help="default: 200")
    how.add_argument("--duration", type=_seconds, default=3.0, metavar="S", help="at least so long (default: 3)")
    how.add_argument("--iterations", type=positive, default=10, metavar="N", help="at least so many (default: 10)")
    how.add_argument("--percentile", type=_percentiles, default=(90, 95, 99), metavar="P,...", help="default: 90,95,99")
    how.add_argument(
        "--streams", type=positive, default=1, metavar="N", help="frames in flight at once, for throughput (default: 1)"
    )
    how.add_argument("--threads", type=positive, metavar="N", help="default: the runtime decides")
    how.add_argument("--device", help="default: CPU for openvino, cuda for tensorrt")
    how.add_argument("--no-cache", action="store_true", help="compile anew instead of using the user's cache")
    how.add_argument("--noFootprint", action="store_true", help="leave out load time and memory")
    how.add_argument("--noProfile", action="store_true", help="leave out the split by stage")

    others = parser.add_argument_group(
        "against others",
        "The two sides take turns on the same pictures, and what they find is compared first. Ratios are the\n"
        "other's time over this engine's.",
    )
    others.add_argument("--compare", type=Path, metavar="ENGINE", help="another engine")
    others.add_argument(
        "--vs",
        type=_peers,
        default=(),
        metavar="PEER,...",
        help=f"the same network elsewhere: {', '.join(PEERS)} (torch needs --config and --weights, the others these or "
        "--graph)",
    )
    others.add_argument("--config", type=Path, metavar="YAML", help="detectron2 configuration, of torch")
    others.add_argument("--weights", type=Path, metavar="FILE", help="its checkpoint")
    others.add_argument("--graph", type=Path, metavar="ONNX", help="what the engine was built from")
    others.add_argument(
        "--calib", type=Path, metavar="JSON", help="its calibration table: peers of an int8 engine are int8 too"
    )
    others.add_argument(
        "--reference",
        type=_reference,
        action="append",
        default=[],
        metavar="NAME=MS",
        help="a time that was measured elsewhere",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="the whole report; '-': on stdout, and nothing else there")
    output.add_argument("--exportTimes", type=Path, metavar="FILE", help="every run of the main measurement, as JSON")
    output.add_argument("--exportProfile", type=Path, metavar="FILE", help="every layer's times, as JSON")
    output.add_argument("--dumpProfile", action="store_true", help="print every layer's times")
    output.add_argument("--force", action="store_true", help="overwrite outputs")


def run(arguments: Namespace) -> int:
    if arguments.noProfile and (arguments.dumpProfile or arguments.exportProfile):
        raise ValueError("--noProfile does not go with --dumpProfile and --exportProfile")
    targets = [arguments.exportTimes, arguments.exportProfile]
    targets += [Path(arguments.json)] if arguments.json not in (None, "-") else []
    check_outputs([target for target in targets if target is not None], arguments.force)
    for path, *kinds in (
        (arguments.engine, ENGINE),
        (arguments.compare, ENGINE),
        (arguments.config, CONFIG),
        (arguments.weights, CHECKPOINT, PICKLE),
        (arguments.graph, GRAPH),
        (arguments.calib, TABLE),
    ):
        if path is not None:
            expect(path, *kinds)

    from ..benchmarking.bench import BenchOptions, bench
    from ..benchmarking.report import layer_lines, lines
    from ..benchmarking.timing import Effort
    from ..pictures.read import to_rgb_array

    found = pictures_of(arguments.loadInputs or [], arguments.quiet)
    pictures = [to_rgb_array(picture.path) for picture in found]
    people = 2 if arguments.people is None and not pictures else arguments.people
    options = BenchOptions(
        effort=Effort(arguments.warmUp / 1e3, arguments.duration, arguments.iterations),
        percentiles=arguments.percentile,
        people=people,
        max_proposals=arguments.max_proposals,
        streams=arguments.streams,
        device=arguments.device,
        threads=arguments.threads,
        cache_dir=None if arguments.no_cache else "auto",
        sweep=arguments.sweep,
        profile=not arguments.noProfile,
        footprint=not arguments.noFootprint,
    )
    with Stages(enabled=not arguments.quiet) as stages:
        report, times = bench(
            arguments.engine,
            options,
            pictures,
            compare=arguments.compare,
            peers=_make_peers(arguments),
            references=dict(arguments.reference),
            on_stage=stages,
        )
    if arguments.json == "-":
        print(json.dumps(report, indent=1))
    else:
        for line in lines(report):
            print(line)
        if arguments.dumpProfile:
            print("\n" + "\n".join(layer_lines(report["profile"])))
    contents: dict[Path, Any] = {}
    if arguments.json not in (None, "-"):
        contents[Path(arguments.json)] = report
    if arguments.exportTimes is not None:
        contents[arguments.exportTimes] = times.to_rows()
    if arguments.exportProfile is not None:
        # trtexec's form: the number of frames first, then a row per layer.
        contents[arguments.exportProfile] = [{"count": report["profile"]["frames"]}, *report["profile"]["layers"]]
    write_all(
        {
            path: partial(Path.write_text, data=json.dumps(content, indent=1) + "\n", encoding="utf-8")
            for path, content in contents.items()
        }
    )
    return 0


def _make_peers(arguments: Namespace) -> dict[str, Callable[[], Contender]]:
    if not arguments.vs:
        return {}
    from ..benchmarking.peers import MAKERS, Sources

    sources: Sources = Sources(
        arguments.engine, arguments.config, arguments.weights, arguments.graph, arguments.calib, arguments.threads
    )
    for name in arguments.vs:
        sources.check(name)
    return {name: partial(MAKERS[name], sources) for name in arguments.vs}
