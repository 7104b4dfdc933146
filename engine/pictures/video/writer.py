"""Videos out: which codec each container gets, colors that players show as they are, and the sound of the source."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .frames import is_high_definition
from .library import pyav, reason
from .reader import SoundPacket

_H264 = ("libx264", "h264", "mpeg4")


@dataclass(frozen=True)
class _Container:
    """FFmpeg's name of a container, and the encoders that are tried, best first.

    constant_rate: it has a place for every tick of its clock, so the clock ticks once a frame.
    filled: players count frames in it instead of reading times, so that none of these places may be empty.
    clock: its own, if that is not the source's.
    sound: codecs of sound that players find in it; None where FFmpeg itself knows.
    """

    format: str
    encoders: tuple[str, ...]
    constant_rate: bool = False
    filled: bool = False
    clock: Fraction | None = None
    sound: frozenset[str] | None = None


_MPEG_SOUND = frozenset({"mp1", "mp2", "mp3", "ac3", "dts"})
_TS_SOUND = _MPEG_SOUND | {"aac", "aac_latm", "eac3", "opus", "truehd"}
#: Suffix -> what is written into such a file.
CONTAINERS = {
    ".mp4": _Container("mp4", _H264),
    ".m4v": _Container("mp4", _H264),
    ".mov": _Container("mov", _H264),
    ".mkv": _Container("matroska", _H264),
    ".webm": _Container("webm", ("libvpx-vp9", "libvpx")),
    ".avi": _Container("avi", _H264, constant_rate=True),
    ".mpg": _Container("vob", ("mpeg2video",), constant_rate=True, filled=True, sound=_MPEG_SOUND),
    ".mpeg": _Container("vob", ("mpeg2video",), constant_rate=True, filled=True, sound=_MPEG_SOUND),
    ".ts": _Container("mpegts", _H264[:2], clock=Fraction(1, 90_000), sound=frozenset(_TS_SOUND)),
    ".wmv": _Container("asf", ("wmv2", "msmpeg4")),
    ".flv": _Container("flv", (*_H264[:2], "flv")),
}
#: Containers that take a codec which changes no value of any pixel.
LOSSLESS_SUFFIXES = (".mkv", ".avi")
_LOSSLESS = "ffv1"
_LOSSLESS_FORMAT = "bgr0"

_FINEST_CLOCK = 1_000_000  # ticks per second; some files have a clock of 10 MHz, which encoders refuse
# What MPEG-4 and its relatives have room for in their headers.
_COARSE_CLOCKS = {"mpeg4": 65535, "msmpeg4": 65535, "wmv2": 65535, "flv": 65535}
# Frames per second: those that ISO 13818-2 has numbers for, and the higher ones that its extension gives.
_MPEG2_RATES = tuple(
    Fraction(rate) * scale
    for rate, scale in (
        *((24, Fraction(1000, 1001)), (24, 1), (25, 1), (30, Fraction(1000, 1001)), (30, 1), (50, 1)),
        *((60, Fraction(1000, 1001)), (60, 1), (100, 1), (120, 1), (240, 1)),
    )
)
_BITS_PER_PIXEL = 0.25  # of encoders that must be told; nobody sees a difference from there on
_LOWEST_BIT_RATE = 1_000_000
_ALLOWED_LEAD = Fraction(1, 10)  # seconds of sound before the first picture that containers can express
# FFmpeg's numbers.
_SPACE_BT709, _SPACE_BT601, _SWSCALE_BT709, _SWSCALE_BT601 = 1, 6, 1, 5
_PRIMARIES_BT709, _TRANSFER_BT709, _LIMITED = 1, 1, 1
_BICUBIC, _ACCURATE = 4, 0x40000


class VideoWriter:
    """A video file that is written frame by frame; the first frame decides its size.

    H.264 where FFmpeg has an encoder for it and the container takes it, else the container's own choice. Sides are made
    even, which these codecs need, by repeating the last row or column. Colors are BT.709 from 720 lines up (more
    exactly, for videos wider than 1279 or higher than 576 pixels), else BT.601, and tagged so.

    Args:
        path: the file; its suffix is one of ``CONTAINERS``.
        rate: frames per second, on average.
        time_base: the unit of times, in seconds.
        lossless: write FFV1 with the frames' own values and size; for the suffixes in ``LOSSLESS_SUFFIXES``.
        sound: PyAV's streams whose packets ``write_sound`` will bring; ``sound_left_out`` says which do not fit.
        lead: by how many seconds the sound begins before the first frame.

    Raises:
        ValueError: no codec for a file with this suffix.
        BackendUnavailable: PyAV is not installed.
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rate: Fraction,
        time_base: Fraction,
        lossless: bool = False,
        sound: Sequence[Any] = (),
        lead: Fraction = Fraction(0),
    ) -> None:
        self._av = pyav()
        self._path = Path(path)
        suffix = self._path.suffix.lower()
        if suffix not in CONTAINERS or (lossless and suffix not in LOSSLESS_SUFFIXES):
            raise self._unknown(lossless)
        kind = CONTAINERS[suffix]
        self._codec = self._choose_codec((_LOSSLESS,) if lossless else kind.encoders, lossless)
        self._lossless = lossless
        self._rate, self._time_base = _mpeg2_rate(rate) if kind.filled else rate, time_base
        self._clock = 1 / self._rate if kind.constant_rate else kind.clock or _clock(self._codec.name, time_base)
        self._lead = lead if lead > _ALLOWED_LEAD else Fraction(0)
        self._reformatter: Any = None
        self._colors: dict[str, int] = {}
        self._last = -1
        self._previous: Any = None
        self.count = 0
        self.size: tuple[int, int] | None = None
        """(height, width) of the frames, once there is one."""
        self.sound_left_out: list[str] = []
        """A sentence's end for each stream of sound that is not in the file."""
        try:
            self._container = self._av.open(os.fspath(self._path), "w", format=kind.format)
        except self._av.FFmpegError as error:
            raise self._failed(error) from error
        self._stream: Any = None
        self._sound: dict[int, _Sound] = {}
        self._offered = tuple(sound)
        self._kind = kind

    def _choose_codec(self, names: tuple[str, ...], lossless: bool) -> Any:
        for name in names:
            if name in self._av.codecs_available:
                with suppress(self._av.FFmpegError, ValueError):
                    return self._av.Codec(name, "w")
        raise self._unknown(lossless)

    def _unknown(self, lossless: bool) -> ValueError:
        what = "makes a lossless video" if lossless else "makes a video"
        safe = " and ".join(LOSSLESS_SUFFIXES if lossless else (".mp4", ".mkv"))
        return ValueError(f"no encoder {what} called *{self._path.suffix}; {safe} are safe choices")

    def begin(self, height: int, width: int) -> None:
        """Open the encoder for frames of this size and write the file's header: what can fail early, fails here.

        Raises:
            OSError: the encoder refuses this size or rate, or the file cannot be written.
        """
        self.size = (height, width)
        try:
            stream = self._container.add_stream(self._codec.name, rate=self._rate)
            context = stream.codec_context
            context.time_base = self._clock
            if self._lossless:
                stream.width, stream.height, stream.pix_fmt = width, height, _LOSSLESS_FORMAT
            else:
                stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
                self._tag(context)
                self._tune(context)
            context.open(strict=False)
        except (self._av.FFmpegError, ValueError) as error:
            text = f"the encoder {self._codec.name} refuses frames of {width} x {height} ({reason(error)})"
            raise OSError(errno.EINVAL, text, os.fspath(self._path)) from error
        self._stream = stream
        try:
            for source in self._offered:
                self._add_sound(source)
            self._container.start_encoding()
        except (self._av.FFmpegError, ValueError) as error:
            raise self._failed(error) from error

    def _tag(self, context: Any) -> None:
        assert self.size is not None
        high = is_high_definition(*self.size)
        context.colorspace = _SPACE_BT709 if high else _SPACE_BT601
        context.color_range, context.color_primaries, context.color_trc = _LIMITED, _PRIMARIES_BT709, _TRANSFER_BT709
        matrix = _SWSCALE_BT709 if high else _SWSCALE_BT601
        # The source's matrix is none, as it is RGB; older releases of PyAV look only whether the two differ.
        self._colors = {"src_colorspace": _SWSCALE_BT601, "dst_colorspace": matrix, "dst_color_range": _LIMITED}

    def _tune(self, context: Any) -> None:
        name = self._codec.name
        if name == "libx264":
            # AVI has no place for the times of frames that are stored out of order.
            context.options = {"bf": "0"} if self._kind.format == "avi" else {}
        elif name.startswith("libvpx"):
            context.options = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        else:
            pixels = context.width * context.height
            context.bit_rate = max(int(_BITS_PER_PIXEL * pixels * self._rate), _LOWEST_BIT_RATE)
            context.bit_rate_tolerance = context.bit_rate

    def _add_sound(self, source: Any) -> None:
        name = source.codec_context.name
        if self._takes(source):
            self._sound[source.index] = _Sound(self._container.add_stream_from_template(source))
            return
        fitting = [suffix for suffix in (".mp4", ".mkv") if suffix != self._path.suffix.lower()]
        self.sound_left_out.append(f"{name} does not fit into {self._path.suffix}; {fitting[-1]} takes it")

    def _takes(self, source: Any) -> bool:
        """Whether the container does, by trying it on a file in memory."""
        name = source.codec_context.name
        if self._kind.sound is not None and source.codec_context.codec.canonical_name not in self._kind.sound:
            return False
        try:
            with self._av.open(io.BytesIO(), "w", format=self._kind.format) as trial:
                for index in [*self._sound, source.index]:
                    trial.add_stream_from_template(source if index == source.index else self._sound[index].stream)
                trial.start_encoding()
        except (self._av.FFmpegError, ValueError, NotImplementedError):
            return False
        return bool(name)

    def write(self, rgb: np.ndarray, time: int) -> None:
        """Add a uint8 RGB frame at ``time``, in units of the time base, rising from frame to frame."""
        size = (rgb.shape[0], rgb.shape[1])
        if self._stream is None:
            self.begin(*size)
        if size != self.size:
            assert self.size is not None
            raise ValueError(f"frame {self.count} is {size[1]} x {size[0]}, the video {self.size[1]} x {self.size[0]}")
        try:
            for frame in self._placed(rgb, time):
                self._container.mux(self._stream.encode(frame))
        except self._av.FFmpegError as error:
            raise self._failed(error) from error
        self.count += 1

    def _placed(self, rgb: np.ndarray, time: int) -> Iterator[Any]:
        """The frame as the encoder wants it, and before it the one before as often as there are empty places."""
        # Two frames on one tick of a coarse clock: the second waits for the next.
        tick = max(round((self._exact(time) + self._lead) / self._clock), self._last + 1)
        if self._kind.filled and self._previous is not None:
            for empty in range(self._last + 1, tick):
                self._previous.pts = empty
                yield self._previous
        coded = self._coded(rgb)
        coded.pts, coded.time_base = tick, self._clock
        self._last, self._previous = tick, coded if self._kind.filled else None
        yield coded

    def _exact(self, time: int) -> Fraction:
        """Seconds; those of a steady rate where the source's clock had to round them, as Matroska's thousandths do."""
        seconds = time * self._time_base
        steady = round(seconds * self._rate) / self._rate
        return steady if abs(steady - seconds) < self._time_base else seconds

    def _coded(self, rgb: np.ndarray) -> Any:
        height, width = rgb.shape[:2]
        if not self._lossless and (height % 2 or width % 2):
            rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        if self._reformatter is None:
            self._reformatter = self._av.video.reformatter.VideoReformatter()
        return self._reformatter.reformat(
            frame, format=self._stream.pix_fmt, interpolation=_BICUBIC | _ACCURATE, **self._colors
        )

    def write_sound(self, sound: SoundPacket) -> None:
        """Add a packet of one of the streams of sound as it is.

        What the container does not take after all is left out, and said in ``sound_left_out``.
        """
        track = self._sound.get(sound.stream)
        if track is None:
            return
        try:
            track.place(sound.packet, sound.seconds + self._lead)
            self._container.mux(sound.packet)
        except (self._av.FFmpegError, ValueError) as error:
            if isinstance(error, OSError) and not isinstance(error, ValueError):
                raise self._failed(error) from error
            del self._sound[sound.stream]
            self.sound_left_out.append(f"{self._path.suffix} does not take it ({reason(error)})")

    def close(self) -> None:
        """Write what is buffered; the file is a video only after this."""
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        except self._av.FFmpegError as error:
            self.abandon()  # or the container would try it again when it is collected, and complain on stderr
            raise self._failed(error) from error

    def abandon(self) -> None:
        """Let the file be what it is, and release it."""
        with suppress(OSError, ValueError):
            self._container.close()

    def _failed(self, error: Exception) -> OSError:
        return OSError(getattr(error, "errno", None) or 0, f"FFmpeg says: {reason(error)}", os.fspath(self._path))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


