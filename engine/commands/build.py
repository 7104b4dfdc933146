"""``densepose-engine build``: ONNX graph to an engine for one backend."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..output_files import OutputError, check_outputs
from ..progress import Stages
from ..terminal import megabytes, printable

NAME = "build"
HELP = "ONNX graph to an engine"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("graph", type=Path, metavar="ONNX", help="what export wrote")
    parser.add_argument("--backend", default="openvino", help="vendor's runtime (default: openvino)")
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "bf16"),
        help="fp32 is exact; bf16 is faster where the processor has it, to about 3 digits (default: fp32)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="ENGINE", help="default: beside the graph, with suffix .engine"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(arguments: Namespace) -> int:
    from ..build import build_engine
    from ..engine_file import write_engine_file

    output: Path = arguments.output or arguments.graph.with_suffix(".engine")
    if output.absolute() == arguments.graph.absolute():
        raise ValueError(f"{output} is the graph itself; -o names another file")
    check_outputs([output], arguments.force)
    with Stages(enabled=not arguments.quiet) as stages:
        stages(f"compiling {arguments.graph.name} for {arguments.backend}")
        engine = build_engine(arguments.graph, arguments.backend, arguments.precision)
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
