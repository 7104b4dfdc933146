"""The verbs of the command line, one module each.

A module offers ``NAME``, ``HELP``, ``add_arguments(parser)`` and ``run(arguments) -> exit code``, and beside them what
the verb is made of, as functions for Python. It says what went wrong by raising, prints results on stdout and remarks
on stderr, and imports what is heavy inside its functions, because every start of the command imports all verbs. A new
verb is a new module, named in ``VERBS``.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Protocol

from . import bench, build, calibrate, doctor, evaluate, export, extract, infer, inspect, report


class Verb(Protocol):
    """What a module of this package offers."""

    @property
    def NAME(self) -> str: ...

    @property
    def HELP(self) -> str: ...

    def add_arguments(self, parser: ArgumentParser) -> None: ...

    def run(self, arguments: Namespace) -> int: ...


#: In the order in which a user needs them, which is the order in the help.
VERBS: tuple[Verb, ...] = (export, calibrate, build, infer, evaluate, report, bench, inspect, extract, doctor)
