"""Text for a person's terminal."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TextIO


def say(text: str) -> None:
    """One remark on stderr, so that stdout holds results alone."""
    write_remark(sys.stderr, f"densepose-engine: {text}\n")


def write_remark(stream: TextIO | None, text: str) -> None:
    """Write ``text`` to stderr as far as that is possible: work goes on where nobody can be told of it."""
    if stream is not None:  # it is None where the shell closed it
        with suppress(OSError):
            stream.write(text)
            stream.flush()
