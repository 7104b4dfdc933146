"""The engine file: what was written comes back, and whatever is wrong with a file is said, never crashed on."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from descriptions import description

from densepose_engine import EngineFileError
from densepose_engine.model.engine_file import EngineFile, read_engine_file, read_manifest, write_engine_file

ENGINE = EngineFile(
    backend="openvino",
    precision="fp32",
    model=description(),
    runtime={"openvino": "1.2.3"},
    payload={"model.xml": b"<net/>" * 50, "model.bin": bytes(range(256)) * 40},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "test.engine"
    write_engine_file(path, ENGINE)
    return path


def test_round_trip(path: Path) -> None:
    assert read_engine_file(path) == ENGINE
    assert read_manifest(path).payload["model.bin"].size == 256 * 40


def test_a_payload_is_hashed_once_when_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    sha256 = hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda data: hashed.append(len(data)) or sha256(data))
    engine = read_engine_file(path)
    assert engine.members == ENGINE.members and engine.manifest == ENGINE.manifest
    assert sorted(hashed) == sorted(len(data) for data in ENGINE.payload.values())
    other = replace(engine, payload={**engine.payload, "model.bin": b"other"})
    assert other.members["model.bin"].sha256 == sha256(b"other").hexdigest()


def test_the_same_engine_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_engine_file(tmp_path / "again.engine", ENGINE)
    assert (tmp_path / "again.engine").read_bytes() == path.read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_other(path: Path) -> None:
    before = path.read_bytes()
    bad = replace(ENGINE, runtime={"not": {"json", "able"}})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        write_engine_file(path, bad)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_every_flipped_byte_is_noticed_or_harmless(path: Path) -> None:
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    # Everything around the payload, and a sample of it.
    places = sorted({*range(900), *range(len(whole) - 400, len(whole)), *rng.integers(0, len(whole), 300).tolist()})
    noticed = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 0x41
        path.write_bytes(flipped)
        try:
            assert read_engine_file(path) == ENGINE, f"byte {place} changed the engine silently"
        except EngineFileError as error:
            assert path.name in str(error)
            noticed += 1
    assert noticed > 0.8 * len(places)


def test_every_truncation_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for length in [*range(0, 200, 7), *range(200, len(whole), 131), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(EngineFileError, match=r"test\.engine"):
            read_engine_file(path)


def rewrite_manifest(path: Path, **changes: object) -> None:
    manifest = {**read_manifest(path).to_json(), **changes}
    payload = read_engine_file(path).payload
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, data in payload.items():
            archive.writestr(name, data)


def test_another_format_version_is_named(path: Path) -> None:
    rewrite_manifest(path, format_version=99)
    with pytest.raises(EngineFileError, match=r"version 99.*build it again"):
        read_engine_file(path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "else"}, "not an engine file"),
        ({"backend": 3}, "backend"),
        ({"payload": []}, "payload"),
        ({"payload": {"model.xml": {"size": "300", "sha256": ""}}}, r"model\.xml"),
        ({"payload": {"gone.bin": {"size": 1, "sha256": "0" * 64}}}, r"gone\.bin"),
        ({"payload": {"model.xml": {"size": 10**400, "sha256": "0" * 64}}}, r"payload\.model\.xml\.size"),
        ({"runtime": {"openvino": 3}}, r"runtime\.openvino"),
        ({"model": []}, "model is"),
        ({"payload": {"model.xml": {"size": 300, "sha256": "0" * 64}}}, "hash"),
    ],
)
def test_a_manifest_that_lies_is_refused(path: Path, changes: dict[str, object], match: str) -> None:
    rewrite_manifest(path, **changes)
    with pytest.raises(EngineFileError, match=match):
        read_engine_file(path)


@pytest.mark.parametrize("where", [20, 24])  # of the list of members: bytes in the file, bytes in memory
def test_a_member_that_is_said_to_be_larger_than_the_file_is_refused(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"model.bin"))
    data[at + where : at + where + 4] = (0xFF00_0000).to_bytes(4, "little")
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(EngineFileError, match=r"model\.bin is not stored as an engine's members are"):
            read_engine_file(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_engine_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.engine"
    text.write_text("hello")
    with pytest.raises(EngineFileError, match="not an engine file"):
        read_engine_file(text)
    text.write_bytes(b"")
    with pytest.raises(EngineFileError, match="empty"):
        read_engine_file(text)
    with pytest.raises(EngineFileError, match="folder"):
        read_engine_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_engine_file(tmp_path / "none.engine")
    with zipfile.ZipFile(text, "w") as archive:
        archive.writestr("readme.txt", "a zip")
    with pytest.raises(EngineFileError, match=r"manifest\.json"):
        read_engine_file(text)


@pytest.mark.parametrize(("name", "size"), [("model.xml", 65 << 20), ("manifest.json", 5 << 20)])
def test_what_inflates_beyond_its_limit_is_refused_before_it_is_inflated(path: Path, name: str, size: int) -> None:
    manifest = json.dumps(read_manifest(path).to_json())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if name != "manifest.json":
            archive.writestr("manifest.json", manifest)
        with archive.open(name, "w") as stream:
            for _ in range(size >> 20):
                stream.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(EngineFileError, match="not stored"):
        read_engine_file(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_text_is_compressed(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        methods = {info.filename: info.compress_type for info in archive.infolist()}
    assert methods.pop("manifest.json") == methods.pop("model.xml") == zipfile.ZIP_DEFLATED
    assert set(methods.values()) == {zipfile.ZIP_STORED}


def archive_of(path: Path, manifest: dict[str, Any], members: dict[str, int]) -> None:
    """Members of zeros, compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, size in members.items():
            with archive.open(name, "w") as stream:
                for _ in range(size >> 20):
                    stream.write(bytes(1 << 20))


