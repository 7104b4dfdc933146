"""Whether a video file is shorter than it says itself: a broken download, a full memory card, a lost battery.

Demuxers read such a file as far as it goes and report no error. What is compared here is what the containers state of
their own bytes; how many frames there should have been is asked later, of times.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_MPEG_TS_PACKET = 188
_MAX_BOXES = 1_000_000  # a fragmented recording of a day has less
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEADER_READ = 1 << 16
_EBML_UNKNOWN = {(1 << 7 * length) - 1 for length in range(1, 9)}


def missing_bytes(path: Path) -> int:
    """How many bytes ``path`` lacks by its own account; 0 where it is whole, or its container says nothing."""
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                return 0
            head = stream.read(16)
            return max(_extent(head)(stream, status.st_size) - status.st_size, 0)
    except (OSError, OverflowError):
        return 0  # whoever opens it next says what is wrong


def _extent(head: bytes) -> Callable[[BinaryIO, int], int]:
    """What tells the length that a file which begins like this should have."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"):
        return _iso_extent
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_extent
    if head[:4] == b"RIFF":
        return _riff_extent
    if head == _ASF_HEADER:
        return _asf_extent
    if head[:1] == b"\x47":
        return _mpeg_ts_extent
    return lambda stream, size: size


def _iso_extent(stream: BinaryIO, size: int) -> int:
    """MP4, MOV: boxes one after the other, each with its length before it."""
    at = 0
    for _ in range(_MAX_BOXES):
        stream.seek(at)
        header = stream.read(16)
        if len(header) < 8:
            break
        length, start = int.from_bytes(header[:4], "big"), 8
        if length == 1 and len(header) == 16:
            length, start = int.from_bytes(header[8:16], "big"), 16
        if length == 0:  # up to the end, wherever that is
            return size
        # After the last box some writers leave bytes that are none.
        if length < start or not header[4:8].replace(b"\xa9", b"c").replace(b" ", b"c").isalnum():
            break
        at += length
        if at >= size:
            return at
    return size


def _matroska_extent(stream: BinaryIO, size: int) -> int:
    """Matroska, WebM: an EBML header, then one segment with its length, or with a length that says "unknown"."""
    at = 0
    for _ in range(2):
        stream.seek(at)
        identity = _ebml_number(stream, keep_marker=True)
        length = _ebml_number(stream, keep_marker=False)
        if identity is None or length is None:
            return size
        if length in _EBML_UNKNOWN:
            return size
        at = stream.tell() + length
        if identity == 0x18538067:
            return at
    return size


def _ebml_number(stream: BinaryIO, keep_marker: bool) -> int | None:
    first = stream.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = stream.read(length - 1)
    if len(rest) != length - 1:
        return None
    value = int.from_bytes(first + rest, "big")
    return value if keep_marker else value & ((1 << 7 * length) - 1)


def _riff_extent(stream: BinaryIO, size: int) -> int:
    """AVI: chunks called RIFF; there is a further one for every gigabyte."""
    at = 0
    while at + 8 <= size:
        stream.seek(at)
        header = stream.read(8)
        length = int.from_bytes(header[4:8], "little")
        if header[:4] != b"RIFF" or not length:  # 0 was written by a recorder that was not closed
            break
        at += 8 + length + length % 2
        if at > size + length % 2:
            return at
    return size


def _asf_extent(stream: BinaryIO, size: int) -> int:
    """WMV: an object in the header states the file's length, unless it was broadcast."""
    stream.seek(0)
    header = stream.read(_ASF_HEADER_READ)
    at = header.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(header) < at + 92:
        return size
    broadcast = header[at + 88] & 1
    return size if broadcast else int.from_bytes(header[at + 40 : at + 48], "little")


def _mpeg_ts_extent(stream: BinaryIO, size: int) -> int:
    """MPEG-TS states no length, but it is a number of whole packets."""
    stream.seek(_MPEG_TS_PACKET)
    if stream.read(1) != b"\x47":
        return size
    return size + -size % _MPEG_TS_PACKET