class _Sound:
    """One stream of sound in the output, whose packets must come with rising times."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._last: int | None = None

    def place(self, packet: Any, seconds: Fraction) -> None:
        """Give a packet its time in the output."""
        base = packet.time_base
        pts = round(seconds / base)
        decode = pts if packet.dts is None or packet.pts is None else pts + packet.dts - packet.pts
        if self._last is not None and decode <= self._last:
            decode = self._last + 1
        self._last = decode
        packet.pts, packet.dts = max(pts, decode), decode
        packet.stream = self.stream


def _clock(encoder: str, time_base: Fraction) -> Fraction:
    """The unit of times in the output, as close to the source's as the encoder allows."""
    finest = _COARSE_CLOCKS.get(encoder, _FINEST_CLOCK)
    if time_base.denominator <= finest:
        return time_base
    return Fraction(1, 1000 if finest < _FINEST_CLOCK else 90_000)


def _mpeg2_rate(rate: Fraction) -> Fraction:
    """The lowest rate that MPEG-2 has a number for and that is a multiple of ``rate``, or else is not below it."""
    within = Fraction(1, 1000)
    for allowed in _MPEG2_RATES:
        times = round(allowed / rate)
        if times and abs(allowed / rate / times - 1) < within:
            return allowed
    if rate > _MPEG2_RATES[-1]:
        raise ValueError(f"MPEG-2 has no rate of {float(rate):.0f} frames per second; .mp4 and .mkv take any")
    return next(allowed for allowed in _MPEG2_RATES if allowed > rate)
