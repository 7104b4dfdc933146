"""Commands in processes that lack a package: ``python blocked_imports.py < cases.json`` runs each in a fork of its own.

A case is [argv, packages with commas, how]; "missing" and "broken" are two ways in which an import fails. Printed is a
JSON list of [exit code, stderr]. The forks begin where nothing but the command line is imported, so that each imports
what it needs; but torch, which takes seconds, is imported once for all that are to have it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from densepose_engine.cli import main


class Blocker(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages before anybody else does, and lets their import fail."""

    def __init__(self, packages: str, how: str) -> None:
        self._packages, self._how = packages.split(","), how

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] not in self._packages:
            return None
        if self._how == "missing":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        """As a package that was built for another release of what it needs."""
        exec("raise ImportError('libfoo.so.1: cannot open shared object file')", module.__dict__)


def run(argv: Sequence[str], packages: str, how: str, said: Path) -> int:
    """In a fork: the exit code; what the command says on stderr goes to a file."""
    os.chdir(tempfile.mkdtemp(dir=said.parent))
    sys.meta_path.insert(0, Blocker(packages, how))
    with said.open("w", encoding="utf-8") as stream:  # noqa: SIM117 (the order matters)
        with contextlib.redirect_stderr(stream), contextlib.redirect_stdout(io.StringIO()):
            try:
                return main(argv)
            except BaseException:  # the fork must not go on with what its parent does
                traceback.print_exc()
                return 99


def fork(argv: Sequence[str], packages: str, how: str, said: Path) -> tuple[int, str]:
    """The same, and what was said."""
    child = os.fork()
    if child == 0:
        os._exit(run(argv, packages, how, said))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text(encoding="utf-8")


def run_all(cases: Sequence[tuple[Sequence[str], str, str]], folder: Path) -> list[tuple[int, str]]:
    outcomes = {}
    for index in sorted(range(len(cases)), key=lambda index: cases[index][1] != "torch"):
        argv, packages, how = cases[index]
        if packages != "torch" and any(other == "torch" for _, other, _ in cases):
            importlib.import_module("torch")
        outcomes[index] = fork(argv, packages, how, folder / f"{index}.txt")
    return [outcomes[index] for index in range(len(cases))]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run_all(json.load(sys.stdin), Path(folder))))
