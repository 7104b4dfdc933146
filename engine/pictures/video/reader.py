"""Videos in, as players show them: which stream, which way up, which colors, which times, and how much is missing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from ...errors import ImageError
from .frames import FrameConverter
from .integrity import missing_bytes
from .library import pyav, reason
from .packets import PacketReader, choose_stream, open_video, rate_of

# What a file may fall short of the length that it states: containers round, and the last frame's length is a guess.
_SLACK_SECONDS, _SLACK_FRAMES = Fraction(1, 2), 2


class SoundPacket(NamedTuple):
    """A packet of sound: its seconds after the first frame, the number of its stream, and PyAV's packet."""

    seconds: Fraction
    stream: int
    packet: Any


class VideoReader:
    """The frames of a video file, one after the other: iterate over ``frames()``, once.

    Of several video streams it is the default one, or else the largest. Frames are turned and mirrored as the file
    says, their pixels are square (the shorter side of those that are not is stretched), and all are as large as the
    first: where the size changes on the way, the others are fitted into it. Colors are converted as tagged; without a
    tag as BT.709 if the video is wider than 1279 or higher than 576 pixels, else as BT.601, and of limited range.
    HDR and interlaced video is converted like any other, with a remark.

    Args:
        path: the file.
        keep_sound: collect the packets of its sound streams, for ``take_sound``.

    Raises:
        FileNotFoundError: there is no such file.
        ImageError: it is no video, or (while iterating, after all frames that could be read) it is damaged.
        BackendUnavailable: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], keep_sound: bool = False) -> None:
        self.path = Path(path)
        self._av = pyav()
        if not self.path.exists():
            raise FileNotFoundError(f"there is no video {self.path}")
        self._missing = missing_bytes(self.path)
        self._container = open_video(self.path)
        try:
            self._stream = choose_stream(self._container, self.path)
        except ImageError:
            self._container.close()
            raise
        # Where several threads decode frames, FFmpeg loses those that are in work when the last packet is damaged.
        # (FLV states no length of its own bytes.)
        alone = self._missing or self._container.format.name == "flv"
        self._stream.thread_type = "SLICE" if alone else "AUTO"
        self._convert = FrameConverter()
        self.sound_streams: tuple[Any, ...] = ()
        """PyAV's streams of sound, if it is kept."""
        self._sound: deque[SoundPacket] = deque()
        if keep_sound:
            self.sound_streams = tuple(s for s in self._container.streams.audio if s.codec_context is not None)
        self._packets = PacketReader(self._container, self._stream, self.sound_streams)
        # AVI stores no times of presentation; those that FFmpeg makes up are late by one place in the file.
        self._times = _Times(self.time_base, self.rate, only_dts=self._container.format.name == "avi")
        self._frames = self._read()
        self._ahead: deque[tuple[int, np.ndarray]] = deque()
        self._errors, self._error, self._corrupt, self._sent, self._decoded = 0, "", 0, 0, 0

    @property
    def rate(self) -> Fraction:
        """Frames per second, on average."""
        return rate_of(self._stream)

    @property
    def count(self) -> int:
        """How many frames the file says it has, or its length lets expect; 0 where it says neither."""
        if self._stream.frames:
            return int(self._stream.frames)
        if self._container.duration and self._container.duration > 0:
            return round(self._container.duration / self._av.time_base * self.rate)
        return 0

    @property
    def time_base(self) -> Fraction:
        """The unit of times, in seconds."""
        return Fraction(self._stream.time_base or 1 / self.rate)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of all frames. The first time, the first frame is read for it.

        Raises:
            ImageError: no frame can be read.
        """
        if self._convert.size is None:
            self._ahead.extend([next(self._frames)])
        assert self._convert.size is not None
        return self._convert.size

    @property
    def remarks(self) -> list[str]:
        """What a viewer should know of what was read so far, each as a sentence."""
        return [f"{self.path} {text}" for text in self._convert.remarks]

    @property
    def sound_lead(self) -> Fraction:
        """By how many seconds the sound begins before the first frame; 0 if it begins later."""
        starts = [s.start_time * s.time_base for s in self.sound_streams if s.start_time is not None and s.time_base]
        if not starts or self._stream.start_time is None:
            return Fraction(0)
        return max(Fraction(self._stream.start_time * self.time_base - min(starts)), Fraction(0))

    def take_sound(self, until: Fraction | None = None) -> list[SoundPacket]:
        """Packets of sound that were met so far and not yet taken, in the file's order: those before ``until``."""
        taken = []
        while self._sound and (until is None or self._sound[0].seconds < until):
            taken.append(self._sound.popleft())
        return taken

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """Time in units of ``time_base`` from the first frame on, and uint8 RGB array, upright. Times rise.

        Raises:
            ImageError: after the last frame, if the file is damaged or ends too early.
        """
        while self._ahead:
            yield self._ahead.popleft()
        yield from self._frames

    def _read(self) -> Iterator[tuple[int, np.ndarray]]:
        for packet in self._packets:
            if packet.stream is not self._stream:
                self._times.hold(packet, self._sound)
                continue
            self._sent += not packet.is_discard
            for frame in self._decode(packet):
                yield self._finished(frame)
        for frame in self._decode(None):
            yield self._finished(frame)
        for frame in self._lost_at_the_end():
            yield self._finished(frame)
        if complaint := self._complaint():
            raise ImageError(complaint)

    def _decode(self, packet: Any) -> list[Any]:
        try:
            frames: list[Any] = self._stream.codec_context.decode(packet)
        except EOFError:
            return []
        except (self._av.FFmpegError, ValueError) as error:
            self._error = reason(error)
            # A broadcast that was switched on in the middle begins with frames that nobody can decode.
            self._errors += bool(self._decoded)
            return []
        self._decoded += len(frames)
        return frames

    def _finished(self, frame: Any) -> tuple[int, np.ndarray]:
        self._corrupt += bool(frame.is_corrupt)
        time = self._times.of(frame)
        pixel = self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio
        return time, self._convert(frame, pixel, self._stream.codec_context.color_trc)

    def _lost_at_the_end(self) -> Iterator[Any]:
        """Frames that several threads had in work when the last packets failed, decoded again by one."""
        last = self._times.last_raw
        if not self._decoded or self._decoded + self._errors >= self._sent or self._missing or last is None:
            return
        if self._packets.jumped or not self.path.is_file():
            return
        with open_video(self.path) as again:
            stream = again.streams[self._stream.index]
            stream.thread_type = "SLICE"
            try:
                again.seek(last, stream=stream)
            except self._av.FFmpegError:
                return
            packets = PacketReader(again, stream)
            for packet in (*packets, None):
                try:
                    found = stream.codec_context.decode(packet)
                except self._av.FFmpegError as error:
                    self._error = reason(error)
                    self._errors += 1
                    continue
                for frame in found:
                    if frame.pts is not None and frame.pts > last:
                        self._decoded += 1
                        yield frame

    def _complaint(self) -> str:
        """What is wrong with a file that was read to its end, as a sentence; "" if nothing is."""
        read = f"{self._decoded} frame{'' if self._decoded == 1 else 's'} could be read"
        if not self._decoded:
            why = self._error or self._packets.error or "it holds none"
            return f"{self.path} has no frame that can be decoded ({why})"
        if self._missing:
            return f"{self.path} is truncated: at least {self._missing:,} bytes of it are missing; {read}"
        missing = self._missing_seconds()
        if missing > _SLACK_SECONDS + _SLACK_FRAMES / self.rate:
            return f"{self.path} is truncated: it ends {float(missing):.1f} s before the time that it states; {read}"
        if error := self._packets.error:
            return f"{self.path} is damaged: it cannot be read in {self._packets.errors} places ({error}); {read}"
        if self._errors:
            return f"{self.path} is damaged: {self._errors} frames or more are lost ({self._error}); {read}"
        if gaps := self._packets.gaps:
            return f"{self.path} is damaged: frames are missing in {gaps} place{'' if gaps == 1 else 's'}; {read}"
        if self._corrupt:
            return f"{self.path} is damaged: {self._corrupt} frames show errors; {read}"
        return ""

    def _missing_seconds(self) -> Fraction:
        """By how much the packets fall short of the length that the file states."""
        ends, stream = self._packets.ends, self._stream
        if self._packets.jumped or not ends:
            return Fraction(0)
        if stream.duration and stream.index in ends:
            return (stream.duration + (stream.start_time or 0)) * self.time_base - ends[stream.index]
        if self._container.duration and self._container.duration > 0:
            begin = self._container.start_time or 0
            return Fraction(self._container.duration + begin, self._av.time_base) - max(ends.values())
        return Fraction(0)

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Times:
    """The clock of the frames, which begins with the first and always goes on."""

    def __init__(self, time_base: Fraction, rate: Fraction, only_dts: bool = False) -> None:
        self._time_base, self._only_dts = time_base, only_dts
        self._step = max(round(1 / (rate * time_base)), 1)
        self._first: int | None = None
        self._last: int | None = None
        self._late = False
        # Of presentation and decoding times: the last, and how many did not rise.
        self._previous: dict[str, int] = {}
        self._faults = {"pts": 0, "dts": 0}
        self._waiting: list[tuple[Any, deque[SoundPacket]]] = []
        self.last_raw: int | None = None
        """The file's own time of the last frame."""

    def of(self, frame: Any) -> int:
        """When a frame is shown, whatever a damaged file says: later than the one before."""
        raw = self._believed(frame.pts, frame.dts)
        if self._last is None:
            self._first, self._last = raw if raw is not None else 0, 0
            self._release()
        else:
            assert self._first is not None
            time = self._last + self._step if raw is None else raw - self._first
            if late := time <= self._last:
                # One frame that is late goes in between; a clock that stands still is replaced.
                time = self._last + (self._step if self._late else max(self._step // 2, 1))
            self._last, self._late = time, late
        self.last_raw = raw if raw is not None else self.last_raw
        return self._last

    def _believed(self, pts: int | None, dts: int | None) -> int | None:
        """The one of a frame's two times that was wrong less often so far, as FFmpeg's own program chooses."""
        for name, value, other in (("dts", dts, pts), ("pts", pts, dts)):
            if value is not None:
                self._faults[name] += value <= self._previous.get(name, value - 1)
            if value is not None or other is not None:
                self._previous[name] = value if value is not None else other  # type: ignore[assignment]
        if self._only_dts and dts is not None:
            return dts
        return pts if pts is not None and (dts is None or self._faults["pts"] <= self._faults["dts"]) else dts

    def hold(self, packet: Any, sound: deque[SoundPacket]) -> None:
        """Put a packet of sound into ``sound`` with its time after the first frame, once that is known."""
        self._waiting.append((packet, sound))
        if self._first is not None:
            self._release()

    def _release(self) -> None:
        assert self._first is not None
        for packet, sound in self._waiting:
            clock = packet.pts if packet.pts is not None else packet.dts
            if clock is not None:
                seconds = clock * packet.time_base - self._first * self._time_base
                sound.append(SoundPacket(seconds, packet.stream_index, packet))
        self._waiting.clear()
