"""Videos: frames and times survive the way through, and ``infer`` turns one into another."""

from __future__ import annotations

import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densepose_engine import BackendUnavailable, Engine, ImageError, cli
from densepose_engine.commands.infer_video import infer_video
from densepose_engine.pictures.video.library import OLDEST, pyav
from densepose_engine.video import VideoReader, VideoWriter, is_video

pytest.importorskip("av")
MODELS = Path(__file__).resolve().parent.parent / "models"


def main(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def shade(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), 20 * number, np.uint8)


def write(path: Path, frames: list[np.ndarray], times: list[int] | None = None) -> Path:
    with VideoWriter(path, Fraction(25), Fraction(1, 100)) as writer:
        for number, frame in enumerate(frames):
            writer.write(frame, times[number] if times else 4 * number)
    return path


def read(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with VideoReader(path) as reader:
        pairs = list(reader.frames())
        return [float(time * reader.time_base) for time, _ in pairs], [frame for _, frame in pairs]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm", ".mov"])
def test_frames_survive_in_every_container(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"video{suffix}", [shade(i) for i in range(10)])
    times, frames = read(path)
    assert times == pytest.approx([0.04 * i for i in range(10)], abs=0.002)
    for number, frame in enumerate(frames):
        assert frame.shape == (48, 64, 3)
        assert frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - 20 * number).max() <= 4
    with VideoReader(path) as reader:
        assert reader.count == 10 or suffix == ".avi"  # which has a place for every tick of the clock
        assert reader.rate == 25 or suffix == ".avi"


def test_a_variable_frame_rate_stays_one(tmp_path: Path) -> None:
    given = [0, 3, 50, 51, 120]
    times, _ = read(write(tmp_path / "video.mp4", [shade(i) for i in range(5)], given))
    assert times == pytest.approx([t / 100 for t in given], abs=1e-3)


