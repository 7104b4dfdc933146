"""``densepose-engine doctor``: what is installed, what works, what to do; one page."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..wording import printable
from .progress import Stages

if TYPE_CHECKING:
    from ..diagnosis.findings import Diagnosis

NAME = "doctor"
HELP = "what is installed here, what of it works, and what to do; exit code 1 where inference does not work"
_MARKS = {"ok": "  ", "note": "- ", "missing": "- ", "broken": "! "}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "engine", nargs="?", type=Path, metavar="ENGINE", help="also: does this one load and run here, and why not"
    )
    parser.add_argument("--json", action="store_true", help="the findings as JSON")


def run(arguments: Namespace) -> int:
    from ..diagnosis.findings import diagnose

    with Stages(enabled=not arguments.quiet) as stages:
        stages("looking at packages and runtimes")
        diagnosis = diagnose(arguments.engine)
    if arguments.json:
        print(json.dumps(diagnosis.to_dict(), indent=1))
    elif not arguments.quiet:
        for line in page(diagnosis):
            print(printable(line))
    return 0 if diagnosis.works else 1


def page(diagnosis: Diagnosis) -> Iterator[str]:
    """The findings for people, a line each; "!" before what is broken, "-" before what is missing or worth knowing."""
    section = ""
    width = max((len(one.name) for one in diagnosis.findings), default=0)
    for one in diagnosis.findings:
        if one.section != section:
            section = one.section
            yield section
        yield f"  {_MARKS[one.state]}{one.name:{width}}  {one.text}"
    yield ""
    yield "inference works here" if diagnosis.works else "inference does not work here"
    if diagnosis.to_do:
        yield "what to do"
        for line in diagnosis.to_do:
            yield f"  {line}"
