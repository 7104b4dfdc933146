"""The ``.engine`` file: a zip of ``manifest.json`` and the backend's payload, members hashed.

Members are stored as they are, but text (``.xml``, ``.json``), which is compressed to a twentieth.

An engine may come from anywhere, so nothing in it is trusted: only members that its backend knows are read, sizes are
compared with the file's own, or a limit, before anything is allocated, hashes before anything is used, and no member is
ever unpickled or executed by this module. The limits are in docs/limits.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import EngineFileError
from ..files.fields import FieldError, Fields
from ..files.output_files import replacement
from ..files.reading import NotRegularError, check_zip_directory, open_regular, parse_json
from ..files.recognize import ENGINE, ZIP, mismatch
from .decoder import MEMBER as DECODER
from .description import ModelDescription

FORMAT = "densepose-engine"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
#: Which members each backend's engines have, beside what their decoders need; others are never read.
MEMBERS: Mapping[str, tuple[str, ...]] = {
    "openvino": ("model.xml", "model.bin"),
    "tensorrt": ("model.plan",),
    "tensorrt-rtx": ("model.plan",),
}
_MANIFEST_LIMIT = 4 << 20  # bytes; a real one has some kilobytes
_TEXT_LIMIT = 64 << 20  # of all compressed members together; real ones have a megabyte or two
_DIRECTORY_LIMIT = 64 << 10  # of the zip's list of members
_MOST_BYTES = 1 << 40  # that a manifest can say of a member
_DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, OSError, EOFError)


@dataclass(frozen=True)
class Member:
    """What a manifest says of a member of the payload."""

    size: int
    sha256: str

    @classmethod
    def from_json(cls, fields: Fields) -> Member:
        return cls(fields.integer("size", 0, _MOST_BYTES), fields.sha256("sha256"))

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self.sha256}


@dataclass(frozen=True)
class Manifest:
    """What an engine says of itself, all but the payload.

    ``backend``: "openvino", ...; ``precision``: "fp32", "bf16", "fp16" or "int8"; ``model``: what its graph says;
    ``runtime``: versions that the payload was built with; ``payload``: sizes and hashes by member.
    """

    backend: str
    precision: str
    model: ModelDescription
    runtime: Mapping[str, str]
    payload: Mapping[str, Member]

    @classmethod
    def from_json(cls, data: object) -> Manifest:
        """Read what ``to_json`` wrote.

        Raises:
            FieldError: a key is missing, or a value is of another type or out of range; the message names it.
        """
        fields = Fields(data)
        runtime = fields.section("runtime")
        payload = fields.sections("payload")
        members = MEMBERS.get(backend := fields.text("backend"))
        if members is not None and (unknown := sorted(set(payload) - {*members, DECODER})):
            raise FieldError(f"payload has a member {unknown[0]}, the {backend} backend has {', '.join(members)}")
        return cls(
            backend=backend,
            precision=fields.text("precision"),
            model=ModelDescription.from_json(fields.raw("model"), "model"),
            runtime={name: runtime.text(name) for name in runtime},
            payload={name: Member.from_json(entry) for name, entry in payload.items()},
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "backend": self.backend,
            "precision": self.precision,
            "model": self.model.to_json(),
            "runtime": dict(self.runtime),
            "payload": {name: member.to_json() for name, member in self.payload.items()},
        }


@dataclass(frozen=True)
class EngineFile:
    """An engine in memory: as ``Manifest``, but ``payload`` are the members' bytes."""

    backend: str
    precision: str
    model: ModelDescription
    runtime: Mapping[str, str]
    payload: Mapping[str, bytes]

    @cached_property
    def members(self) -> Mapping[str, Member]:
        """Size and hash of each of the payload's."""
        return {name: Member(len(data), hashlib.sha256(data).hexdigest()) for name, data in self.payload.items()}

    @property
    def manifest(self) -> Manifest:
        """What is written of it beside the payload."""
        return Manifest(self.backend, self.precision, self.model, self.runtime, self.members)


