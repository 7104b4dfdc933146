"""Reading what somebody else wrote: regular files alone, sizes before memory, and JSON that stays in its bounds."""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO

#: How many lists and objects JSON of ours may hold: each takes up to 30 times the bytes that it is written with.
MOST_JSON_CONTAINERS = 200_000
_END_OF_ZIP, _END_OF_ZIP64, _ZIP64_LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_MOST_ZIP_COMMENT = 1 << 16


class NotRegularError(OSError):
    """A path leads to a device, a pipe or a socket, which may never end."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(f"{os.fspath(path)} is no regular file, but a device, a pipe or a socket")


class TooLargeError(ValueError):
    """A file has more bytes than its kind may have; the message is a predicate such as "has 5 bytes, ..."."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, open for reading.

    Raises:
        NotRegularError: it is a device, a pipe or a socket; nothing was read, and nobody waited for it.
        OSError: it is missing, a folder (``IsADirectoryError``), or may not be read.
    """
    stream: BinaryIO = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise NotRegularError(path)
    return stream


def _open_at_once(path: str, flags: int) -> int:
    # Opening a pipe waits for somebody who writes, if it is not told otherwise.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """All bytes of a regular file.

    Raises:
        TooLargeError: it has more than ``most``.
        OSError: as ``open_regular``.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise TooLargeError(f"has {size} bytes, at most {most} are read")
        return stream.read(size)


def parse_json(raw: bytes | str, most: int = MOST_JSON_CONTAINERS, *, constants: bool = False) -> Any:
    """What a JSON text holds, of bounded nesting; NaN and Infinity, which are no JSON, only with ``constants``.

    Raises:
        ValueError: it is no JSON, nests too deep, holds NaN or Infinity, a number of thousands of digits, or more lists
            and objects than ``most``.
    """
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if data.count(b"[") + data.count(b"{") > most:
        raise ValueError(f"it holds more than {most} lists and objects")
    try:
        return json.loads(data, parse_constant=None if constants else _refuse_constant)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def check_zip_directory(stream: BinaryIO, most: int) -> None:
    """Refuse a zip file whose list of members is longer than ``most`` bytes, before ``zipfile`` makes objects of it.

    Each of them takes some ten times its bytes in the file. What is no zip file is left to ``zipfile`` to refuse.

    Raises:
        ValueError: the list is longer.
    """
    size = stream.seek(0, os.SEEK_END)
    start = max(0, size - _MOST_ZIP_COMMENT - 22)
    stream.seek(start)
    tail = stream.read()
    at = tail.rfind(_END_OF_ZIP)
    if at < 0 or len(tail) - at < 22:
        stream.seek(0)
        return
    (length,) = struct.unpack_from("<L", tail, at + 12)
    locator = start + at - 20
    if locator >= 56:
        stream.seek(locator - 56)
        record = stream.read(76)
        if record[56:60] == _ZIP64_LOCATOR and record[:4] == _END_OF_ZIP64:
            (length,) = struct.unpack_from("<Q", record, 40)
    stream.seek(0)
    if length > most:
        raise ValueError(f"its list of members has {length} bytes, at most {most} are read")


def expand_user(path: str | os.PathLike[str]) -> Path:
    """``path`` with a leading ``~`` or ``~name`` replaced by that user's home folder.

    Raises:
        FileNotFoundError: there is no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FileNotFoundError(f"{os.fspath(path)}: there is no such user, or no home folder") from None
