"""The folder of compiled graphs, shared by many: processes that start together, and entries that are no files."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from . import material
from .counts import BUILD, Counts, environment
from .verbs import run

_WORK = BUILD / "work" / "cache"
_PROCESSES = 8
_ROUNDS = 6
_SECONDS = 120.0

# Says that it is ready, waits for the others, and prints what comes of a picture.
_LOAD = """
import hashlib, sys
from densepose_engine import Engine
from robust import material
from robust.target import result_bytes
import openvino
path, cache, waits = sys.argv[1:]
if waits == "wait":
    print("ready", flush=True)
    sys.stdin.readline()
with Engine.load(path, cache_dir=cache or None, num_threads=1, num_requests=1, warm_up=2) as engine:
    result = engine.infer(material.picture(96, 128), score_threshold=0.1)
print(hashlib.sha256(b"".join(result_bytes(result))).hexdigest())
"""


def part(scale: float, long: bool) -> Counts:
    """``scale`` times six rounds of eight processes that load with an empty cache, and every odd kind of entry."""
    counts = Counts("cache")
    shutil.rmtree(_WORK, ignore_errors=True)
    _WORK.mkdir(parents=True)
    material.make_demo()
    for engine in (material.INT8_ENGINE, material.DEMO_ENGINE):
        expected = _right_result(engine)
        for number in range(max(round(_ROUNDS * scale / 2), 1)):
            _race(engine, _WORK / f"race{number}", expected, counts)
    expected = _right_result(material.INT8_ENGINE)
    for name, spoil in _KINDS.items():
        _odd_entries(name, spoil, expected, counts)
    return counts


def _command(engine: Path, cache: Path | str, wait: bool = False) -> list[str]:
    return [sys.executable, "-c", _LOAD, str(engine), str(cache), "wait" if wait else "go"]


def _right_result(engine: Path) -> str:
    """Without any cache."""
    ended = run(_command(engine, ""))
    if ended.code != 0:
        raise RuntimeError(f"{engine} does not load: {ended.stderr[-2000:]}")
    return ended.stdout.strip()


def _race(engine: Path, cache: Path, expected: str, counts: Counts) -> None:
    """All at once on an empty cache."""
    shutil.rmtree(cache, ignore_errors=True)
    processes = [
        subprocess.Popen(
            _command(engine, cache, wait=True),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        for _ in range(_PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        what = f"{_PROCESSES} processes load {engine.name} at once"
        try:
            stdout, stderr = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            counts.tried += 1
            counts.fail("hangs", f"{what}: one does not end")
            continue
        _judge(what, process.returncode, stdout, stderr, expected, counts)


def _judge(what: str, code: int | None, stdout: str, stderr: str, expected: str, counts: Counts) -> None:
    counts.tried += 1
    last = (stderr.strip().splitlines() or [""])[-1][:300]
    if code is None:
        counts.fail("hangs", f"{what}: does not end")
    elif code < 0:
        counts.fail("crashes", f"{what}: ended by signal {-code}")
    elif code:
        counts.fail("wrong exception types", f"{what}: {last}")
    elif stdout.split()[-1:] != [expected]:
        counts.fail("bytes lost", f"{what}: another result")


# ---- entries ---------------------------------------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _socket(path: Path) -> None:
    path.unlink()
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has 107 bytes at most
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def _link(target: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return spoil


def _unreadable(path: Path) -> None:
    path.chmod(0)


def _empty(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"")


_KINDS: Mapping[str, Callable[[Path], None]] = {
    "a FIFO": _fifo,
    "a folder": _folder,
    "a socket": _socket,
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to nowhere": _link("/nonexistent/file"),
    "a link to itself": _link("."),
    "an empty file": _empty,
    "a file that may not be read": _unreadable,
}


def _odd_entries(name: str, spoil: Callable[[Path], None], expected: str, counts: Counts) -> None:
    """Every entry is replaced; then the cache itself is."""
    cache = _WORK / "odd"
    shutil.rmtree(cache, ignore_errors=True)
    engine = material.INT8_ENGINE
    run(_command(engine, cache))
    entries = [path for path in cache.rglob("*") if path.is_file()]
    assert entries, "nothing is cached, so nothing is tested"
    for path in entries:
        spoil(path)
    ended = run(_command(engine, cache), seconds=_SECONDS)
    _judge(f"cached entries are each {name}", ended.code, ended.stdout, ended.stderr, expected, counts)
    shutil.rmtree(cache, ignore_errors=True)
    if name != "a file that may not be read":
        cache.write_bytes(b"")
        spoil(cache)
        ended = run(_command(engine, cache), seconds=_SECONDS)
        _judge(f"the cache is {name}", ended.code, ended.stdout, ended.stderr, expected, counts)
        if cache.is_dir() and not cache.is_symlink():
            shutil.rmtree(cache)
        else:
            cache.unlink(missing_ok=True)
