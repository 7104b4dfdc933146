"""``densepose-engine export``: checkpoint and configuration to an ONNX graph."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..files.output_files import check_outputs
from ..files.recognize import CHECKPOINT, CONFIG, PICKLE, expect
from ..wording import megabytes, printable
from .arguments import input_size
from .progress import Stages

NAME = "export"
HELP = "detectron2 checkpoint and YAML to an ONNX graph (needs densepose-engine[export])"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--config", required=True, type=Path, metavar="YAML", help="detectron2 configuration")
    parser.add_argument(
        "--weights", required=True, type=Path, metavar="FILE", help="checkpoint, .pth or detectron2's .pkl"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="ONNX", help="default: beside the weights, with suffix .onnx"
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--input-size",
        type=input_size,
        metavar="HxW",
        help="height and width of the network's input, multiples of 32; pictures are scaled to fit and padded",
    )
    size.add_argument(
        "--dynamic",
        action="store_true",
        help="any size: pictures are resized by their shorter side, as detectron2 does",
    )
    parser.add_argument(
        "--ops",
        choices=("custom", "standard"),
        default="custom",
        help="operators of the graph: custom ones, which build makes the fastest engines of, or plain ONNX only, for "
        "other runtimes (default: custom)",
    )
    parser.add_argument(
        "--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the configuration, as in detectron2"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(arguments: Namespace) -> int:
    if len(arguments.opts) % 2:
        raise ValueError(f"--opts takes pairs of KEY and VALUE, {arguments.opts[-1]} has no partner")
    output: Path = arguments.output or arguments.weights.with_suffix(".onnx")
    check_outputs([output], arguments.force)
    expect(arguments.config, CONFIG)
    expect(arguments.weights, CHECKPOINT, PICKLE)
    from ..export import export_checkpoint

    with Stages(enabled=not arguments.quiet) as stages:
        description = export_checkpoint(
            arguments.config,
            arguments.weights,
            output,
            arguments.input_size,
            arguments.opts,
            ops=arguments.ops,
            on_stage=stages,
        )
    if not arguments.quiet:
        size = "x".join(map(str, description["input"]["size"] or ["dynamic"]))
        print(
            f"{printable(output)}: {description['architecture']}, input {size}, "
            f"{description['provenance']['parameters']:,} parameters, {megabytes(output.stat().st_size)}"
        )
    return 0