def test_odd_sizes_are_made_even(tmp_path: Path) -> None:
    _, frames = read(write(tmp_path / "video.mp4", [shade(3, (33, 47))] * 3))
    assert frames[0].shape == (34, 48, 3)


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", Fraction(25), Fraction(1, 25)) as writer:
        writer.write(shade(1), 0)
        with pytest.raises(ValueError, match="10 x 10, the video 64 x 48"):
            writer.write(shade(1, (10, 10)), 1)
        writer.write(shade(2), 1)
    assert len(read(tmp_path / "video.mp4")[1]) == 2


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(ImageError, match=r"broken\.mp4"):
        VideoReader(broken)
    with pytest.raises(FileNotFoundError):
        VideoReader(tmp_path / "missing.mp4")
    whole = write(
        tmp_path / "whole.mp4", [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(30)]
    )
    data = whole.read_bytes()
    broken.write_bytes(data[: len(data) // 2])  # without its index
    with pytest.raises(ImageError, match=r"broken\.mp4"), VideoReader(broken) as reader:
        list(reader.frames())
    with pytest.raises(ValueError, match=r"\*\.unknown"):
        VideoWriter(tmp_path / "video.unknown", Fraction(25), Fraction(1, 25))


def test_names_of_videos() -> None:
    assert is_video("a/b.MP4")
    assert not is_video("a/b.jpg")


def test_without_pyav_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BackendUnavailable, match=r"densepose-engine\[video\]"):
        VideoReader(tmp_path / "video.mp4")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person who moves to the right, eight pixels a frame."""
    picture = np.asarray(Image.open(MODELS / "person.jpg").convert("RGB").resize((256, 170)))
    frames = [np.ascontiguousarray(np.roll(picture, 8 * i, axis=1)) for i in range(6)]
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def test_every_frame_has_its_own_result(demo_engine: Path, clip: Path) -> None:
    with Engine.load(demo_engine, cache_dir=None, warm_up=0) as engine, VideoReader(clip) as reader:
        settings = {"score_threshold": 0.5}
        found = list(infer_video(engine, reader, settings))
        assert [float(time * reader.time_base) for time, _, _ in found] == pytest.approx([0.04 * i for i in range(6)])
        for _, frame, result in found:
            assert result == engine.infer(frame, score_threshold=0.5)
        assert sum(len(result) for _, _, result in found) >= 5


def test_a_video_becomes_a_video(
    demo_engine: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.mp4"
    assert main("infer", demo_engine, clip, "-o", target, "--no-cache") == 0
    printed = capsys.readouterr().out
    assert "6 frames" in printed
    assert "frames per second" in printed
    times, frames = read(target)
    assert times == pytest.approx([0.04 * i for i in range(6)], abs=1e-3)
    _, originals = read(clip)
    assert all(frame.shape == original.shape for frame, original in zip(frames, originals, strict=True))
    changed = [np.abs(a.astype(int) - b).max() for a, b in zip(frames, originals, strict=True)]
    assert max(changed) > 60, "something must be drawn"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_json_of_a_video_writes_no_file(
    demo_engine: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main("infer", demo_engine, clip, "--json", "--no-cache", "-q") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["frame"] for row in rows] == list(range(6))
    assert [row["seconds"] for row in rows] == pytest.approx([0.04 * i for i in range(6)])
    assert any(row["people"] for row in rows)
    assert not list(tmp_path.iterdir())


def test_a_folder_takes_a_video_of_the_clips_name(demo_engine: Path, clip: Path, tmp_path: Path) -> None:
    assert main("infer", demo_engine, clip, "-o", tmp_path / "folder", "--no-cache", "-q") == 0
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["clip.parts.mp4"]


@pytest.mark.parametrize("release", ["9.2.0", "14.1.0", "14.0.0rc1"])
def test_a_release_of_pyav_that_is_too_old_is_named(
    release: str,
    demo_engine: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("av.__version__", release)
    assert main("infer", demo_engine, clip, "-o", tmp_path / "x.mp4", "-q") == cli.BAD_RUNTIME
    assert f"videos need PyAV 14.2 or newer, and {release} is here; pip install" in capsys.readouterr().err
    monkeypatch.setattr("av.__version__", "14.2.0")
    assert pyav().__version__ == "14.2.0"
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert set(re.findall(r'"av>=([0-9.]+)"', text)) == {".".join(map(str, OLDEST))}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["{clip}", "{clip}"], cli.USAGE, "one video"),
        (["{clip}", str(MODELS / "person.jpg")], cli.USAGE, "one video"),
        (["{clip}", "--save", "npz", "-o", "{folder}/x.mkv"], cli.USAGE, "name a folder"),
        (["{clip}", "--save", "iuv", "-o", "{folder}/x.mp4"], cli.USAGE, ".mkv"),
        (["{clip}", "--save", "parts,u", "-o", "{folder}/x.mp4"], cli.USAGE, "one file"),
        (["{clip}", "-o", "{folder}/x.gif"], cli.USAGE, "x.gif"),
        (["{clip}", "-o", "{folder}/x.png"], cli.USAGE, "x.png"),
        (["{clip}", "-o", "{folder}/x.ogv"], cli.USAGE, "x.ogv"),
        (["{clip}", "-o", "{link}"], cli.BAD_OUTPUT, "itself"),
        (["{clip}", "-o", "{taken}/x.mp4"], cli.BAD_OUTPUT, "is not a folder"),
        (["{clip}", "-o", "{clip}"], cli.BAD_OUTPUT, "itself"),
        (["{clip}", "-o", "{taken}"], cli.BAD_OUTPUT, "--force"),
        (["missing.mp4"], cli.BAD_INPUT, "missing.mp4"),
        (["{broken}"], cli.BAD_INPUT, "broken.mp4"),
        (["{clip}", "-o", "{folder}/x.flv", "--max-proposals", "100000"], cli.USAGE, "max_proposals"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    demo_engine: Path,
    clip: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    taken, broken = tmp_path / "taken.mp4", tmp_path / "broken.mp4"
    taken.write_bytes(b"kept")
    broken.write_bytes(b"no video")
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    words = [a.format(clip=clip, taken=taken, broken=broken, folder=tmp_path, link=link) for a in arguments]
    before = clip.read_bytes()
    assert main("infer", demo_engine, *words, "--no-cache", "-q") == code
    assert text in capsys.readouterr().err
    assert clip.read_bytes() == before
    assert taken.read_bytes() == b"kept"
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {*("taken.mp4", "broken.mp4", "link.mp4")}
