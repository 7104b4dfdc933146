"""Compiled graphs kept between loads: files that say what they belong to and prove that they are whole.

A vendor's importer checks nothing: one flipped bit gives other results, a truncated file ends the process. So nothing
reaches it but bytes whose SHA-256 was compared, from a regular file of this user's in a folder that nobody else can
write to; and no file is ever seen half written, by however many processes that start together.

A file is a header (magic, format version, sizes of what follows, SHA-256 over all else), the key (JSON) and the blob.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import struct
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Of all files together; beyond it, those go whose last use is longest ago.
MOST_BYTES = 1 << 30

_MAGIC = b"densepose graph\n"
_FORMAT_VERSION = 1
_HEADER = struct.Struct("<16sIIQ")  # magic, format version, bytes of the key, bytes of the blob; SHA-256 follows
_HASH_BYTES = 32
_SUFFIX, _PART = ".graph", ".part"
# What OpenVINO's own cache, which was used before this one, called its files; and the folder that is ours alone.
_BEFORE, _OWN_FOLDER = re.compile(r"[0-9]{1,20}\.blob", re.ASCII), "densepose-engine"
_PART_SECONDS = 3600  # a part as old as this belongs to a writer that was killed


class CompiledCache:
    """A folder of compiled graphs, by key. Make one with ``open_cache``."""

    def __init__(self, path: Path, folder: int) -> None:
        """``folder``: a descriptor of the folder at ``path``, which was checked: no name is looked up elsewhere."""
        self._path = path
        self._folder = folder

    def read(self, key: Mapping[str, Any]) -> bytes | None:
        """The blob that was kept under ``key``; None if there is none that can be trusted, after a warning if so."""
        packed = _pack(key)
        name = _name(packed)
        try:
            content = self._content(name)
            return None if content is None else _blob(content, packed)
        except (OSError, ValueError) as error:
            warn(f"the compiled graph {self._path / name} is not used, the graph is compiled again: {error}")
            return None

    def write(self, key: Mapping[str, Any], blob: bytes) -> None:
        """Keep ``blob`` under ``key``. A folder that cannot be written, a full disk: then not."""
        packed = _pack(key)
        name = _name(packed)
        header = _HEADER.pack(_MAGIC, _FORMAT_VERSION, len(packed), len(blob))
        content = header + _hash(header, packed, blob) + packed + blob
        if len(content) > MOST_BYTES:
            return
        part = f"{name}.{secrets.token_hex(8)}{_PART}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(part, flags, 0o600, dir_fd=self._folder), "wb") as stream:
                stream.write(content)
            os.replace(part, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._evict()
        except OSError:
            pass
        finally:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=self._folder)

    def _content(self, name: str) -> bytes | None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._folder)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("it is no regular file")
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise ValueError("it is somebody else's, or others can write to it")
            if found.st_size > MOST_BYTES:
                raise ValueError("it is larger than all of them may be")
            content = stream.read(found.st_size)
            with contextlib.suppress(OSError):
                os.utime(descriptor)  # when it was last used
        return content

    def _evict(self) -> None:
        """Remove what is used least, until the rest is within ``MOST_BYTES``, and what killed or older writers left."""
        now, total = time.time(), 0
        for used, size, name in sorted(self._entries(), reverse=True):
            if name.endswith(_PART):
                gone = now - used > _PART_SECONDS
            elif not name.endswith(_SUFFIX):
                gone = True
            else:
                total += size
                gone = total > MOST_BYTES
            if gone:
                with contextlib.suppress(OSError):  # another process was faster
                    os.unlink(name, dir_fd=self._folder)

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        own = self._path.name == _OWN_FOLDER  # elsewhere, another program that uses OpenVINO may keep its files, too
        for name in os.listdir(self._folder):  # noqa: PTH208 (by its descriptor)
            if name.endswith((_SUFFIX, _PART)) or (own and _BEFORE.fullmatch(name)):
                with contextlib.suppress(OSError):
                    found = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
                    yield found.st_mtime, found.st_size, name


@contextlib.contextmanager
def open_cache(path: Path | None) -> Iterator[CompiledCache | None]:
    """The cache in the folder at ``path``, which is made if it is missing; None where there can be none.

    Whether it cannot be made is of no interest to anybody; whether it is not the user's own is, and gives a warning.
    """
    folder = _open_folder(path) if path is not None else None
    if path is None or folder is None:
        yield None
        return
    try:
        yield CompiledCache(path, folder)
    finally:
        os.close(folder)


def _open_folder(path: Path) -> int | None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    found = os.fstat(folder)
    if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        return folder
    os.close(folder)
    whose = "others can write to it" if found.st_uid == os.geteuid() else "it belongs to another user"
    way_out = f"chmod go-w {path}" if found.st_uid == os.geteuid() else "choose another with cache_dir"
    warn(f"the cache folder {path} is not used, because {whose}: {way_out}")
    return None


def warn(sentence: str) -> None:
    """As a RuntimeWarning of this package, which the command line shows."""
    warnings.warn(sentence, RuntimeWarning, stacklevel=2)


def _pack(key: Mapping[str, Any]) -> bytes:
    return json.dumps(key, sort_keys=True).encode()


def _name(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest() + _SUFFIX


def _hash(header: bytes, packed: bytes, blob: bytes) -> bytes:
    digest = hashlib.sha256(header)
    digest.update(packed)
    digest.update(blob)
    return digest.digest()


def _blob(content: bytes, packed: bytes) -> bytes:
    """ValueError if ``content`` is damaged, or belongs to another key."""
    start = _HEADER.size + _HASH_BYTES
    if len(content) < start:
        raise ValueError("it is truncated")
    magic, version, key_bytes, blob_bytes = _HEADER.unpack_from(content)
    if magic != _MAGIC or version != _FORMAT_VERSION:
        raise ValueError("it is no compiled graph of this version")
    if len(content) != start + key_bytes + blob_bytes:
        raise ValueError("it is truncated or damaged")
    kept, blob = content[start : start + key_bytes], content[start + key_bytes :]
    if _hash(content[: _HEADER.size], kept, blob) != content[_HEADER.size : start]:
        raise ValueError("it is damaged")
    if kept != packed:
        raise ValueError("it belongs to another engine, or another machine")
    return blob