def write_engine_file(path: str | os.PathLike[str], engine: EngineFile) -> None:
    """Write ``engine`` to ``path``; a reader never sees half a file, and a failure leaves what was there before."""
    path = Path(path)
    manifest = json.dumps(engine.manifest.to_json(), indent=1).encode()
    with replacement(path) as temporary, zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
        _add(archive, MANIFEST, manifest)
        for name, data in engine.payload.items():
            _add(archive, name, data)


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # A fixed date: the same engine gives the same bytes.
    method = zipfile.ZIP_DEFLATED if name.endswith((".xml", ".json")) else zipfile.ZIP_STORED
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, method)


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of the engine at ``path``; payload members are not read.

    Raises ``FileNotFoundError`` where there is none, ``EngineFileError`` for what is no engine, of another format
    version, truncated or damaged, or describes no model.
    """
    with _Archive(path) as archive:
        return archive.manifest()


def read_engine_file(path: str | os.PathLike[str]) -> EngineFile:
    """Read and verify the engine at ``path``.

    Raises ``FileNotFoundError`` where there is none, ``EngineFileError`` where it is truncated, damaged (a flipped bit
    anywhere), of another format version, describes no model, or is no engine.
    """
    with _Archive(path) as archive:
        manifest = archive.manifest()
        # What an unknown backend's members are is not known; who runs engines says that there is no such backend.
        known = (*MEMBERS.get(manifest.backend, ()), DECODER)
        payload = {name: archive.member(name, entry) for name, entry in manifest.payload.items() if name in known}
    engine = EngineFile(manifest.backend, manifest.precision, manifest.model, manifest.runtime, payload)
    # They were hashed a moment ago, when they were verified.
    vars(engine)["members"] = {name: manifest.payload[name] for name in payload}
    return engine


class _Archive:
    """An engine file, open; every method raises ``EngineFileError`` whose message begins with the path."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if (sentence := mismatch(path, ENGINE, ZIP)) is not None:
            raise EngineFileError(sentence)
        try:
            self._stream = open_regular(path)
        except IsADirectoryError:
            raise EngineFileError(f"{path} is a folder, not an engine file") from None
        except NotRegularError as error:
            raise EngineFileError(f"{error}; an engine is a file") from None
        try:
            self._size = os.fstat(self._stream.fileno()).st_size
            self._archive = self._open()
        except BaseException:
            self._stream.close()
            raise
        self._text_left = _TEXT_LIMIT

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()

    def _open(self) -> zipfile.ZipFile:
        path = self._path
        magic = self._stream.read(4)
        if not magic:
            raise EngineFileError(f"{path} is empty; build the engine again")
        if magic != b"PK\x03\x04":
            raise EngineFileError(
                f"{path} is not an engine file (it is no zip archive); make one with 'densepose-engine build'"
            )
        try:
            check_zip_directory(self._stream, _DIRECTORY_LIMIT)
            return zipfile.ZipFile(self._stream)
        except _DAMAGED as error:
            raise EngineFileError(f"{path} is truncated or damaged ({error!s:.200}); build or copy it again") from error

    def manifest(self) -> Manifest:
        """Read and judged."""
        path = self._path
        raw = self._read(MANIFEST, _MANIFEST_LIMIT)
        try:
            data = parse_json(raw)
        except ValueError as error:
            raise EngineFileError(f"{path}: its manifest is not JSON ({error}); build it again") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise EngineFileError(f"{path} is a zip, but not an engine file; make one with 'densepose-engine build'")
        version = data.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise EngineFileError(
                f"{path} has format version {version!r:.80}, this package reads {FORMAT_VERSION}; "
                "build it again with this version of densepose-engine, or install the version that built it"
            )
        try:
            return Manifest.from_json(data)
        except FieldError as error:
            raise EngineFileError(f"{path}: its manifest is wrong: {error}; build it again") from error

    def member(self, name: str, entry: Member) -> bytes:
        """A member of the payload, verified."""
        data = self._read(name)
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise EngineFileError(
                f"{self._path} is damaged: member {name} does not have the hash in the manifest; build it again"
            )
        return data

    def _read(self, name: str, limit: int | None = None) -> bytes:
        path = self._path
        try:
            info = self._archive.getinfo(name)
        except KeyError:
            raise EngineFileError(
                f"{path} has no member {name}; it is not an engine, or is damaged: build it again"
            ) from None
        # Stored members cannot be larger than the file: a declared size is a lie before it is an allocation.
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        largest = self._text_left if deflated else self._size if info.compress_type == zipfile.ZIP_STORED else 0
        if info.compress_size > self._size or info.file_size > min(largest, limit or largest):
            raise EngineFileError(f"{path}: member {name} is not stored as an engine's members are; build it again")
        if deflated:
            self._text_left -= info.file_size
        try:
            return self._archive.read(info)
        except _DAMAGED as error:
            raise EngineFileError(f"{path} is damaged in {name} ({error!s:.200}); build or copy it again") from error
