"""Runs the parts and ends with the table; exits with 1 where anything but "inputs" is not 0.

PYTHONPATH=tests python -m robust            all parts, as ``make test-robust``
PYTHONPATH=tests python -m robust --long     without limits, and ThreadSanitizer
PYTHONPATH=tests python -m robust --only fuzzing,kills --scale 0.1
PYTHONPATH=tests python -m robust --only fuzzing --targets config,picture
PYTHONPATH=tests python -m robust replay TARGET FILE
"""

from __future__ import annotations

import argparse
import importlib
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from . import fuzzing, material
from .counts import BUILD, FAILURES, Counts, table
from .targets import NAMES

#: Module and function of every part: called with how much to do, compared with ``make test-robust``, and whether
#: it is the long run.
PARTS = {
    "fuzzing": ("fuzzing", "part"),
    "sanitizers": ("sanitizers", "part"),
    "kills": ("kills", "part"),
    "disks": ("disks", "part"),
    "cache": ("cache", "part"),
    "processes": ("processes", "part"),
    "threads": ("threads", "part"),
    "endurance": ("endurance", "part"),
}
_LONG = 20.0  # times the inputs of the short run


def main(argv: Sequence[str]) -> int:
    if argv and argv[0] == "replay":
        name, path = argv[1:]
        material.make()
        return fuzzing.replay(name, Path(path))
    if argv and argv[0] == "replay-asan":
        from . import sanitizers

        return sanitizers.replay(argv[1:])
    arguments = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: processes are ended
    fuzzing.CHOSEN[:] = arguments.targets
    scale = arguments.scale * (_LONG if arguments.long else 1.0)
    for folder in (FAILURES, material.FOLDER, BUILD / "cache"):
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    material.make()
    finished: list[Counts] = []
    try:
        for name in arguments.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            begin, used = time.monotonic(), _processor_seconds()
            try:
                counts = _part(name)(scale, arguments.long)
            except Exception:  # the others are run all the same
                traceback.print_exc()
                counts = Counts(name)
                counts.fail("crashes", "the part itself did not end; the lines above say where")
            counts.seconds = time.monotonic() - begin
            counts.processor_seconds = _processor_seconds() - used
            finished.append(counts)
    finally:  # what was counted before an interruption is printed
        print(table(finished))
    if any(part.failed for part in finished):
        print(f"failing inputs, with how to run each again, are in {FAILURES}")
        return 1
    return 0


def _processor_seconds() -> float:
    """Of all processes that were started and have ended: on a busy machine, what tells how much there was to do."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _part(name: str) -> Callable[[float, bool], Counts]:
    module, function = PARTS[name]
    part: Callable[[float, bool], Counts] = getattr(importlib.import_module(f".{module}", __package__), function)
    return part


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    def names(known: Sequence[str]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            chosen = text.split(",")
            if unknown := [name for name in chosen if name not in known]:
                raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
            return chosen

        return parse

    parser = argparse.ArgumentParser(prog="python -m robust", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", type=names(list(PARTS)), default=list(PARTS), metavar="PART,...")
    parser.add_argument("--targets", type=names(NAMES), default=list(NAMES), metavar="NAME,...", help="of fuzzing")
    parser.add_argument("--scale", type=float, default=1.0, help="times the inputs (default: 1)")
    parser.add_argument("--long", action="store_true", help="20 times the inputs, and ThreadSanitizer")
    parser.add_argument("--keep", action="store_true", help="engines and failures of the last run")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
