"""``densepose-engine bench`` as a script with trtexec's spelling: ``python benchmark.py --loadEngine=demo.engine``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from densepose_engine.cli import main

_OPTION = "--loadEngine"


def arguments(argv: Sequence[str]) -> list[str]:
    """The arguments of ``bench``: its engine may also be named as trtexec names it."""
    given, engine = list(argv), []
    for index, word in enumerate(given):
        if word == _OPTION and index + 1 < len(given):
            engine = given[index + 1 : index + 2]
            del given[index : index + 2]
            break
        if word.startswith(f"{_OPTION}="):
            engine = [given.pop(index).partition("=")[2]]
            break
    return ["bench", *engine, *given]


if __name__ == "__main__":
    raise SystemExit(main(arguments(sys.argv[1:])))
