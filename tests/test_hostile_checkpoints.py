"""Checkpoints made to harm: nothing in a file runs, and no file takes much more memory than it has bytes."""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import edited, refusal, write

from densepose_engine.export.checkpoint.load import load_checkpoint


class Runs:
    """Pickles to a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "call", [Runs(os.system, "touch hostile"), Runs(eval, "1"), Runs(np.load, "x"), Runs(bytearray, 10**12)]
)
def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, call: Runs) -> None:
    monkeypatch.chdir(tmp_path)
    for content in ({"model": {"w": call}}, call, {"model": {"w": np.ones(2)}, "author": call}):
        message = refusal(write(tmp_path / "m.pkl", pickle.dumps(content, protocol)))
        function = call.call[0]
        assert function.__name__ in message
        assert "refused" in message
    assert not Path("hostile").exists()


def test_an_archive_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (Runs(os.system, "touch hostile"), Runs(bytearray, 10**12), Runs(torch.Tensor, 10**12)):
        torch.save({"model": {"w": call}}, tmp_path / "m.pth")
        assert call.call[0].__name__ in refusal(tmp_path / "m.pth")
    assert not Path("hostile").exists()


def test_an_archive_cannot_declare_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save({"w": torch.arange(4.0)}, path)
    assert len(load_checkpoint(edited(path, tmp_path / "same.pth", {}))) == 1
    storage, size = b"cpuq\x06K\x04", b"QK\x00K\x04\x85"
    with zipfile.ZipFile(path) as archive:
        data = archive.read("whole/data.pkl")
    assert storage in data, list(pickletools.genops(data))
    huge = b"\x8a\x06" + (10**12).to_bytes(6, "little")
    assert "storage of another size" in refusal(edited(path, tmp_path / "a.pth", {storage: b"cpuq\x06K\xc8"}))
    assert "storage of another size" in refusal(edited(path, tmp_path / "b.pth", {storage: b"cpuq\x06" + huge}))
    assert "larger than its storage" in refusal(edited(path, tmp_path / "c.pth", {size: b"QK\x00K\x05\x85"}))
    assert "larger than its storage" in refusal(edited(path, tmp_path / "d.pth", {size: b"QK\x01K\x04\x85"}))
    assert "impossible shape" in refusal(edited(path, tmp_path / "e.pth", {size: b"QJ\xff\xff\xff\xffK\x04\x85"}))


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as old, zipfile.ZipFile(tmp_path / "m.pth", "w", 8) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert (tmp_path / "m.pth").stat().st_size < 1 << 16
    assert "compressed" in refusal(tmp_path / "m.pth")


def one_array(shape: bytes, contents: bytes) -> bytes:
    """A pickle of one float32 array whose declared shape and contents are given as opcodes."""
    dtype = b"cnumpy\ndtype\n\x8c\x02f4\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return b"\x80\x04}\x8c\x01w" + made + b"(K\x01" + shape + dtype + b"\x89" + contents + b"tbs."


HUGE = b"\x8a\x06" + (10**12).to_bytes(6, "little")
MEMORY_BOMBS = {
    "shape": one_array(HUGE + b"\x85", b"C\x04abcd"),
    "shape of zeros": one_array(HUGE + b"K\x00\x86", b"C\x04abcd"),
    "negative shape": one_array(b"J\xff\xff\xff\xff\x85", b"C\x04abcd"),
    "length of bytes": one_array(b"K\x01\x85", b"\x8e" + (1 << 40).to_bytes(8, "little") + b"abcd"),
    "length of bytearray": one_array(b"K\x01\x85", b"\x96" + (1 << 40).to_bytes(8, "little") + b"abcd"),
    "length of text": one_array(b"K\x01\x85", b"X" + b"\xff\xff\xff\xff" + b"abcd"),
    "frame": b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b"}.",
    "memo index": b"\x80\x04}r\xff\xff\xff\x3f0N.",
    "shape of reconstruct": b"\x80\x04}\x8c\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    + HUGE
    + b"\x85C\x01b\x87Rs.",
    "ndarray": b"\x80\x04}\x8c\x01wcnumpy\nndarray\n" + HUGE + b"\x85Rs.",
    "dicts": b"\x80\x04]" + b"(" + b"}" * 1_500_000 + b"e.",
    "text to bytes": b"\x80\x04X"
    + (1 << 20).to_bytes(4, "little")
    + b"x" * (1 << 20)
    + b"q\x000]"
    + b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86Ra" * 3000
    + b".",
    "ordered dicts": b"\x80\x04]("
    + b"".join(b"\x8c\x04%04dN\x86" % i for i in range(9000))
    + b"eq\x000]"
    + b"ccollections\nOrderedDict\nh\x00\x85Ra" * 9000
    + b".",
    "nested key": b"\x80\x04}N" + b"q\x000h\x00h\x00\x86" * 200 + b"Ns.",
    "nested value": b"\x80\x04}\x8c\x01wN" + b"q\x000h\x00h\x00\x86" * 200 + b"s.",
}


# Loads every file in a process of its own, because the peak is the whole process's, and prints what became of it.
MEASURE = """
import os, resource, sys
from densepose_engine.errors import CheckpointError
from densepose_engine.export.checkpoint.load import load_checkpoint
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for path in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    before = peak()
    try:
        load_checkpoint(path)
        verdict = "read"
    except CheckpointError as error:
        verdict = "refused " + str(error).replace("\\n", " ")[:300]
    print(peak() - before, verdict, flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Peak memory in MB and verdict for a large honest file and for every bomb."""
    folder = tmp_path_factory.mktemp("bombs")
    files = {"honest": pickle.dumps({"w": np.ones(40 << 20, np.float32)}, 4), **MEMORY_BOMBS}
    paths = [write(folder / f"{index}.pkl", data) for index, data in enumerate(files.values())]
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == len(files), done.stdout + done.stderr
    return {name: (int(line.split()[0]), line.split(" ", 1)[1]) for name, line in zip(files, lines, strict=True)}


def test_memory_is_measured(measured: dict[str, tuple[int, str]]) -> None:
    megabytes, verdict = measured["honest"]
    assert verdict == "read"
    assert 150 < megabytes < 400  # the file has 160


@pytest.mark.parametrize("name", MEMORY_BOMBS)
def test_no_pickle_takes_much_more_memory_than_its_size(measured: dict[str, tuple[int, str]], name: str) -> None:
    megabytes, verdict = measured[name]
    assert verdict.startswith("refused")
    assert megabytes < 150
