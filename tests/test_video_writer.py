"""Videos are written as players expect them: every listed container, colors with their tag, lossless data, sound."""

from __future__ import annotations

import errno
import gc
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_files import difference, ffmpeg, noise, read

from densepose_engine.video import LOSSLESS_SUFFIXES, SUFFIXES, VideoReader, VideoWriter

av: Any = pytest.importorskip("av")

#: (rate, time base) as sources have them: a camera, MPEG streams, QuickTime, Matroska, NTSC, screen recorders.
CLOCKS = [
    (Fraction(25), Fraction(1, 12800)),
    (Fraction(25), Fraction(1, 90000)),
    (Fraction(30), Fraction(1, 600)),
    (Fraction(30000, 1001), Fraction(1, 1000)),
    (Fraction(24000, 1001), Fraction(1001, 24000)),
    (Fraction(25, 2), Fraction(1, 10_000_000)),
]


def write(path: Path, frames: list[np.ndarray], rate: Fraction, time_base: Fraction, **options: Any) -> Path:
    with VideoWriter(path, rate, time_base, **options) as writer:
        for number, frame in enumerate(frames):
            writer.write(frame, round(number / rate / time_base))
    return path


@pytest.mark.parametrize(("rate", "time_base"), CLOCKS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_listed_container_works_with_every_clock(
    tmp_path: Path, suffix: str, rate: Fraction, time_base: Fraction
) -> None:
    frames = [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(12)]
    path = write(tmp_path / f"video{suffix}", frames, rate, time_base)
    times, shown, _ = read(path)
    seen = [round(frame.mean() / 20) for frame in shown]
    for number in range(12):  # in the middle of every frame's time
        assert seen[np.searchsorted(times, float((number + Fraction(1, 2)) / rate)) - 1] == number
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        ratio = float(stream.average_rate / rate)
        codec = stream.codec_context.name
    if seen == list(range(12)):
        assert ratio == pytest.approx(1, rel=0.1)  # of half a second of film, counted in thousandths
    else:
        assert ratio == pytest.approx(2, rel=0.01)  # MPEG-2 knows few rates: frames are repeated
        assert suffix in (".mpg", ".mpeg")
    assert codec == {"webm": "vp9", "mpg": "mpeg2video", "mpeg": "mpeg2video", "wmv": "wmv2"}.get(suffix[1:], "h264")


def test_ffmpeg_reads_every_container(tmp_path: Path) -> None:
    given = noise(6, 48, 64)
    for suffix in SUFFIXES:
        path = write(tmp_path / f"video{suffix}", given, Fraction(25), Fraction(1, 90000))
        found = ffmpeg(path, (48, 64))
        assert len(found) == 6
        assert np.abs(found.astype(int) - np.stack(given)).mean() < 10


def test_places_between_frames_are_filled_where_players_count_them(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mpg", Fraction(25), Fraction(1, 1000)) as writer:
        for number, time in enumerate((0, 40, 200)):
            writer.write(np.full((48, 64, 3), 60 + 60 * number, np.uint8), time)
    times, frames, _ = read(tmp_path / "video.mpg")
    assert times == pytest.approx([0.04 * number for number in range(6)], abs=1e-3)
    assert [round(frame.mean() / 60) for frame in frames] == [1, 2, 2, 2, 2, 3]


def test_frames_on_one_tick_of_a_coarse_clock_are_all_kept(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.avi", Fraction(25), Fraction(1, 1000)) as writer:
        for number, time in enumerate((0, 1, 2, 200)):
            writer.write(np.full((48, 64, 3), 60 * number, np.uint8), time)
    times, frames, _ = read(tmp_path / "video.avi")
    assert times == pytest.approx([0, 0.04, 0.08, 0.2], abs=1e-3)
    assert len(frames) == 4


# ---- colors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "tag", "matrix"),
    [(720, 1280, 1, "bt709"), (1280, 720, 1, "bt709"), (480, 640, 6, "bt601"), (48, 64, 6, "bt601")],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mpg", ".webm"])
def test_colors_are_tagged_and_are_those_of_the_tag(
    tmp_path: Path, height: int, width: int, tag: int, matrix: str, suffix: str
) -> None:
    color = np.array((192, 32, 64), np.uint8)
    path = write(tmp_path / f"video{suffix}", [np.tile(color, (height, width, 1))], Fraction(25), Fraction(1, 25))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert frame.colorspace in ({tag, 5} if tag == 6 else {tag})
    assert frame.color_range == 1
    # What a player makes of it that does as the tag says, from the definition.
    luma, cb, cr = (np.frombuffer(plane, np.uint8)[plane.line_size * (plane.height // 2)] for plane in frame.planes)
    red, blue = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    y, u, v = (int(luma) - 16) / 219, (int(cb) - 128) / 224, (int(cr) - 128) / 224
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    assert difference(255 * np.array((r, g, b)), color) <= 5
    assert difference(read(path)[1][0][height // 2, width // 2], color) <= 5
    assert difference(ffmpeg(path, (height, width))[0, height // 2, width // 2], color) <= 5


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (1, 1), (721, 1281)])
@pytest.mark.parametrize("suffix", LOSSLESS_SUFFIXES)
def test_lossless_means_every_bit_and_every_size(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    given = list(np.random.default_rng(2).integers(0, 256, (3, *size, 3), np.uint8))
    path = write(tmp_path / f"data{suffix}", given, Fraction(30), Fraction(1, 90000), lossless=True)
    assert np.array_equal(read(path)[1], given)
    assert np.array_equal(ffmpeg(path, size), given)


def test_lossless_is_refused_where_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lossless video called \*\.mp4; \.mkv and \.avi"):
        VideoWriter(tmp_path / "data.mp4", Fraction(25), Fraction(1, 25), lossless=True)
    assert not list(tmp_path.iterdir())


# ---- sound -----------------------------------------------------------------------------------------------------------


def film(path: Path, codec: str = "aac", late: float = 0.0, frames: int = 50, tracks: int = 1) -> Path:
    """Two seconds of black with a white flash at 1.0 s, and a click at that time; the picture begins ``late``."""
    with av.open(str(path), "w") as container:
        name = "mpeg4" if path.suffix == ".avi" else "libx264"
        video = container.add_stream(name, rate=25, options={"g": "5", "bf": "0" if path.suffix == ".avi" else "2"})
        video.width, video.height = 64, 48
        audio = [container.add_stream(codec, rate=48000) for _ in range(tracks)]
        for stream in audio:
            stream.layout = "mono"
        for number in range(round(late * 25), frames):
            picture = np.full((48, 64, 3), 255 * (number == 25), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        wave = np.zeros(1920 * max(frames, 26), np.float32)
        wave[48000:48480] = 0.9 * np.sin(np.arange(480) * 0.5)
        wave = wave[: 1920 * frames]
        for stream in audio:
            resampler = av.AudioResampler(stream.codec_context.format, "mono", 48000)
            for begin in range(0, len(wave), 4800):
                sound = av.AudioFrame.from_ndarray(wave[None, begin : begin + 4800], format="fltp", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = 48000, begin, Fraction(1, 48000)
                for piece in resampler.resample(sound):
                    container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
        container.mux(video.encode(None))
    return path


def copied(source: Path, target: Path, stop_after: int | None = None) -> list[str]:
    """What ``infer`` does, without an engine; returns which sound was left out."""
    with VideoReader(source, keep_sound=True) as reader:
        writer = VideoWriter(target, reader.rate, reader.time_base, sound=reader.sound_streams, lead=reader.sound_lead)
        with writer:
            for number, (time, frame) in enumerate(reader.frames()):
                writer.write(frame, time)
                if number + 1 == stop_after:
                    break
            for packet in reader.take_sound():
                writer.write_sound(packet)
    return writer.sound_left_out


def flash_and_click(path: Path) -> tuple[float, float]:
    """When they come, in seconds on the file's clock."""
    with av.open(str(path)) as container:
        flash = next(frame.time for frame in container.decode(video=0) if frame.to_ndarray(format="gray").mean() > 100)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray().astype(np.float64).reshape(-1)) > 0.3 * _full(frame))
            if len(loud):
                return flash, frame.time + loud[0] / frame.layout.nb_channels / frame.sample_rate
    raise AssertionError("no click")


def _full(frame: Any) -> float:
    return 1.0 if "flt" in frame.format.name else 32768.0


@pytest.mark.parametrize(
    ("source", "codec", "target"),
    [
        ("in.mp4", "aac", "out.mp4"),
        ("in.mp4", "aac", "out.mkv"),
        ("in.mp4", "aac", "out.mov"),
        ("in.mp4", "aac", "out.ts"),
        ("in.mp4", "aac", "out.flv"),
        ("in.ts", "aac", "out.mp4"),
        ("in.ts", "mp2", "out.mpg"),
        ("in.mkv", "libopus", "out.webm"),
        ("in.avi", "libmp3lame", "out.avi"),
        ("in.mkv", "pcm_s16le", "out.mkv"),
        ("in.mkv", "ac3", "out.mpg"),
    ],
)
@pytest.mark.parametrize("late", [0.0, 0.4])
def test_sound_is_copied_in_time(tmp_path: Path, source: str, codec: str, target: str, late: float) -> None:
    given = film(tmp_path / source, codec, late)
    assert copied(given, tmp_path / target) == []
    with av.open(str(given)) as before, av.open(str(tmp_path / target)) as after:
        assert after.streams.audio[0].codec_context.name == before.streams.audio[0].codec_context.name
        packets = [[bytes(p) for p in c.demux(audio=0) if p.size] for c in (before, after)]
        assert abs(len(packets[0]) - len(packets[1])) <= 1
    flash, click = flash_and_click(given)
    new_flash, new_click = flash_and_click(tmp_path / target)
    assert new_click - new_flash == pytest.approx(click - flash, abs=0.045)


def test_sound_of_a_joined_recording_stays_in_time(tmp_path: Path) -> None:
    part = film(tmp_path / "part.ts", "mp2")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(part.read_bytes() * 2)
    copied(joined, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        ends = {}
        for packet in container.demux():
            if packet.size:
                ends[packet.stream.type] = float(packet.pts * packet.time_base)
    assert ends["video"] == pytest.approx(3.96, abs=0.1)
    assert ends["audio"] == pytest.approx(3.97, abs=0.1)


def test_all_tracks_are_copied_and_what_does_not_fit_is_said(tmp_path: Path) -> None:
    given = film(tmp_path / "in.mkv", "aac", tracks=2)
    assert copied(given, tmp_path / "out.mp4") == []
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.streams.audio) == 2
    left_out = copied(given, tmp_path / "out.webm")
    assert len(left_out) == 2
    assert left_out[0] == "aac does not fit into .webm; .mkv takes it"
    assert len(read(tmp_path / "out.webm")[1]) == 50


# ---- disks -----------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file grows beyond this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_a_full_disk_is_an_error_with_the_files_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"video{suffix}"
    with small_disk(100_000), pytest.raises(OSError, match=rf"video\{suffix}") as caught:
        write(path, noise(200), Fraction(25), Fraction(1, 25), lossless=suffix in LOSSLESS_SUFFIXES)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)


def test_nothing_is_tried_again_when_a_failed_file_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    writer = VideoWriter(tmp_path / "video.mp4", Fraction(25), Fraction(1, 25))
    with small_disk(200_000):  # the encoder keeps all frames until it is emptied
        with pytest.raises(OSError, match=r"video\.mp4"), writer:
            writer.begin(240, 320)
            for at in range(12):
                writer.write(np.random.default_rng(at).integers(0, 256, (240, 320, 3), np.uint8), at)
        del writer
        gc.collect()
    assert not ignored


def test_sizes_that_an_encoder_refuses_are_refused_before_the_work(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "video.mpg", Fraction(25), Fraction(1, 25))
    with pytest.raises(OSError, match=r"mpeg2video refuses frames of 20000 x 16"):
        writer.begin(16, 20000)
    writer.abandon()


def test_players_accept_the_files(tmp_path: Path) -> None:
    """FFmpeg's checker finds nothing to complain of."""
    if not (program := shutil.which("ffmpeg")):
        pytest.skip("FFmpeg's program is not installed (Debian: ffmpeg)")
    given = film(tmp_path / "in.mp4")
    for suffix in SUFFIXES:
        copied(given, tmp_path / f"out{suffix}")
        command = [program, "-v", "warning", "-xerror", "-i", str(tmp_path / f"out{suffix}"), "-f", "null", "-"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (suffix, done.stderr)
