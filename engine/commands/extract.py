"""``densepose-engine extract``: the TensorRT plan in an engine, for programs that load plans by themselves."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..errors import EngineFileError
from ..files.output_files import atomic_output, check_outputs
from ..model.engine_file import read_engine_file
from ..wording import megabytes, printable

NAME = "extract"
HELP = "the plan in a TensorRT engine, for trtexec, DeepStream or Triton"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="what build --backend tensorrt wrote")
    parser.add_argument("-o", "--output", type=Path, metavar="PLAN", help="default: beside the engine, suffix .plan")
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(arguments: Namespace) -> int:
    output: Path = arguments.output or arguments.engine.with_suffix(".plan")
    if output.absolute() == arguments.engine.absolute():
        raise ValueError(f"{output} is the engine itself; -o names another file")
    plan = read_plan(arguments.engine)
    check_outputs([output], arguments.force)
    with atomic_output(output) as temporary:
        temporary.write_bytes(plan)
    if not arguments.quiet:
        plugin = Path(__file__).resolve().parent.parent / "libdensepose_tensorrt.so"
        print(f"{printable(output)}: {megabytes(len(plan))}; to try it:")
        print(f"  trtexec --loadEngine={shlex.quote(str(output))} --dynamicPlugins={shlex.quote(str(plugin))}")
    return 0


def read_plan(path: Path) -> bytes:
    """The plan in the engine at ``path``; errors as ``read_engine_file``, and EngineFileError where there is none.

    A plan is code that TensorRT executes: one of unknown origin is as dangerous as a program of unknown origin.
    """
    engine = read_engine_file(path)
    plan = engine.payload.get("model.plan")
    if plan is None:
        raise EngineFileError(
            f"{path} is an engine for {engine.backend} and holds no plan; build it with --backend tensorrt"
        )
    return plan
