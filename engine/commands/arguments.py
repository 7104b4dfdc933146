"""Types of command-line arguments: each turns text into a value or says what it should have been.

And the pictures that arguments mean, for every verb that takes some.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from ..pictures.find import Picture, search_pictures
from ..wording import printable
from .terminal import say

# Far above every network's input; a slip of the finger must not ask for terabytes.
_MAX_SIDE = 1 << 14


def add_runtime(parser: ArgumentParser) -> None:
    """``--device``, ``--threads``, ``--cache-dir`` and ``--no-cache``: where and how an engine runs."""
    runtime = parser.add_argument_group("runtime")
    runtime.add_argument("--device", help="default: CPU for openvino, cuda for tensorrt")
    runtime.add_argument("--threads", type=positive, metavar="N", help="default: the runtime decides")
    cache = runtime.add_mutually_exclusive_group()
    cache.add_argument(
        "--cache-dir", type=Path, metavar="FOLDER", help="of compiled graphs (default: the user's cache folder)"
    )
    cache.add_argument("--no-cache", action="store_true", help="compile again at every start")


def pictures_of(paths: Sequence[Path], quiet: bool, output_folder: Path | None = None) -> list[Picture]:
    """``find_pictures``, with a remark about what was left out of folders unless ``quiet``."""
    search = search_pictures(paths, output_folder)
    if not quiet and (remark := search.remark()) is not None:
        say(printable(remark))
    return search.pictures


def input_size(text: str) -> tuple[int, int]:
    """``HEIGHTxWIDTH``."""
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 320x448")
    height, width = int(match[1]), int(match[2])
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise ArgumentTypeError(f"{text!r}: sides are from 1 to {_MAX_SIDE} pixels")
    return height, width


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # true of NaN
        raise ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def non_negative(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):  # true of NaN
        raise ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def count(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0)


def positive(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1)


def _integer(text: str, least: int) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) < least:
        raise ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return int(text)
