"""Compiled graphs that are kept between loads: only what is whole, and ours, is ever used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from descriptions import description

from densepose_engine import DensePoseResult, Engine
from densepose_engine.backends.openvino import compile as openvino_compile
from densepose_engine.backends.openvino import compiled_cache
from densepose_engine.backends.openvino.compiled_cache import CompiledCache, open_cache
from densepose_engine.model.engine_file import EngineFile

KEY = {"graph": "a", "section": "trunk"}
OTHER_KEY = {"graph": "b", "section": "trunk"}
BLOB = bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CompiledCache]:
    with open_cache(tmp_path / "cache") as opened:
        assert opened is not None
        yield opened


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").iterdir())


def write(cache: CompiledCache, tmp_path: Path) -> Path:
    cache.write(KEY, BLOB)
    (entry,) = entries(tmp_path)
    return entry


def test_what_was_written_is_read(cache: CompiledCache, tmp_path: Path) -> None:
    assert cache.read(KEY) is None
    entry = write(cache, tmp_path)
    assert cache.read(KEY) == BLOB
    assert cache.read(OTHER_KEY) is None
    assert entry.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_no_flipped_bit_and_no_missing_byte_passes(cache: CompiledCache, tmp_path: Path) -> None:
    entry = write(cache, tmp_path)
    whole = entry.read_bytes()
    for place in [*range(150), *range(150, len(whole), 997), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        entry.write_bytes(damaged)
        with pytest.warns(RuntimeWarning, match=r"\.graph is not used"):
            assert cache.read(KEY) is None
    for length in (0, 1, 31, 32, 63, 64, 200, len(whole) - 1):
        entry.write_bytes(whole[:length])
        with pytest.warns(RuntimeWarning, match="truncated"):
            assert cache.read(KEY) is None
    entry.write_bytes(whole + b"\0")
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert cache.read(KEY) is None
    cache.write(KEY, BLOB)
    assert cache.read(KEY) == BLOB


def test_an_entry_in_anothers_place_is_not_used(cache: CompiledCache, tmp_path: Path) -> None:
    cache.write(OTHER_KEY, BLOB)
    (other,) = entries(tmp_path)
    cache.write(KEY, BLOB[:-1])
    (entry,) = (path for path in entries(tmp_path) if path != other)
    shutil.copy(other, entry)
    with pytest.warns(RuntimeWarning, match="another engine"):
        assert cache.read(KEY) is None
    assert cache.read(OTHER_KEY) == BLOB


@pytest.mark.parametrize("kind", ["fifo", "symlink", "dangling symlink", "folder", "writable by others", "huge"])
def test_only_a_regular_file_of_ours_is_read(
    kind: str, cache: CompiledCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = write(cache, tmp_path)
    moved = tmp_path / "moved"
    if kind == "huge":
        monkeypatch.setattr(compiled_cache, "MOST_BYTES", 100)
    elif kind == "writable by others":
        entry.chmod(0o666)
    else:
        entry.replace(moved)
        if kind == "fifo":
            os.mkfifo(entry)
        elif kind == "folder":
            entry.mkdir()
        else:
            entry.symlink_to(moved if kind == "symlink" else tmp_path / "nothing")
    with pytest.warns(RuntimeWarning, match="is not used"):
        assert cache.read(KEY) is None
    monkeypatch.undo()
    cache.write(KEY, BLOB)  # takes its place, but for a folder
    if kind != "folder":
        assert cache.read(KEY) == BLOB
    assert not (tmp_path / "nothing").exists()


def test_an_entry_of_another_user_is_not_used(
    cache: CompiledCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cache, tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: entries(tmp_path)[0].stat().st_uid + 1)
    with pytest.warns(RuntimeWarning, match="somebody else's"):
        assert cache.read(KEY) is None


def test_a_folder_that_is_not_the_users_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in (0o777, 0o1777, 0o770, 0o702):
        (tmp_path / "cache").mkdir(exist_ok=True)
        (tmp_path / "cache").chmod(mode)
        with (
            pytest.warns(RuntimeWarning, match="others can write to it: chmod go-w"),
            open_cache(tmp_path / "cache") as opened,
        ):
            assert opened is None
    (tmp_path / "cache").chmod(0o755)
    with open_cache(tmp_path / "cache") as opened:
        assert opened is not None
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.warns(RuntimeWarning, match="another user"), open_cache(tmp_path / "cache") as opened:
        assert opened is None


def test_a_folder_that_cannot_be_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in (None, tmp_path / "file", tmp_path / "file" / "below"):
            with open_cache(path) as opened:
                assert opened is None


def test_what_is_used_least_makes_room(cache: CompiledCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_cache, "MOST_BYTES", 3 * (len(BLOB) + 200))
    keys = [{"graph": str(number)} for number in range(5)]
    names: dict[int, Path] = {}
    for number, key in enumerate(keys[:3]):
        before = set(entries(tmp_path))
        cache.write(key, BLOB)
        (names[number],) = set(entries(tmp_path)) - before
        os.utime(names[number], (number + 1, number + 1))
    assert cache.read(keys[0]) == BLOB  # so it was used last
    cache.write(keys[3], BLOB)
    assert [cache.read(key) is not None for key in keys] == [True, False, True, True, False]
    cache.write(keys[4], BLOB * 4)  # more than all may be
    assert cache.read(keys[4]) is None and cache.read(keys[3]) == BLOB
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= compiled_cache.MOST_BYTES


def test_what_a_killed_writer_left_is_swept_and_what_is_not_ours_stays(cache: CompiledCache, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for name in ("old.part", "new.part", "somebody's.txt"):
        (folder / name).write_bytes(b"half")
    os.utime(folder / "old.part", (1, 1))
    os.utime(folder / "somebody's.txt", (1, 1))
    entry = write_beside(cache, tmp_path)
    assert sorted(path.name for path in entries(tmp_path)) == sorted([entry.name, "new.part", "somebody's.txt"])


def write_beside(cache: CompiledCache, tmp_path: Path) -> Path:
    before = set(entries(tmp_path))
    cache.write(KEY, BLOB)
    (entry,) = set(entries(tmp_path)) - before
    return entry


def test_a_full_disk_leaves_nothing(cache: CompiledCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.write(KEY, BLOB)
    assert not entries(tmp_path)


# ---- with an engine --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (120, 160, 3), np.uint8)


def infer(path: Path, cache_dir: Path | None, picture: np.ndarray, **options: object) -> DensePoseResult:
    with Engine.load(path, cache_dir=cache_dir, warm_up=0, num_requests=1, **options) as engine:  # type: ignore[arg-type]
        return engine.infer(picture, score_threshold=0, nms_threshold=1, max_people=7)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sections that were compiled."""
    compiled: list[str] = []
    keep = openvino_compile.Compiler._keep
    monkeypatch.setattr(
        openvino_compile.Compiler,
        "_keep",
        lambda self, key, model: (compiled.append(key["section"]), keep(self, key, model)),
    )
    return compiled


