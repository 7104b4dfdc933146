"""``densepose-engine build``: ONNX graph to an engine for one backend."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..output_files import OutputError, check_outputs
from ..progress import Stages
from ..terminal import megabytes, printable
from .arguments import positive

NAME = "build"
HELP = "ONNX graph to an engine"
_OPTIONS = ("compute_capability", "max_people", "timing_cache", "deepstream")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("graph", type=Path, metavar="ONNX", help="what export wrote")
    parser.add_argument("--backend", default="openvino", help="openvino, tensorrt or tensorrt-rtx (default: openvino)")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "fp16", "bf16", "int8"),
        help="fp32 is exact; fp16 (tensorrt) and bf16 (openvino, where the processor has it) are faster, to about 3 "
        "digits; int8 is fastest and needs --calib (default: fp32)",
    )
    parser.add_argument("--calib", type=Path, metavar="JSON", help="int8: the table that calibrate wrote")
    parser.add_argument(
        "--observer",
        choices=("minmax", "percentile", "entropy", "mse"),
        default="mse",
        help="int8: how a tensor's histogram becomes its range (default: mse)",
    )
    parser.add_argument(
        "--nearest-weights",
        action="store_true",
        help="int8: round weights to the nearest, without looking at what they will be multiplied with",
    )
    parser.add_argument(
        "--keep-float", default="", metavar="NAMES", help="int8: layers that stay float, separated by commas"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="ENGINE", help="default: beside the graph, with suffix .engine"
    )
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
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(arguments: Namespace) -> int:
    from ..build import Int8Options, build_engine
    from ..engine_file import write_engine_file

    output: Path = arguments.output or arguments.graph.with_suffix(".engine")
    if output.absolute() == arguments.graph.absolute():
        raise ValueError(f"{output} is the graph itself; -o names another file")
    if (arguments.precision == "int8") != (arguments.calib is not None):
        raise ValueError("--precision int8 and --calib go together")
    int8 = None
    if arguments.calib is not None:
        keep = tuple(name for name in arguments.keep_float.split(",") if name)
        int8 = Int8Options(arguments.calib, arguments.observer, not arguments.nearest_weights, keep)
    given = {name: getattr(arguments, name) for name in _OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    check_outputs([output], arguments.force)
    with Stages(enabled=not arguments.quiet) as stages:
        stages(f"compiling {arguments.graph.name} for {arguments.backend}")
        engine = build_engine(arguments.graph, arguments.backend, arguments.precision, int8, options)
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_engine_file(output, engine)
        except OSError as error:
            raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    if not arguments.quiet:
        versions = ", ".join(f"{name} {version}" for name, version in engine.runtime.items())
        print(
            f"{printable(output)}: {printable(engine.model.get('architecture', '?'))}, {engine.precision}, {versions}, "
            f"{megabytes(output.stat().st_size)}"
        )
    return 0
