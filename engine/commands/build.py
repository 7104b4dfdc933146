"""``densepose-engine build``: ONNX graph to an engine for one backend, or to the Q/DQ graph for one vendor."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..compile.layer_precision import fell_back
from ..files.output_files import atomic_output, check_outputs
from ..files.recognize import GRAPH, TABLE, expect
from ..wording import megabytes, printable
from . import auto_float
from .arguments import positive
from .progress import Stages
from .terminal import say

if TYPE_CHECKING:
    from ..compile.build import Int8Options
    from ..model.compiled import Layer

NAME = "build"
HELP = "ONNX graph to an engine"
_OPTIONS = ("compute_capability", "max_people", "timing_cache", "deepstream")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("graph", type=Path, metavar="ONNX", help="what export wrote")
    parser.add_argument("--backend", default="openvino", help="openvino, tensorrt or tensorrt-rtx (default: openvino)")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        help="fp32 is exact; fp16 (tensorrt) and bf16 (openvino, where the processor has it) are faster, to about 3 "
        "digits; int8 is fastest and needs --calib (default: fp32)",
    )
    parser.add_argument(
        "--target",
        choices=("openvino", "tensorrt"),
        help="no engine: write the graph with Q/DQ placed for this vendor, as ONNX; it is int8, so it needs --calib",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="default: beside the graph, with suffix .engine; with --target, .qdq.onnx",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    add_int8_arguments(parser, auto=True)
    auto_float.add_arguments(parser)
    gpu = parser.add_argument_group("tensorrt and tensorrt-rtx")
    gpu.add_argument(
        "--compute-capability",
        metavar="X.Y",
        help="the GPU to build for; tensorrt builds for the one in this machine",
    )
    gpu.add_argument(
        "--max-people",
        type=positive,
        metavar="N",
        help="always run the DensePose head for N people, in one CUDA graph, instead of for those found",
    )
    gpu.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="remembers the fastest kernels for the next build"
    )
    gpu.add_argument(
        "--deepstream",
        action="store_true",
        default=None,
        help="a plan for DeepStream: the picture is its only input; needs --max-people; 'extract' takes it out",
    )


def add_int8_arguments(parser: ArgumentParser, auto: bool = False) -> None:
    """What ``int8_options`` reads; with ``auto``, ``--keep-float`` says that it can be."""
    int8 = parser.add_argument_group("int8")
    int8.add_argument("--calib", type=Path, metavar="JSON", help="the table that calibrate wrote")
    int8.add_argument(
        "--observer",
        choices=("minmax", "percentile", "entropy", "mse"),
        default="mse",
        help="how a tensor's histogram becomes its range (default: mse)",
    )
    int8.add_argument(
        "--nearest-weights",
        action="store_true",
        help="round weights to the nearest, without looking at what they will be multiplied with",
    )
    int8.add_argument(
        "--keep-float",
        default="",
        metavar="NAMES",
        help="layers that stay float, separated by commas" + ("; 'auto' finds the worst ones" if auto else ""),
    )


def int8_options(arguments: Namespace) -> Int8Options:
    from ..compile.build import Int8Options

    """From the command line; "auto" is no layer."""
    keep = tuple(name for name in arguments.keep_float.split(",") if name not in ("", auto_float.AUTO))
    return Int8Options(arguments.calib, arguments.observer, not arguments.nearest_weights, keep)


def run(arguments: Namespace) -> int:
    int8 = arguments.target is not None or arguments.precision == "int8"
    if arguments.target is not None and arguments.precision not in (None, "int8"):
        raise ValueError(f"--target places Q/DQ, which is int8, not {arguments.precision}")
    if int8 != (arguments.calib is not None):
        raise ValueError("--calib is what int8 needs, and nothing else: --precision int8 or --target")
    auto = auto_float.AUTO in arguments.keep_float.split(",")
    if auto and (arguments.target is not None or not int8):
        raise ValueError("--keep-float auto measures int8 engines: it needs --precision int8, and no --target")
    if auto and arguments.backend != "openvino":
        raise ValueError("--keep-float auto measures what runs here, which is the openvino backend")
    auto_float.check(arguments, auto)
    suffix = ".engine" if arguments.target is None else ".qdq.onnx"
    output: Path = arguments.output or arguments.graph.with_suffix(suffix)
    if output.absolute() == arguments.graph.absolute():
        raise ValueError(f"{output} is the graph itself; -o names another file")
    expect(arguments.graph, GRAPH)
    if arguments.calib is not None:
        expect(arguments.calib, TABLE)
    check_outputs([output], arguments.force)
    if arguments.timing_cache is not None:
        check_outputs([arguments.timing_cache], force=True)
    return _write_graph(arguments, output) if arguments.target is not None else _write_engine(arguments, output)


def _write_graph(arguments: Namespace, output: Path) -> int:
    from ..compile.build import quantized_graph

    with Stages(enabled=not arguments.quiet) as stages:
        stages(f"placing Q/DQ in {arguments.graph.name} for {arguments.target}")
        content = quantized_graph(arguments.graph, arguments.target, int8_options(arguments))
        with atomic_output(output) as temporary:
            temporary.write_bytes(content)
    if not arguments.quiet:
        print(f"{printable(output)}: Q/DQ for {arguments.target}, {megabytes(len(content))}")
    return 0


def _write_engine(arguments: Namespace, output: Path) -> int:
    from ..compile.build import build_engine
    from ..model.engine_file import write_engine_file

    precision = arguments.precision or "fp32"
    int8 = int8_options(arguments) if precision == "int8" else None
    if int8 is not None and auto_float.AUTO in arguments.keep_float.split(","):
        int8 = auto_float.choose(arguments, int8)
    with Stages(enabled=not arguments.quiet) as stages:
        stages(f"compiling {arguments.graph.name} for {arguments.backend}")
        given = {name: getattr(arguments, name) for name in _OPTIONS}
        options = {name: value for name, value in given.items() if value is not None}
        engine = build_engine(arguments.graph, arguments.backend, precision, int8, options)
        with atomic_output(output) as temporary:
            write_engine_file(temporary, engine)
    if int8 is not None:
        _warn_of_fallbacks(engine.model.layers or ())
    if not arguments.quiet:
        if int8 is not None and "auto" in int8.record:
            for line in auto_float.summary(int8.record["auto"]):
                print(printable(line))
        versions = ", ".join(f"{name} {version}" for name, version in engine.runtime.items())
        print(
            f"{printable(output)}: {printable(engine.model.architecture)}, {engine.precision}, {versions}, "
            f"{megabytes(output.stat().st_size)}"
        )
    return 0


def _warn_of_fallbacks(layers: Sequence[Layer]) -> None:
    """Also where the user wants quiet: it is not what was asked for."""
    total = max(sum(layer.macs for layer in layers), 1)
    for layer in fell_back(layers):
        say(
            f"warning: {printable(layer.name)} ({100 * layer.macs / total:.2f}% of the MACs) fell back to "
            f"{layer.precision}; 'inspect' lists what every layer runs as"
        )
