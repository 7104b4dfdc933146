"""What the suite counts, the inputs that failed, and the table that it ends with."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("ROBUST_BUILD", ROOT / "build" / "robust"))
FAILURES = BUILD / "failures"
#: What can go wrong with an input, as the table's columns call it.
KINDS = ("crashes", "hangs", "wrong exception types", "bytes lost")
_KEPT = 3  # inputs of one kind that fail in the same place; more of them teach nothing


@dataclass
class Counts:
    """Of one part: inputs tried, what failed of them, and why a part or a piece of it was left out.

    ``wrong``: exceptions and exit codes that are not documented; ``lost``: bytes of finished files that are gone or
    half written, of results that differ from the right ones, and of memory beyond its
    bound.
    """

    part: str
    tried: int = 0
    crashes: int = 0
    hangs: int = 0
    wrong: int = 0
    lost: int = 0
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0
    processor_seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return any((self.crashes, self.hangs, self.wrong, self.lost))

    def fail(self, kind: str, text: str, size: int = 1) -> None:
        """Count a failure of one of ``KINDS``; ``size`` of "bytes lost"."""
        if kind == "bytes lost":
            self.lost += max(size, 1)
        else:
            attribute = {"crashes": "crashes", "hangs": "hangs", "wrong exception types": "wrong"}[kind]
            setattr(self, attribute, getattr(self, attribute) + 1)
        self.failures.append(f"{kind}: {text}")
        if self.failures.count(self.failures[-1]) == 1:
            print(f"  {self.part}: {self.failures[-1]}", file=sys.stderr, flush=True)

    def add(self, other: Counts) -> None:
        self.tried += other.tried
        self.crashes += other.crashes
        self.hangs += other.hangs
        self.wrong += other.wrong
        self.lost += other.lost
        self.failures += other.failures
        self.skipped += [text for text in other.skipped if text not in self.skipped]


def table(parts: Iterable[Counts]) -> str:
    """One line per part and a total."""
    parts = list(parts)
    total = Counts("all")
    for part in parts:
        total.add(part)
        total.seconds += part.seconds
        total.processor_seconds += part.processor_seconds
    head = ("part", "inputs", "crashes", "hangs", "wrong exception types", "bytes lost", "minutes", "of processors")
    rows: list[tuple[str, ...]] = [head]
    rows += [
        (
            p.part,
            *(f"{n:,}" for n in (p.tried, p.crashes, p.hangs, p.wrong, p.lost)),
            *(f"{s / 60:.1f}" for s in (p.seconds, p.processor_seconds)),
        )
        for p in (*parts, total)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines += [f"left out: {part.part}: {text}" for part in parts for text in part.skipped]
    return "\n".join(lines)


def keep(target: str, source: Path, kind: str, place: str, text: str, verb: str = "replay") -> str:
    """Copy a failing input to the folder of failures, with what happened and how to do it again; the command.

    ``place``: what two failures of the same cause have in common; ``verb``: of this suite, that does it again.
    """
    folder = FAILURES / target
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{kind.split()[0]}-{hashlib.sha256(place.encode(errors='replace')).hexdigest()[:8]}"
    number = len(list(folder.glob(f"{stem}-*.txt")))
    if number >= _KEPT:
        return replay_command(verb, target, folder / f"{stem}-0{source.suffix}")
    copy = folder / f"{stem}-{number}{source.suffix}"
    shutil.copyfile(source, copy)
    command = replay_command(verb, target, copy)
    copy.with_suffix(".txt").write_text(f"{kind}: {place}\n{command}\n\n{text}\n", encoding="utf-8", errors="replace")
    return command


def replay_command(verb: str, target: str, path: Path) -> str:
    """A line for the shell, to be run in the repository's root."""
    return f"PYTHONPATH=tests {_relative(Path(sys.executable))} -m robust {verb} {target} {_relative(path)}"


def _relative(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def environment(**more: str) -> Mapping[str, str]:
    """For subprocesses: this suite importable, no cache of the user, and little address space per thread.

    Nor does Python keep what it compiles: on a disk that is full it would keep half of it, and believe that later.
    """
    cache = BUILD / "cache"
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
        "XDG_CACHE_HOME": str(cache),
        "MALLOC_ARENA_MAX": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
        "DENSEPOSE_DEBUG": "0",
        **more,
    }