@pytest.mark.parametrize("backend", ["openvino", "abacus"])
def test_members_that_no_backend_knows_are_not_read(path: Path, backend: str) -> None:
    """A file of some kilobytes whose members would be gigabytes."""
    members = {f"{index}.xml": 20 << 20 for index in range(12)}
    entries = {name: {"size": size, "sha256": "0" * 64} for name, size in members.items()}
    archive_of(path, {**read_manifest(path).to_json(), "backend": backend, "payload": entries}, members)
    tracemalloc.start()
    if backend == "openvino":
        with pytest.raises(EngineFileError, match=r"a member 0\.xml, the openvino backend has model\.xml, model\.bin"):
            read_engine_file(path)
    else:  # whoever runs it says that there is no such backend
        assert read_engine_file(path).payload == {}
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_text_has_one_limit_for_all_members(path: Path) -> None:
    members = {"model.xml": 40 << 20, "model.bin": 40 << 20}
    entries = {k: {"size": v, "sha256": hashlib.sha256(bytes(v)).hexdigest()} for k, v in members.items()}
    archive_of(path, {**read_manifest(path).to_json(), "payload": entries}, members)
    with pytest.raises(EngineFileError, match=r"model\.bin is not stored"):
        read_engine_file(path)


@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_a_long_list_of_members_is_refused_before_it_is_read(path: Path, comment: bytes) -> None:
    manifest = json.dumps(read_manifest(path).to_json())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", manifest)
        for index in range(3000):
            archive.writestr(f"{index:060}", b"")
        archive.comment = comment
    with pytest.raises(EngineFileError, match="list of members has"):
        read_manifest(path)


def test_a_zip64_directory_is_measured_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)  # as if 65,535 members were reached
    manifest = json.dumps(read_manifest(path).to_json())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", manifest)
        for index in range(3000):
            archive.writestr(f"{index:060}", b"")
    assert b"PK\x06\x06" in path.read_bytes()
    with pytest.raises(EngineFileError, match="list of members has"):
        read_manifest(path)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.engine")
    for path in (tmp_path / "pipe.engine", Path("/dev/zero")):
        with pytest.raises(EngineFileError, match="no regular file"):
            read_engine_file(path)
