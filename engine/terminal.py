"""Text for a person's terminal."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TextIO


def printable(text: object) -> str:
    """``str(text)`` with everything escaped that is no visible character.

    File names and manifests come from anywhere; none of them may move the cursor or break a line.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in str(text)
    )


def say(text: str) -> None:
    """One remark on stderr, so that stdout holds results alone."""
    write_remark(sys.stderr, f"densepose-engine: {text}\n")


def write_remark(stream: TextIO | None, text: str) -> None:
    """Write ``text`` to stderr as far as that is possible: work goes on where nobody can be told of it."""
    if stream is not None:  # it is None where the shell closed it
        with suppress(OSError):
            stream.write(text)
            stream.flush()


def megabytes(size: float) -> str:
    """A file size for people."""
    return f"{size / 1e6:.1f} MB"