@pytest.mark.parametrize("kind", ["demo_int8_engine", "dynamic_engine"])
def test_imported_graphs_give_the_same_bytes_as_compiled_ones(
    kind: str, picture: np.ndarray, tmp_path: Path, compilations: list[str], request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    expected = infer(path, None, picture)
    assert len(expected) == 7
    assert infer(path, tmp_path / "cache", picture) == expected
    sections = len(compilations)
    assert sections == len(entries(tmp_path)) == len(set(compilations)) == 7
    assert infer(path, tmp_path / "cache", picture) == expected
    assert len(compilations) == sections, "the second load imports"
    infer(path, tmp_path / "cache", picture, num_threads=1)
    assert len(compilations) == 2 * sections, "what was compiled for other options is not used"


def test_damaged_and_swapped_entries_change_no_result(
    demo_engine: Path, picture: np.ndarray, tmp_path: Path, compilations: list[str]
) -> None:
    expected = infer(demo_engine, tmp_path / "cache", picture)
    trunk, second = sorted(entries(tmp_path), key=lambda path: -path.stat().st_size)[:2]
    content = trunk.read_bytes()
    for place in (len(content) // 3, len(content) - 9):
        damaged = bytearray(content)
        damaged[place] ^= 0x40
        trunk.write_bytes(damaged)
        with pytest.warns(RuntimeWarning, match="damaged"):
            assert infer(demo_engine, tmp_path / "cache", picture) == expected
    trunk.write_bytes(second.read_bytes())
    del compilations[:]
    with pytest.warns(RuntimeWarning, match="another engine"):
        assert infer(demo_engine, tmp_path / "cache", picture) == expected
    assert len(compilations) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert infer(demo_engine, tmp_path / "cache", picture) == expected
    assert len(compilations) == 1, "what was damaged has been replaced"


def test_a_graph_that_cannot_be_imported_is_compiled(
    demo_engine: Path, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that a hash vouches for."""
    read = CompiledCache.read
    monkeypatch.setattr(CompiledCache, "read", lambda self, key: read(self, key) and b"not a graph of OpenVINO's")
    expected = infer(demo_engine, tmp_path / "cache", picture)
    with pytest.warns(RuntimeWarning, match="cannot import"):
        assert infer(demo_engine, tmp_path / "cache", picture) == expected


def test_a_load_that_fails_with_the_cache_is_tried_without(
    demo_engine: Path, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: CompiledCache, key: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(CompiledCache, "read", fail)
    assert infer(demo_engine, tmp_path / "cache", picture) == infer(demo_engine, None, picture)


@pytest.mark.parametrize(("folder", "removed"), [("densepose-engine", {"17.blob"}), ("shared", set())])
def test_what_openvino_kept_before_is_removed_from_our_own_folder(
    folder: str, removed: set[str], tmp_path: Path
) -> None:
    names = {"17.blob", "mine.blob", "1.blob.txt", "-1.blob", "123456789012345678901.blob"}
    (tmp_path / folder).mkdir(mode=0o700)
    for name in names:
        (tmp_path / folder / name).write_bytes(b"blob")
    with open_cache(tmp_path / folder) as cache:
        assert cache is not None
        cache.write(KEY, BLOB)
        assert cache.read(KEY) == BLOB
    assert {path.name for path in (tmp_path / folder).iterdir() if path.suffix != ".graph"} == names - removed


def test_another_machine_or_release_is_another_key(
    demo_engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from densepose_engine.backends.openvino import make_core

    core, extension = make_core(), tmp_path / "ops.so"
    extension.write_bytes(b"ops")
    payload = {"model.xml": b"xml", "model.bin": b"bin"}

    def identity(payload: dict[str, bytes] = payload, version: str = "2026.1-1", ops: Path = extension) -> Any:
        members = EngineFile("openvino", "fp32", description(), {}, payload).members
        return openvino_compile.identity_of(core, members, version, ops)

    first = identity()
    assert identity(dict(reversed(payload.items()))) == first
    changed = [
        identity({**payload, "model.bin": b"other"}),
        identity({"model.xml": b"xmlmodel.bin", "": b"bin"}),
        identity(version="2026.1-2"),
    ]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    changed.append(identity())
    monkeypatch.undo()
    monkeypatch.setattr(openvino_compile, "_processor_features", lambda: "another")
    changed.append(identity())
    monkeypatch.undo()
    (tmp_path / "other.so").write_bytes(b"other ops")
    changed.append(identity(ops=tmp_path / "other.so"))
    assert all(one != first for one in changed)


_LOAD = """
import sys
from densepose_engine import Engine
from densepose_engine.backends.openvino import compiled_cache
compiled_cache.MOST_BYTES = int(sys.argv[3])
with Engine.load(sys.argv[1], cache_dir=sys.argv[2], warm_up=1, num_requests=1): pass
"""


def test_processes_that_start_together_all_load(demo_engine: Path, tmp_path: Path) -> None:
    """Into a folder that does not exist yet, half of them with so little room that they remove what others want."""
    rooms = [1 << 30, 14 << 20] * 4
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _LOAD, str(demo_engine), str(tmp_path / "cache"), str(room)],
            stderr=subprocess.PIPE,
        )
        for room in rooms
    ]
    said = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(rooms), said
    assert entries(tmp_path) and not [path for path in entries(tmp_path) if path.suffix == ".part"]


@pytest.mark.parametrize(("machine", "bounded"), [("x86_64", True), ("AMD64", True), ("aarch64", False)])
def test_kernels_are_bounded_where_openvino_keeps_any(
    machine: str, bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Arm the very setting gives wrong results, whatever its value."""
    given: list[dict[str, str]] = []

    class Core:
        def compile_model(self, model: object, device: str, config: dict[str, str]) -> None:
            given.append(config)

    monkeypatch.setattr("platform.machine", lambda: machine)
    openvino_compile.Compiler(Core()).compile(None, {"NUM_STREAMS": "1"}, "trunk")
    (config,) = given
    assert config["NUM_STREAMS"] == "1"
    assert ("CPU_RUNTIME_CACHE_CAPACITY" in config) == bounded
