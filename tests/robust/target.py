"""What can be fuzzed: a target makes inputs and feeds them to the product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import ClassVar

import numpy as np

from densepose_engine import DensePoseResult

#: Exit codes that the command line documents for what a user can cause.
EXPECTED_EXITS = frozenset(range(6))


class WrongExit(Exception):
    """A verb ended with an exit code that stands for a mistake of ours."""


class WrongResult(Exception):
    """An accepted input gave another result than the right one; ``size``: bytes that differ."""

    def __init__(self, text: str, size: int = 1) -> None:
        super().__init__(text)
        self.size = size


class Target(ABC):
    """One way into the product. Made in the process that runs it, so ``__init__`` may load and compile.

    ``inputs``: how many ``make test-robust`` tries; ``allowed``: exceptions that are documented for this way in;
    ``seconds``: of processor time that one input may take; ``memory``: bytes of address space beyond what ``__init__``
    left, None: no limit, where threads of a runtime reserve more than they use.
    """

    name: ClassVar[str]
    inputs: ClassVar[int]
    allowed: ClassVar[tuple[type[Exception], ...]] = ()
    seconds: ClassVar[float] = 10.0
    memory: ClassVar[int | None] = 1 << 30

    def __init__(self, folder: Path) -> None:
        """``folder``: of this process alone, for files."""
        self.folder = folder

    @abstractmethod
    def make(self, rng: Random) -> tuple[bytes, str]:
        """An input: a file's contents and suffix."""

    @abstractmethod
    def run(self, path: Path) -> None:
        """Feed the file to the product. Raises what it raises, ``WrongExit`` or ``WrongResult``."""


def check_exit(code: int, said: str) -> None:
    """Raise ``WrongExit`` for a code that is not documented for what a user can cause."""
    if code not in EXPECTED_EXITS:
        lines = said.strip().splitlines()
        place = next((line.strip() for line in reversed(lines) if "densepose_engine" in line or "engine/" in line), "")
        raise WrongExit(f"exit code {code}: {place} {lines[-1] if lines else ''}")


def check_same(result: DensePoseResult, expected: DensePoseResult, where: str) -> None:
    """Raise ``WrongResult`` unless both results are the same, bit by bit."""
    if result == expected:
        return
    size = sum(
        int((np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8)).sum())
        if len(a) == len(b)
        else max(len(a), len(b))
        for a, b in zip(result_bytes(result), result_bytes(expected), strict=True)
    )
    raise WrongResult(f"{where}: {len(result)} people instead of {len(expected)}, {size} bytes differ", size)


def result_bytes(result: DensePoseResult) -> tuple[bytes, bytes, bytes, bytes]:
    """Boxes, scores, labels and (u, v) of all people."""
    return (
        result.boxes.tobytes(),
        result.scores.tobytes(),
        b"".join(labels.tobytes() for labels in result.labels),
        b"".join(uv.tobytes() for uv in result.uv),
    )
