"""The ``.engine`` file: a zip of ``manifest.json`` and the backend's payload, members hashed.

Members are stored as they are, but text (``.xml``, ``.json``), which is compressed to a twentieth.

An engine may come from anywhere, so nothing in it is trusted: sizes are compared with the file's own, or a limit,
before anything is allocated, hashes before anything is used, and no member is ever unpickled or executed by this
module.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import EngineFileError
from .files.recognize import ENGINE, ZIP, mismatch

FORMAT = "densepose-engine"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 16 << 20  # bytes; a real one has some kilobytes
_TEXT_LIMIT = 256 << 20  # of a compressed member; a real one has a megabyte or two


@dataclass(frozen=True)
class EngineFile:
    """An engine in memory.

    ``backend``: "openvino", ...; ``precision``: "fp32", "bf16", "fp16" or "int8"; ``model``: what the graph says of
    itself (see ``export.graph``); ``runtime``: versions that the payload was built with; ``payload``: bytes by member.
    """

    backend: str
    precision: str
    model: dict[str, Any]
    runtime: dict[str, str]
    payload: dict[str, bytes]


def write_engine_file(path: str | os.PathLike[str], engine: EngineFile) -> None:
    """Write ``engine`` to ``path``; a reader never sees half a file, and a failure leaves what was there before."""
    path = Path(path)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backend": engine.backend,
        "precision": engine.precision,
        "model": engine.model,
        "runtime": engine.runtime,
        "payload": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in engine.payload.items()
        },
    }
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            _add(archive, MANIFEST, json.dumps(manifest, indent=1).encode())
            for name, data in engine.payload.items():
                _add(archive, name, data)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # A fixed date: the same engine gives the same bytes.
    method = zipfile.ZIP_DEFLATED if name.endswith((".xml", ".json")) else zipfile.ZIP_STORED
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, method)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of the engine at ``path``, checked; payload members are not read.

    Raises ``EngineFileError`` for what is no engine, of another format version, truncated or damaged.
    """
    with _open(path) as archive:
        return _manifest(archive, Path(path))


def read_engine_file(path: str | os.PathLike[str]) -> EngineFile:
    """Read and verify the engine at ``path``.

    Raises ``FileNotFoundError`` where there is none, ``EngineFileError`` where it is truncated, damaged (a flipped bit
    anywhere), of another format version, or not an engine.
    """
    path = Path(path)
    with _open(path) as archive:
        manifest = _manifest(archive, path)
        payload = {name: _member(archive, path, name, entry) for name, entry in manifest["payload"].items()}
    return EngineFile(
        backend=manifest["backend"],
        precision=manifest["precision"],
        model=manifest["model"],
        runtime=manifest["runtime"],
        payload=payload,
    )


def _open(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    if (sentence := mismatch(path, ENGINE, ZIP)) is not None:
        raise EngineFileError(sentence)
    path = Path(path)
    with path.open("rb") as stream:
        magic = stream.read(4)
    if not magic:
        raise EngineFileError(f"{path} is empty; build the engine again")
    if magic != b"PK\x03\x04":
        raise EngineFileError(
            f"{path} is not an engine file (it is no zip archive); make one with 'densepose-engine build'"
        )
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise EngineFileError(f"{path} is truncated or damaged ({error}); build or copy it again") from error


def _read(archive: zipfile.ZipFile, path: Path, name: str, limit: int | None = None) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise EngineFileError(
            f"{path} has no member {name}; it is not an engine, or is damaged: build it again"
        ) from None
    # Stored members cannot be larger than the file: a declared size is a lie before it is an allocation.
    largest = {zipfile.ZIP_STORED: path.stat().st_size, zipfile.ZIP_DEFLATED: _TEXT_LIMIT}.get(info.compress_type, 0)
    if info.file_size > min(largest, limit or largest):
        raise EngineFileError(f"{path}: member {name} is not stored as an engine's members are; build it again")
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise EngineFileError(f"{path} is damaged in {name} ({error}); build or copy it again") from error


def _manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    raw = _read(archive, path, MANIFEST, _MANIFEST_LIMIT)
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise EngineFileError(f"{path}: its manifest is not JSON ({error}); build it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise EngineFileError(f"{path} is a zip, but not an engine file; make one with 'densepose-engine build'")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise EngineFileError(
            f"{path} has format version {manifest.get('format_version')!r}, this package reads {FORMAT_VERSION}; "
            "build it again with this version of densepose-engine, or install the version that built it"
        )
    expected: Mapping[str, type] = {"backend": str, "precision": str, "model": dict, "runtime": dict, "payload": dict}
    for key, kind in expected.items():
        if not isinstance(manifest.get(key), kind):
            raise EngineFileError(f"{path}: its manifest has no usable '{key}'; build it again")
    for name, entry in manifest["payload"].items():
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("size"), int)
            or not isinstance(entry.get("sha256"), str)
        ):
            raise EngineFileError(f"{path}: its manifest does not describe member {name}; build it again")
    return manifest


def _member(archive: zipfile.ZipFile, path: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    data = _read(archive, path, name)
    if len(data) != entry["size"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise EngineFileError(
            f"{path} is damaged: member {name} does not have the hash in the manifest; build it again"
        )
    return data
