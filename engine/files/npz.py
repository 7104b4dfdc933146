"""``.npz`` files of plain arrays: written whole or not at all, and read with distrust.

``numpy.load`` allocates what a file declares; a file of a kilobyte can declare a terabyte. Here a declared size is
believed only if the file's own bytes could hold it and all of them together stay in a bound (docs/limits.md), and
nothing is ever unpickled.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from .output_files import replacement
from .reading import NotRegularError, check_zip_directory, open_regular

_DEFLATE_RATIO = 1032  # deflate compresses no better
# Maps of people compress to a fourth or so, empty ones to a thousandth.
_LEAST_LIMIT, _MOST_RATIO = 256 << 20, 64
_CHUNK = 16 << 20
_DIRECTORY_LIMIT = 4 << 20  # of the zip's list of members: some 40,000
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write ``arrays`` compressed to exactly ``path`` (no suffix is added), replacing what was there in one step."""
    with replacement(Path(path)) as temporary, temporary.open("xb") as stream:
        np.savez_compressed(stream, **arrays)


class NpzReader:
    """The arrays of an ``.npz`` file, one at a time; a context manager.

    Raises:
        OSError: the file is missing, or may not be read.
        ValueError: it is damaged in any way; the message says how, for "FILE is not readable: ..." to be put before it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._stream: BinaryIO = open_regular(path)
        except NotRegularError as error:
            raise ValueError(str(error)) from error
        try:
            check_zip_directory(self._stream, _DIRECTORY_LIMIT)
            self._archive = zipfile.ZipFile(self._stream)
            members = self._archive.infolist()
        except Exception as error:  # zipfile does not say what it raises; struct.error and OverflowError were seen
            self._stream.close()
            raise ValueError(f"it is no zip file, or truncated ({error!s:.200})") from error
        # Members that share their bytes could together declare far more than the ratio allows.
        size = os.fstat(self._stream.fileno()).st_size
        if sum(info.compress_size for info in members) > size:
            self._stream.close()
            raise ValueError("its members claim more bytes than the file has")
        most = max(_LEAST_LIMIT, _MOST_RATIO * size)
        if (total := sum(info.file_size for info in members)) > most:
            self._stream.close()
            raise ValueError(f"its arrays have {total} bytes together, at most {most} are read of such a file")
        self._members = {info.filename: info for info in members}

    def __enter__(self) -> NpzReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self._members

    def read(self, name: str, kind: str, shape: tuple[int | None, ...] | None) -> np.ndarray:
        """The array ``name``, in the machine's byte order, as an array that owns its memory; no second copy is made.

        Args:
            kind: what ``dtype.kind`` must be: one of "f", "u", "i", "U", or several of these letters.
            shape: what its shape must be; None stands for any length, or for any shape.
        """
        try:
            info = self._members[f"{name}.npy"]
        except KeyError:
            raise ValueError(f"it has no array {name:.80}") from None
        try:
            with self._archive.open(info) as stream:
                found, fortran, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
                header = stream.tell()
                if dtype.kind not in kind or dtype.hasobject or dtype.itemsize == 0:
                    raise ValueError(f"an array of dtype {dtype} is not what belongs there")
                if shape is not None and not _fits(found, shape):
                    wanted = ", ".join("any" if length is None else str(length) for length in shape)
                    raise ValueError(f"its shape is {found}, it must be ({wanted})")
                size = math.prod(found) * dtype.itemsize
                if size != info.file_size - header or info.file_size > info.compress_size * _DEFLATE_RATIO + 1024:
                    raise ValueError("its declared size is not what the file holds")
                array = np.empty(found, dtype, "F" if fortran else "C")
                filled = _fill(array.reshape(-1, order="A").view(np.uint8), stream)
                if not filled or stream.read(1):  # the second read has zipfile verify the checksum
                    raise ValueError("it is truncated")
        except Exception as error:  # of zipfile, zlib and numpy's header parser, on damaged members
            raise ValueError(f"its array {name:.80} cannot be read: {error!s:.200}") from error
        return array.astype(dtype.newbyteorder("="), order="C", copy=False)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(b in (None, a) for a, b in zip(shape, wanted, strict=True))


def _fill(memory: np.ndarray, stream: IO[bytes]) -> bool:
    """Read what fits into ``memory``, uint8 ``[n]``; False if there is less."""
    at = 0
    while at < len(memory) and (chunk := stream.read(min(_CHUNK, len(memory) - at))):
        memory[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    return at == len(memory)
