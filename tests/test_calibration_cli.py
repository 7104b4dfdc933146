"""``densepose-engine calibrate`` as a user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_detector import serialize, small_detector

from densepose_engine.calibration.collect import activations as collecting
from densepose_engine.calibration.table import CalibrationTable, graph_digest
from densepose_engine.cli import BAD_INPUT, BAD_OUTPUT, INTERRUPTED, OK, USAGE, main


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    path.write_bytes(serialize(small_detector()))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(10):
        Image.fromarray(rng.integers(90, 256, (60, 80, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


def test_a_folder_becomes_a_table(graph: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.png").write_bytes(b"x")
    assert main(["calibrate", str(graph), str(folder)]) == OK
    table = CalibrationTable.load(graph.with_name("small.calib.json"))
    assert table.graph_sha256 == graph_digest(graph.read_bytes())
    assert table.images.count == 10
    out, err = capsys.readouterr()
    assert "pictures   10 (1 more could not be read)" in out and f"people     {table.people}" in out
    assert "broken.png" in err
    assert not list(graph.parent.glob("*.partial"))


def test_quiet_says_nothing(graph: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(graph), str(folder), "-q"]) == OK
    assert capsys.readouterr() == ("", "")


def test_count_and_seed(graph: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "x.json"
    assert main(["calibrate", str(graph), str(folder), "--count", "4", "--seed", "9", "-q", "-o", str(output)]) == OK
    images = CalibrationTable.load(output).images
    assert images.count == 4 and images.seed == 9


def test_outputs_are_not_overwritten_unasked(graph: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = graph.with_name("small.calib.json")
    output.write_text("mine")
    assert main(["calibrate", str(graph), str(folder)]) == BAD_OUTPUT
    assert "--force" in capsys.readouterr().err and output.read_text() == "mine"
    assert main(["calibrate", str(graph), str(folder), "-o", str(graph), "--force"]) == USAGE
    assert main(["calibrate", str(graph), str(folder), "--force", "-q"]) == OK
    CalibrationTable.load(output)


def test_bad_input(graph: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    black = tmp_path / "black.png"
    Image.new("RGB", (80, 60)).save(black)
    for arguments, message in (
        ((graph, empty), "no pictures in"),
        ((graph, tmp_path / "none.jpg"), "there is no file or folder"),
        ((tmp_path / "none.onnx", folder), "there is no graph"),
        ((folder / "1.png", folder), "1.png is a picture, not an ONNX graph"),
        ((graph, black), "found 0 in 1 pictures"),
        ((graph, folder, "--min-people", "1000"), "1000 are needed"),
    ):
        assert main(["calibrate", *map(str, arguments), "-o", str(tmp_path / "x.json")]) == BAD_INPUT
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_an_interrupted_run_resumes(
    graph: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fresh: bool,
) -> None:
    whole, output = tmp_path / "whole.json", tmp_path / "x.json"
    assert main(["calibrate", str(graph), str(folder), "-q", "-o", str(whole)]) == OK
    monkeypatch.setattr(collecting, "_SAVE_EVERY", 3)
    add = collecting._Run.add
    seen: list[str] = []

    def interrupted(run: collecting._Run, path: Path, sha256: str | None) -> str | None:
        if len(seen) == 7:
            seen.append("interrupted")
            raise KeyboardInterrupt
        seen.append(path.name)
        return add(run, path, sha256)

    monkeypatch.setattr(collecting._Run, "add", interrupted)
    arguments = ["calibrate", str(graph), str(folder), "-o", str(output)]
    assert main(arguments) == INTERRUPTED
    assert output.with_name("x.json.partial").exists() and not output.exists()
    before = len(seen)
    assert main([*arguments, "--no-resume"] if fresh else arguments) == OK
    assert len(seen) - before == (10 if fresh else 4)
    assert ("resuming after 6 of 10 pictures" in capsys.readouterr().err) == (not fresh)
    assert output.read_bytes() == whole.read_bytes()
    assert not output.with_name("x.json.partial").exists()


def test_the_module_is_the_same_command(graph: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "densepose_engine.calibration", str(graph), str(folder), "--count", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "TERM": "dumb"})
    assert done.returncode == OK, done.stderr
    assert "pictures   3" in done.stdout
    assert CalibrationTable.load(graph.with_name("small.calib.json")).images.count == 3
