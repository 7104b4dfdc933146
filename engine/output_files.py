"""Files that appear whole or not at all, and none that takes another's place unasked."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAMED = 5  # how many files a message names before it counts the rest


class OutputError(OSError):
    """An output file is in the way, or cannot be written."""


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path``, with its suffix, to be written to; moves it to ``path`` if the block succeeds.

    Folders are made as needed. Raises ``OutputError`` where the system refuses.
    """
    # Not a longer name than the target's would have to be: names have a limit.
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_outputs(paths: Iterable[Path], force: bool) -> None:
    """Refuse before the work what would fail after it. Raises ``OutputError`` with the names of files in the way."""
    taken = []
    for path in paths:
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
        if os.path.lexists(path):
            taken.append(path)
        existing = next(parent for parent in (path.parent, *path.parent.parents) if parent.exists())
        if not existing.is_dir():
            raise OutputError(f"cannot write {path}: {existing} is not a folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write {path}: no permission to write into {existing}")
    if taken and not force:
        names = ", ".join(map(str, taken[:_NAMED]))
        rest = f" and {len(taken) - _NAMED} more" if len(taken) > _NAMED else ""
        exist = "exists" if len(taken) == 1 else "exist"
        raise OutputError(f"{names}{rest} {exist} already; --force overwrites, -o names another place")
