"""Videos in and out, through PyAV (FFmpeg's libraries, ``pip install 'densepose-engine[video]'``).

Frames keep their times, so a variable frame rate stays one. Sound is not copied.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .errors import BackendUnavailable, ImageError

#: What is taken for a video among the inputs of ``infer``.
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
_CODECS = ("libx264", "libvpx-vp9", "mpeg4")  # tried where a container's own choice is not there
_FALLBACK_RATE = Fraction(25)


def is_video(path: str | os.PathLike[str]) -> bool:
    """By its name."""
    return Path(path).suffix.lower() in SUFFIXES


def _av() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise BackendUnavailable(
            f"videos need PyAV, which cannot be imported ({error}); pip install 'densepose-engine[video]'"
        ) from error


class VideoReader:
    """The frames of a video file, one after the other: iterate over it, once.

    Raises:
        FileNotFoundError: there is no such file.
        ImageError: it is no video, or (while iterating) it is damaged.
        BackendUnavailable: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._av = _av()
        if not self.path.exists():
            raise FileNotFoundError(f"there is no video {self.path}")
        try:
            self._container = self._av.open(os.fspath(self.path))
        except (self._av.FFmpegError, ValueError) as error:
            raise ImageError(f"{self.path} cannot be read as a video ({error})") from error
        if not self._container.streams.video:
            self._container.close()
            raise ImageError(f"{self.path} has no pictures in it")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"

    @property
    def rate(self) -> Fraction:
        """Frames per second, on average."""
        return self._stream.average_rate or self._stream.guessed_rate or _FALLBACK_RATE

    @property
    def count(self) -> int:
        """How many frames the file says it has, or its length lets expect; 0 where it says neither."""
        if self._stream.frames:
            return int(self._stream.frames)
        if self._container.duration:
            return round(self._container.duration / self._av.time_base * self.rate)
        return 0

    @property
    def time_base(self) -> Fraction:
        """The unit of ``times``, in seconds."""
        return self._stream.time_base or 1 / self.rate

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """Time in units of ``time_base`` from the first frame on, and uint8 RGB array, upright."""
        first: int | None = None
        last = -1
        step = max(round(1 / (self.rate * self.time_base)), 1)
        try:
            for frame in self._container.decode(self._stream):
                pts = frame.pts
                first = pts if first is None else first
                # Times must rise, whatever a damaged file says.
                time = last + step if pts is None or first is None else pts - first
                last = max(time, last + 1)
                yield last, _upright(frame.to_ndarray(format="rgb24"), frame.rotation)
        except self._av.FFmpegError as error:
            raise ImageError(f"{self.path} is damaged or truncated ({error})") from error

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _upright(rgb: np.ndarray, degrees: int) -> np.ndarray:
    """Telephones film sideways and note by how much to turn: counterclockwise."""
    turns = round(degrees / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


class VideoWriter:
    """A video file that is written frame by frame; the first frame decides its size.

    H.264 where FFmpeg has an encoder for it and the container takes it, else the container's own choice. Sides are made
    even, which these codecs need, by repeating the last row or column.

    Raises:
        ValueError: no codec for a file with this suffix.
        BackendUnavailable: PyAV is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], rate: Fraction, time_base: Fraction) -> None:
        self._av = _av()
        self._path = Path(path)
        self._rate, self._time_base = rate, time_base
        try:
            self._container = self._av.open(os.fspath(self._path), "w")
        except ValueError as error:
            raise self._unknown() from error
        except self._av.FFmpegError as error:
            raise self._failed(error) from error
        self._codec = self._choose_codec()
        self._stream: Any = None
        self.count = 0
        self.size: tuple[int, int] | None = None
        """(height, width) of the frames, once there is one."""

    def _choose_codec(self) -> str:
        supported = self._container.supported_codecs
        for name in (self._container.default_video_codec, *_CODECS):
            if name == "none" or name not in self._av.codecs_available:
                continue
            codec = self._av.Codec(name, "w")
            if codec.canonical_name in supported or codec.name in supported:
                return str(codec.name)
        self._container.close()
        raise self._unknown()

    def _unknown(self) -> ValueError:
        return ValueError(f"no encoder makes a video called *{self._path.suffix}; .mp4 and .mkv are safe choices")

    def write(self, rgb: np.ndarray, time: int) -> None:
        """Add a uint8 RGB frame at ``time``, in units of the time base, rising from frame to frame."""
        size = (rgb.shape[0], rgb.shape[1])
        if self.size is None:
            self.size = size
        if size != self.size:
            raise ValueError(f"frame {self.count} is {size[1]} x {size[0]}, the video {self.size[1]} x {self.size[0]}")
        try:
            if self._stream is None:
                self._stream = self._container.add_stream(self._codec, rate=self._rate)
                self._stream.width, self._stream.height = size[1] + size[1] % 2, size[0] + size[0] % 2
                self._stream.pix_fmt = "yuv420p"
                self._stream.codec_context.time_base = self._time_base
            even = (
                np.pad(rgb, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), "edge") if size[0] % 2 or size[1] % 2 else rgb
            )
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame.pts, frame.time_base = time, self._time_base
            self._container.mux(self._stream.encode(frame))
        except self._av.FFmpegError as error:
            raise self._failed(error) from error
        self.count += 1

    def close(self) -> None:
        """Write what is buffered; the file is a video only after this."""
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        except self._av.FFmpegError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OSError:
        return OSError(getattr(error, "errno", None) or 0, f"FFmpeg says: {error}", os.fspath(self._path))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._container.close()
