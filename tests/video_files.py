"""Small videos of every kind that players know, and FFmpeg's own program to compare with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densepose_engine import ImageError
from densepose_engine.video import VideoReader

RATE = 25


def noise(count: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """Frames that compress badly, so that every frame is some bytes; each is brighter than the one before."""
    generator = np.random.default_rng(5)
    frames = []
    for number in range(count):
        grain = generator.integers(0, 60, (height // 4, width // 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        frames.append(grain + np.uint8(30 + 150 * number // count))
    return frames


def encode(
    path: Path,
    frames: Iterable[Any],
    codec: str = "libx264",
    *,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    pixel: Fraction | None = None,
    times: Sequence[int] | None = None,
    **context: int,
) -> Path:
    """Arrays of RGB, or PyAV's frames, as a video of 25 frames per second, or at ``times`` in 1/100 s."""
    import av

    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=RATE, options=options or {})
        for number, frame in enumerate(frames):
            if isinstance(frame, np.ndarray):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if number == 0:
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
                if pixel:
                    stream.codec_context.sample_aspect_ratio = pixel
                if times:
                    stream.codec_context.time_base = Fraction(1, 100)
                for name, value in context.items():
                    setattr(stream.codec_context, name, value)
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def yuv(height: int, width: int, color: tuple[int, int, int], form: str = "yuv420p") -> Any:
    """PyAV's frame of one color, given as it is stored."""
    import av

    frame = av.VideoFrame(width, height, form)
    kind = np.uint16 if "10le" in form else np.uint8
    for plane, value in zip(frame.planes, color, strict=True):
        plane.update(np.full(plane.buffer_size // np.dtype(kind).itemsize, value, kind).tobytes())
    return frame


def turned(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write (a, b, c, d) as the display matrix into an MP4's track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    words = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[at : at + 36] = b"".join((word & 0xFFFFFFFF).to_bytes(4, "big") for word in words)
    path.write_bytes(data)
    return path


def read(path: Path) -> tuple[list[float], list[np.ndarray], list[str]]:
    """Times in seconds, frames and remarks."""
    with VideoReader(path) as reader:
        pairs = list(reader.frames())
        return [float(t * reader.time_base) for t, _ in pairs], [frame for _, frame in pairs], reader.remarks


def read_damaged(path: Path) -> tuple[list[np.ndarray], str]:
    """What could be read, and what was said at the end."""
    frames = []
    with VideoReader(path) as reader, pytest.raises(ImageError) as caught:
        for _, frame in reader.frames():
            frames.append(frame)
    return frames, str(caught.value)


def ffmpeg(path: Path, size: tuple[int, int], filters: str = "null", *options: str) -> np.ndarray:
    """What FFmpeg's own program makes of a video: uint8 (frames, height, width, 3). Skips where there is none."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("FFmpeg's program is not installed (Debian: ffmpeg)")
    command = [program, "-v", "error", *options, "-i", str(path), "-vf", filters, "-vsync", "passthrough"]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *size, 3)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """The largest."""
    return int(np.abs(a.astype(int) - b).max())
