"""``infer`` on videos: data without losses, and work that is never thrown away."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_video_writer import film, small_disk
from video_files import encode, read

from densepose_engine import DensePoseResult, Engine, InferenceError, cli
from densepose_engine.video import VideoReader

av: Any = pytest.importorskip("av")
MODELS = Path(__file__).resolve().parent.parent / "models"
FRAMES = 6


def main(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person who moves to the right; of an odd size, and with room for damage."""
    picture = np.asarray(Image.open(MODELS / "person.jpg").convert("RGB").resize((255, 171)))
    frames = [np.ascontiguousarray(np.roll(picture, 8 * i, axis=1)) for i in range(FRAMES)]
    return encode(
        tmp_path_factory.mktemp("clip") / "clip.mp4",
        frames,
        pix_fmt="yuv444p",
        options={"bf": "0", "g": "2"},
        muxer={"movflags": "faststart"},
    )


@pytest.fixture(scope="module")
def loaded(demo_engine: Path) -> Iterator[Engine]:
    """One engine for all tests here: loading takes longer than six frames."""
    with Engine.load(demo_engine, num_requests=3, warm_up=0) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _shared(loaded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "load", lambda *_, **__: nullcontext(loaded))


@pytest.fixture(scope="module")
def everybody(loaded: Engine, clip: Path) -> list[DensePoseResult]:
    """What the engine makes of every frame by itself."""
    with VideoReader(clip) as reader:
        return [loaded.infer(frame) for _, frame in reader.frames()]


