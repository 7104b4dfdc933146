"""Which pictures calibration takes, and how a table says later which ones they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...pictures.find import Picture


def choose(pictures: Sequence[Picture], count: int, seed: int = 0) -> list[Picture]:
    """``count`` of the pictures, or all where there are fewer, in an order of their own.

    The choice depends on the pictures' names below their folder and on ``seed`` only, on every machine and with every
    version of Python; a smaller ``count`` takes the first ones of a larger, so the rest can judge what these gave.

    Raises:
        ValueError: ``count`` is less than 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    ranked = sorted(pictures, key=lambda picture: (_rank(picture, seed), str(picture.path)))
    return ranked[:count]


def _rank(picture: Picture, seed: int) -> bytes:
    name = picture.name.as_posix()
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogateescape")).digest()


def file_sha256(path: Path) -> str:
    """Of a file's content, as 64 hexadecimal digits. Raises ``OSError``."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def combined_sha256(hashes: Iterable[str]) -> str:
    """One hash over those of several files, in whatever order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()
