"""Truncated and damaged videos give what can be read and then say so; whole ones say nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from video_files import difference, encode, ffmpeg, noise, read, read_damaged

from densepose_engine import ImageError
from densepose_engine.video import VideoReader

pytest.importorskip("av")

FRAMES = 60
#: Name -> (encoder, options of the muxer).
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "index-first.mp4": ("libx264", {"movflags": "faststart"}),
    "fragments.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "video.mov": ("mjpeg", {"movflags": "faststart"}),
    "video.mkv": ("libx264", {}),
    "video.webm": ("libvpx", {}),
    "video.avi": ("mpeg4", {}),
    "video.flv": ("libx264", {}),
    "video.wmv": ("wmv2", {}),
    "video.ts": ("libx264", {}),
    "video.mpg": ("mpeg2video", {}),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of every kind, each of 60 frames."""
    folder = tmp_path_factory.mktemp("whole")
    frames = noise(FRAMES)
    for name, (codec, muxer) in KINDS.items():
        options = {"g": "12", "cpu-used": "8"} if codec.startswith("libvpx") else {"g": "12"}
        form = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        encode(folder / name, frames, codec, options=options, muxer=muxer, pix_fmt=form)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_are_not_complained_of(whole: Path, name: str) -> None:
    times, frames, remarks = read(whole / name)
    assert len(frames) == FRAMES
    slack = 0.041 if name.endswith(".mpg") else 0.002  # where not every frame's time is stored
    assert times == pytest.approx([0.04 * i for i in range(FRAMES)], abs=slack)
    assert not remarks


@pytest.mark.parametrize("percent", [40, 60, 90])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_left_of_a_truncated_file_is_read_and_it_is_said(
    whole: Path, tmp_path: Path, name: str, percent: int
) -> None:
    data = (whole / name).read_bytes()
    path = tmp_path / name
    # Not between two packets: of a stream without any length, that could not be known.
    length = len(data) * percent // 100
    path.write_bytes(data[: length - length % 188 + 77])
    frames, complaint = read_damaged(path)
    assert 3 <= len(frames) < FRAMES
    assert re.search(rf"{name} is (truncated|damaged): .* {len(frames)} frames could be read$", complaint)
    originals = read(whole / name)[1]
    for frame, original in zip(frames[:-6], originals, strict=False):
        assert difference(frame, original) == 0
    assert len(ffmpeg(path, (96, 128))) <= len(frames)  # not less than FFmpeg's own program reads


def test_bytes_that_are_missing_are_counted(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    path.write_bytes((whole / "index-first.mp4").read_bytes()[:-5000])
    assert "5,000 bytes of it are missing" in read_damaged(path)[1]


def test_a_recording_that_was_not_finished_is_explained(tmp_path: Path) -> None:
    path = encode(tmp_path / "camera.mp4", noise(20))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(ImageError, match=r"camera\.mp4 cannot be read .* the recording was not finished"):
        VideoReader(path)


@pytest.mark.parametrize("name", KINDS)
def test_damage_in_the_middle_costs_no_more_than_it_must(whole: Path, tmp_path: Path, name: str) -> None:
    data = bytearray((whole / name).read_bytes())
    generator = np.random.default_rng(1)
    begin = len(data) // 2
    data[begin : begin + 3000] = generator.integers(0, 256, 3000, np.uint8).tobytes()
    path = tmp_path / name
    path.write_bytes(data)
    frames, complaint = read_damaged(path)
    assert len(frames) > FRAMES - 20
    assert f"{name} is " in complaint
    originals = read(whole / name)[1]
    assert difference(frames[3], originals[3]) == 0
    assert difference(frames[-1], originals[-1]) == 0, "behind the damage it goes on"


def test_the_last_frames_are_not_lost_with_a_damaged_end(whole: Path, tmp_path: Path) -> None:
    """Frames that several threads have in work: FFmpeg drops them all when one fails at the end."""
    data = bytearray((whole / "index-first.mp4").read_bytes())
    data[-60:] = bytes(60)
    data[-400:-340] = bytes(60)
    path = tmp_path / "end.mp4"
    path.write_bytes(data)
    frames, complaint = read_damaged(path)
    assert len(frames) >= FRAMES - 3
    assert "end.mp4 is damaged" in complaint


def test_a_file_without_a_single_frame_is_no_video(whole: Path, tmp_path: Path) -> None:
    data = (whole / "index-first.mp4").read_bytes()
    path = tmp_path / "empty.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 8])
    with VideoReader(path) as reader, pytest.raises(ImageError, match=r"empty\.mp4 has no frame"):
        _ = reader.size


def test_sound_that_lasts_longer_is_no_damage(tmp_path: Path) -> None:
    import av

    path = tmp_path / "long.mkv"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=25), container.add_stream("mp2", rate=48000)
        video.width, video.height = 64, 48
        for _ in range(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        for number in range(100):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), format="s16", layout="stereo")
            silence.sample_rate, silence.pts = 48000, 1152 * number
            container.mux(audio.encode(silence))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    assert len(read(path)[1]) == 5


def test_a_broadcast_that_begins_in_the_middle_is_no_damage(whole: Path, tmp_path: Path) -> None:
    data = (whole / "video.ts").read_bytes()
    path = tmp_path / "middle.ts"
    path.write_bytes(data[len(data) // 3 // 188 * 188 :])
    _, frames, _ = read(path)
    assert 30 <= len(frames) <= 40


def test_random_damage_raises_nothing_else(whole: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    for number in range(60):
        name = list(KINDS)[number % len(KINDS)]
        data = bytearray((whole / name).read_bytes())
        for place in generator.integers(0, len(data), 1 << number % 8):
            data[place] = generator.integers(0, 256)
        path = tmp_path / name
        path.write_bytes(data)
        last = -1
        try:
            with VideoReader(path) as reader:
                for time, frame in reader.frames():
                    assert frame.shape == (*reader.size, 3)
                    assert time > last
                    last = time
        except ImageError as error:
            assert name in str(error)