@pytest.fixture(scope="module")
def shown(loaded: Engine, clip: Path) -> list[np.ndarray]:
    """The IUV picture of every frame, of the people that are drawn."""
    with VideoReader(clip) as reader:
        return [loaded.infer(frame, score_threshold=0.5).iuv() for _, frame in reader.frames()]


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["out.mkv", "out.avi", None])
def test_an_iuv_video_is_exact(
    demo_engine: Path,
    clip: Path,
    shown: list[np.ndarray],
    tmp_path: Path,
    target: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    output = ["-o", target] if target else []
    assert main("infer", demo_engine, clip, "--save", "iuv", *output, "-q") == 0
    times, frames, _ = read(tmp_path / (target or "out/clip.iuv.mkv"))
    assert times == pytest.approx([0.04 * i for i in range(FRAMES)], abs=1e-3)
    assert np.array_equal(frames, shown)
    assert max(frame.max() for frame in frames) > 24


def test_a_folder_gets_files_of_every_frame(
    demo_engine: Path, clip: Path, everybody: list[DensePoseResult], shown: list[np.ndarray], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    command = ("infer", demo_engine, clip, "--save", "iuv,npz,parts", "-o", folder, "-q")
    assert main(*command) == 0
    names = [f"clip.{i:06}.{kind}" for i in range(FRAMES) for kind in ("iuv.png", "npz")]
    assert {path.name for path in folder.iterdir()} == {*names, "clip.frames.csv", "clip.parts.mp4"}
    for number, result in enumerate(everybody):
        assert np.array_equal(np.asarray(Image.open(folder / f"clip.{number:06}.iuv.png")), shown[number])
        assert DensePoseResult.load(folder / f"clip.{number:06}.npz") == result
    with (folder / "clip.frames.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["frame"]) for row in rows] == list(range(FRAMES))
    assert [float(row["seconds"]) for row in rows] == pytest.approx([0.04 * i for i in range(FRAMES)])

    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / "clip.frames.csv").unlink()
    (folder / "clip.parts.mp4").unlink()
    assert main(*command) == cli.BAD_OUTPUT  # the frames of an earlier run are in the way as well
    assert before[folder / "clip.000000.npz"] == (folder / "clip.000000.npz").read_bytes()
    assert main(*command, "--force") == 0


# ---- sound and remarks -----------------------------------------------------------------------------------------------


def test_the_sound_is_copied(demo_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = film(tmp_path / "film.mp4", frames=15)
    command = ("infer", demo_engine, source, "--max-proposals", "10", "-q")
    assert main(*command, "-o", tmp_path / "out.mkv") == 0
    assert not capsys.readouterr().err
    assert main(*command, "-o", tmp_path / "out.webm") == 0
    assert "out.webm lacks sound of the video: aac does not fit into .webm" in capsys.readouterr().err
    # Two videos at once: both have it.
    assert main(*command, "--save", "u,v", "-o", tmp_path / "both") == 0
    for name in ("film.u.mp4", "film.v.mp4"):
        with av.open(str(tmp_path / "both" / name)) as copy:
            assert sum(1 for p in copy.demux(audio=0) if p.size) > 25
    with av.open(str(source)) as given, av.open(str(tmp_path / "out.mkv")) as copy:
        packets = [[bytes(p) for p in container.demux(audio=0) if p.size] for container in (given, copy)]
    assert packets[0] == packets[1]


def test_what_is_special_about_a_video_is_said(
    demo_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joined = tmp_path / "joined.ts"
    with joined.open("wb") as stream:
        for size in ((48, 64), (96, 128)):
            stream.write(encode(tmp_path / "part.ts", [np.zeros((*size, 3), np.uint8)] * 3).read_bytes())
    assert main("infer", demo_engine, joined, "-o", tmp_path / "out.mp4", "-q") == 0
    assert "joined.ts changes its size on the way" in capsys.readouterr().err
    assert [frame.shape for frame in read(tmp_path / "out.mp4")[1]] == [(48, 64, 3)] * 6


# ---- work is kept ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cut(clip: Path, tmp_path: Path) -> Path:
    """The clip without its end."""
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[:-2500])
    return path


def test_of_a_truncated_video_what_is_there_is_kept(
    demo_engine: Path, cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("infer", demo_engine, cut, "-o", tmp_path / "out.mp4") == cli.SOME_FAILED
    said = capsys.readouterr().err
    count = len(read(tmp_path / "out.mp4")[1])
    assert 2 <= count < FRAMES
    assert "cut.mp4 is truncated" in said
    assert f"{count} frames" in said
    assert "out.mp4" in said
    assert main("infer", demo_engine, cut, "--json", "-q") == cli.SOME_FAILED
    printed = capsys.readouterr()
    assert [json.loads(line)["frame"] for line in printed.out.splitlines()] == list(range(count))
    assert "cut.mp4 is truncated" in printed.err


def test_a_failing_runtime_costs_only_what_comes_after_it(
    demo_engine: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = Engine.stream

    def failing(self: Engine, *arguments: Any, **settings: Any) -> Iterator[Any]:
        for number, pair in enumerate(stream(self, *arguments, **settings)):
            if number == 4:
                raise InferenceError("the runtime lost its device")
            yield pair

    monkeypatch.setattr(Engine, "stream", failing)
    options = ("--save", "parts,npz", "-o", tmp_path / "out", "-q")
    assert main("infer", demo_engine, clip, *options) == cli.SOME_FAILED
    assert "clip.mp4, after 4 frames: the runtime lost its device" in capsys.readouterr().err
    assert len(read(tmp_path / "out" / "clip.parts.mp4")[1]) == 4
    assert len(list((tmp_path / "out").glob("*.npz"))) == 4
    assert len((tmp_path / "out" / "clip.frames.csv").read_text().splitlines()) == 5
    assert not list((tmp_path / "out").glob(".*"))


def test_a_full_disk_is_said_and_leaves_nothing_unfinished(
    demo_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 240, 320, 3), np.uint8)
    source = encode(tmp_path / "noise.mkv", noise, "ffv1", pix_fmt="bgr0")
    before = source.read_bytes()
    folder = tmp_path / "out"
    with small_disk(200_000):
        code = main("infer", demo_engine, source, "-o", folder / "out.mp4", "--max-proposals", "10", "-q")
    assert code == cli.BAD_OUTPUT
    said = capsys.readouterr().err
    assert "cannot write" in said
    assert "out.mp4" in said
    assert os.strerror(errno.EFBIG).lower() in said.lower()
    assert source.read_bytes() == before
    assert not list(folder.iterdir())


@pytest.mark.parametrize("target", ["out.mp4"])
def test_an_interrupted_video_is_kept_as_far_as_it_got(demo_engine: Path, tmp_path: Path, target: str) -> None:
    picture = np.asarray(Image.open(MODELS / "person.jpg").convert("RGB").resize((640, 420)))
    source = encode(tmp_path / "long.mp4", [picture] * 500, options={"preset": "ultrafast"})
    folder = tmp_path / "out"
    command = ["infer", str(demo_engine), str(source), "-o", str(folder / target), "--json", "-q"]
    process = subprocess.Popen(
        [sys.executable, "-m", "densepose_engine", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(5):  # frames that are done
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    done = 5 + rest.count("\n")
    assert [path.name for path in folder.iterdir()] == [target]
    times, frames, _ = read(folder / target)
    assert 5 <= len(frames) <= done + 1
    assert times == pytest.approx([0.04 * i for i in range(len(frames))], abs=1e-3)
    assert f"the {len(frames)} frames that were done are kept in" in said


def test_an_interruption_before_the_first_frame_leaves_nothing(
    demo_engine: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **settings: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "load", interrupted)
    assert main("infer", demo_engine, clip, "-o", tmp_path / "out" / "out.mp4", "-q") == cli.INTERRUPTED
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_encoders_are_tried_before_the_engine_is_loaded(
    demo_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = encode(tmp_path / "wide.mkv", [np.zeros((16, 17000, 3), np.uint8)], "ffv1", pix_fmt="bgr0")
    monkeypatch.setattr(Engine, "load", lambda *_, **__: pytest.fail("too late"))
    assert main("infer", demo_engine, wide, "-o", tmp_path / "out.mpg", "-q") == cli.BAD_OUTPUT
    assert "out.mpg: the encoder mpeg2video refuses frames of 17000 x 16" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["wide.mkv"]


def test_the_time_base_of_a_result_is_the_videos(demo_engine: Path, clip: Path, tmp_path: Path) -> None:
    """25 frames per second stay 25 in every container that counts frames."""
    for suffix in (".avi", ".mpg"):
        assert main("infer", demo_engine, clip, "-o", tmp_path / f"out{suffix}", "-q") == 0
        with av.open(str(tmp_path / f"out{suffix}")) as container:
            assert container.streams.video[0].average_rate == Fraction(25)
