"""The compressed pictures and sound of a video file, in its order, past what is damaged, with times that run on.

Which of several streams is the video, and what becomes of clocks that jump, is decided as FFmpeg's own program does it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from ...errors import ImageError
from .library import pyav, reason

# FFmpeg's own program: how it prefers the default stream, and from when on it takes a clock for a new one, in seconds.
_DEFAULT_STREAM_PIXELS = 5_000_000
_JUMP_BACK, _JUMP_AHEAD = Fraction(1, 10), 10
_CLOCKS_MAY_JUMP = 0x0200  # AVFMT_TS_DISCONT
_SAME_JUMP = 1  # seconds: two streams of a recording are joined at about the same time
# Demuxers that look for the next sound place by themselves and say nothing: what they skip is seen between packets.
_SKIPPING_FORMATS = ("matroska", "flv")
_OVERHEAD = 256  # bytes between two packets that need no explanation
_GAP = Fraction(3, 2)  # frames
_READ_ERRORS = 64  # one after the other: then there is nothing more to come
_FALLBACK_RATE = Fraction(25)
_HIGHEST_RATE = 480  # frames per second; a container without a rate states its clock's instead


def open_video(path: Path) -> Any:
    """PyAV's container. Raises ``ImageError`` where there is none."""
    av = pyav()
    try:
        return av.open(os.fspath(path), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise ImageError(f"{path} cannot be read as a video ({reason(error)}{_what_is_missing(path)})") from error


def _what_is_missing(path: Path) -> str:
    """An MP4 that was never finished is the usual one; FFmpeg calls it invalid data."""
    try:
        with path.open("rb") as stream:
            is_mp4 = stream.read(8)[4:] == b"ftyp"
            unfinished = is_mp4 and b"moov" not in stream.read(1 << 20)
    except OSError:
        return ""
    return "; its index is missing, which is written last: the recording was not finished" if unfinished else ""


def choose_stream(container: Any, path: Path) -> Any:
    """The video that players show: the default one, then the largest, then the first; no cover picture.

    Raises:
        ImageError: there is none, or none that can be decoded.
    """
    disposition = pyav().stream.Disposition
    pictures = disposition.attached_pic | disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        only = "only a cover picture, and no video" if container.streams.video else "no video"
        raise ImageError(f"{path} has {only} in it")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise ImageError(f"{path} is coded in a way that the installed FFmpeg cannot decode")

    def score(stream: Any) -> int:
        default = _DEFAULT_STREAM_PIXELS if stream.disposition & disposition.default else 0
        return int(stream.codec_context.width * stream.codec_context.height + default)

    return max(decodable, key=score)  # the first of equals


def rate_of(stream: Any) -> Fraction:
    """Frames per second, on average; 25 where the file says nothing that can be believed."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= _HIGHEST_RATE:
            return Fraction(rate)
    return _FALLBACK_RATE


class PacketReader:
    """The packets of ``stream`` and of ``sound`` streams, once.

    Packets that cannot be read are left out and counted. Where a container's clock may start anew (joined recordings
    in MPEG streams), ``pts`` and ``dts`` are changed so that they run on.
    """

    def __init__(self, container: Any, stream: Any, sound: tuple[Any, ...] = ()) -> None:
        self._container, self._stream, self._sound = container, stream, sound
        self._jumps = bool(int(container.format.flags) & _CLOCKS_MAY_JUMP)
        self._offsets: dict[int, Fraction] = {}
        self._expected: dict[int, Fraction] = {}
        self.errors = 0
        """How often reading failed."""
        self.error = ""
        """What FFmpeg said when it last failed."""
        self.ends: dict[int, Fraction] = {}
        """Stream -> the latest time that its packets cover, in seconds of the file's own clock."""
        self.jumped = False
        """Whether a clock started anew."""
        self.gaps = 0
        """How often pictures are missing behind a place that the demuxer skipped or found damaged."""
        self._skips = container.format.name.startswith(_SKIPPING_FORMATS)
        self._byte: int | None = None
        # ASF: all frames that begin in one of its packets, which are of one length, have that packet's place.
        self._of_packets = container.format.name == "asf"
        self._packet_length = 0
        self._suspicious = False

    def __iter__(self) -> Iterator[Any]:
        failed = 0
        while True:
            try:
                for packet in self._container.demux():  # all: how far each goes tells whether the file is whole
                    failed = 0
                    if packet.size == 0:  # of PyAV, at the end: to flush decoders
                        continue
                    self._watch(packet)
                    self._extend(packet)
                    if packet.stream is self._stream or packet.stream in self._sound:
                        self._run_on(packet)
                        yield packet
                return
            except (pyav().FFmpegError, ValueError) as error:
                failed += 1
                self.errors += 1
                self.error = reason(error)
                if failed == _READ_ERRORS:
                    return

    def _watch(self, packet: Any) -> None:
        """Notice what is skipped. A clock that starts anew also looks damaged: only a gap in time proves it."""
        if self._skips and packet.pos is not None and packet.pos >= 0:
            if self._byte is not None and packet.pos - self._byte > _OVERHEAD:
                self._suspicious = True
            self._byte = max(self._byte or 0, packet.pos + packet.size)
        if self._of_packets and packet.pos is not None:
            step = packet.pos - (packet.pos if self._byte is None else self._byte)
            self._packet_length = self._packet_length or step
            self._suspicious |= bool(step and step % self._packet_length)
            self._byte = packet.pos
        self._suspicious |= packet.is_corrupt

    def _extend(self, packet: Any) -> None:
        begin = packet.pts if packet.pts is not None else packet.dts
        if begin is None or packet.time_base is None:
            return
        end = (begin + (packet.duration or 0)) * packet.time_base
        index = packet.stream_index
        self.ends[index] = max(self.ends.get(index, end), end)

    def _run_on(self, packet: Any) -> None:
        """Move a packet by as much as its clock jumped before it, and see whether any is missing before it."""
        clock = packet.dts if packet.dts is not None else packet.pts
        base = packet.time_base
        if clock is None or base is None:
            return
        index = packet.stream_index
        raw = clock * base
        offset = self._offsets.get(index, Fraction(0))
        expected = self._expected.get(index)
        length = packet.duration * base if packet.duration else Fraction(0)
        if packet.stream is self._stream:
            length = length or 1 / rate_of(self._stream)
            if self._suspicious and expected is not None:
                self.gaps += raw + offset - expected > _GAP * length
                self._suspicious = packet.is_corrupt
        if self._jumps and expected is not None:
            delta = raw + offset - expected
            if delta < -_JUMP_BACK or delta > _JUMP_AHEAD:
                self.jumped = True
                offset = self._offset_of_others(index, offset, raw, expected) or offset - delta
        self._offsets[index] = offset
        if ticks := round(offset / base):
            packet.pts = packet.pts + ticks if packet.pts is not None else None
            packet.dts = packet.dts + ticks if packet.dts is not None else None
        self._expected[index] = raw + offset + length

    def _offset_of_others(self, index: int, mine: Fraction, raw: Fraction, expected: Fraction) -> Fraction | None:
        """Another stream's jump, if it was the same one: they must not drift apart."""
        for other, offset in self._offsets.items():
            if other != index and offset != mine and abs(raw + offset - expected) < _SAME_JUMP:
                return offset
        return None
