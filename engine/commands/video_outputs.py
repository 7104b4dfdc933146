"""What ``infer`` writes of a video: videos with overlays, lossless IUV videos, and files of every frame."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..files.output_files import OutputError, atomic_output, check_outputs
from ..files.recognize import names_a_file
from ..outputs.kinds import NPZ, OUTPUT_KINDS, Look
from ..video import LOSSLESS_SUFFIXES, SUFFIXES, SoundPacket, VideoReader, VideoWriter, is_video

if TYPE_CHECKING:
    import numpy as np

    from ..decoders import DetectionResult

_DIGITS = 6


class VideoOutput(Protocol):
    """Something that is made of a video, frame by frame, and is kept as far as it got."""

    path: Path
    """What a message names."""
    count: int
    """Frames that are in it; 0 again if it had to be given up."""

    def begin(self, reader: VideoReader) -> None:
        """Open it, before the work: what can fail fails here. Raises ``OutputError``."""

    def write(self, at: int, frame: np.ndarray, result: DetectionResult) -> None:
        """Add a frame. Raises ``OutputError``; then the output is gone or, of single files, keeps what it has."""

    def write_sound(self, packets: Sequence[SoundPacket]) -> None:
        """Add sound, where there is a place for it. Raises as ``write`` does."""

    def finish(self) -> list[str]:
        """Put it where it belongs, and give remarks. Raises ``OutputError``."""

    def abandon(self) -> None:
        """Leave nothing unfinished behind; after ``finish`` there is nothing to do."""


def planned_outputs(arguments: Namespace, default_folder: Path) -> list[VideoOutput]:
    """The outputs that the arguments ask for, checked as far as they can be without opening anything.

    Raises:
        ValueError: the arguments are for pictures, or ask for what no video can be.
        OutputError: there is something in the way.
    """
    if len(arguments.pictures) != 1:
        raise ValueError("a video is worked on alone; give one video, or pictures")
    (source,) = arguments.pictures
    kinds: Sequence[str] = arguments.save or tuple(arguments.kinds)[:1]
    if arguments.json and arguments.output is None and arguments.save is None:
        return []
    path: Path | None = arguments.output
    if path is not None and names_a_file(path):
        return [_one_file(path, source, kinds, arguments)]
    folder = path or default_folder
    # A folder that was named gets what the pictures' folder gets; without a name, one file is easier to find.
    frames = [kind for kind in kinds if kind == NPZ or (OUTPUT_KINDS[kind].data and path is not None)]
    videos = [kind for kind in kinds if kind not in frames]
    planned: list[VideoOutput] = []
    for kind in videos:
        suffix = LOSSLESS_SUFFIXES[0] if OUTPUT_KINDS[kind].data else ".mp4"
        planned.append(_video(folder / f"{source.stem}.{kind}{suffix}", source, kind, arguments))
    if frames:
        files = FrameFiles(folder, source.stem, frames, arguments.look)
        files.check(arguments.force)
        planned.append(files)
    return planned


def _one_file(path: Path, source: Path, kinds: Sequence[str], arguments: Namespace) -> VideoOutput:
    if not is_video(path):
        raise ValueError(
            f"-o {path} looks like a file, but no video can be written as *{path.suffix}: use one of "
            f"{', '.join(SUFFIXES)} (-o {path.with_suffix('.mp4')}), or name a folder (-o {path.with_suffix('')})"
        )
    if len(kinds) > 1:
        raise ValueError(f"-o {path} is one file, and {','.join(kinds)} are several; name a folder, or save one kind")
    if kinds[0] == NPZ:
        raise ValueError(f"{NPZ} is a file of every frame and does not fit into {path}; name a folder")
    return _video(path, source, kinds[0], arguments)


def _video(path: Path, source: Path, kind: str, arguments: Namespace) -> VideoOutput:
    if OUTPUT_KINDS[kind].data and path.suffix.lower() not in LOSSLESS_SUFFIXES:
        raise ValueError(
            f"{path} would be compressed with losses, which turn the IUV image's part numbers into others: name a "
            f"{' or '.join(LOSSLESS_SUFFIXES)} file, which is written without losses (FFV1), or a folder, which gets a "
            "PNG of every frame; --save npz writes the results of every frame as data"
        )
    if path.absolute() == source.absolute() or (path.exists() and source.exists() and path.samefile(source)):
        raise OutputError(f"{path} is the video itself, it would be overwritten; -o names another")
    check_outputs([path], arguments.force)
    return VideoFile(path, kind, arguments.look)


class VideoFile:
    """A video of one kind, with the sound of the source; it appears at ``path`` when it is finished."""

    def __init__(self, path: Path, kind: str, look: Look) -> None:
        self.path, self.count = path, 0
        self._kind, self._look = kind, look
        self._stack = ExitStack()
        self._writer: VideoWriter | None = None

    def begin(self, reader: VideoReader) -> None:
        temporary = self._stack.enter_context(atomic_output(self.path))
        writer = VideoWriter(
            temporary,
            reader.rate,
            reader.time_base,
            lossless=OUTPUT_KINDS[self._kind].data,
            sound=reader.sound_streams,
            lead=reader.sound_lead,
        )
        self._stack.push(writer.__exit__)
        try:
            writer.begin(*reader.size)
        except OSError as error:
            self._drop(error)
        self._writer = writer

    def write(self, at: int, frame: np.ndarray, result: DetectionResult) -> None:
        render = OUTPUT_KINDS[self._kind].render
        assert self._writer is not None and render is not None
        try:
            self._writer.write(render(frame, result, self._look), at)
        except OSError as error:
            self._drop(error)
        self.count += 1

    def write_sound(self, packets: Sequence[SoundPacket]) -> None:
        assert self._writer is not None
        try:
            for packet in packets:
                self._writer.write_sound(packet)
        except OSError as error:
            self._drop(error)

    def finish(self) -> list[str]:
        assert self._writer is not None
        try:
            self._stack.close()
        except OSError as error:
            self._drop(error)
        return [f"{self.path} lacks sound of the video: {text}" for text in self._writer.sound_left_out]

    def abandon(self) -> None:
        self._stack.__exit__(_Abandoned, _Abandoned(), None)

    def _drop(self, error: OSError) -> None:
        after = f", after {self.count} frames, which are lost" if self.count else ""
        self.abandon()
        self.count = 0
        raise OutputError(f"cannot write {self.path}: {error.strerror or error}{after}") from error


class _Abandoned(Exception):
    """Ends the contexts of an output that is given up; nobody sees it."""


class FrameFiles:
    """Files of every frame, as pictures get them: NAME.000000.iuv.png, NAME.000000.npz, and NAME.frames.csv.

    The table gives every frame's number and its time in seconds after the first.
    """

    def __init__(self, folder: Path, name: str, kinds: Sequence[str], look: Look) -> None:
        self.path, self.count = folder, 0
        self._name, self._look = name, look
        self._kinds = {kind: OUTPUT_KINDS[kind] for kind in kinds}
        self._times: list[Fraction] = []
        self._table = folder / f"{name}.frames.csv"
        self._time_base = Fraction(1)

    def _file(self, number: int, kind: str) -> Path:
        return self.path / f"{self._name}.{number:0{_DIGITS}}{self._kinds[kind].suffix}"

    def check(self, force: bool) -> None:
        """Raises ``OutputError`` where files of an earlier run are in the way, or could not be written."""
        check_outputs([self._table, *(self._file(0, kind) for kind in self._kinds)], force)
        if self.path.is_dir() and not force:
            digits = "[0-9]" * _DIGITS
            for kind in self._kinds.values():
                prefix, suffix = f"{self._name}.", kind.suffix
                for path in sorted(self.path.glob(f"*.{digits}{suffix}")):
                    if path.name.startswith(prefix) and len(path.name) == len(prefix) + _DIGITS + len(suffix):
                        check_outputs([path], force)

    def begin(self, reader: VideoReader) -> None:
        self._time_base = reader.time_base

    def write(self, at: int, frame: np.ndarray, result: DetectionResult) -> None:
        for kind, output in self._kinds.items():
            with atomic_output(self._file(self.count, kind)) as temporary:
                output.save(frame, result, self._look, temporary)
        self._times.append(at * self._time_base)
        self.count += 1

    def write_sound(self, packets: Sequence[SoundPacket]) -> None:
        return

    def finish(self) -> list[str]:
        with atomic_output(self._table) as temporary, temporary.open("w", newline="") as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(("frame", "seconds"))
            table.writerows((number, f"{float(seconds):.6f}") for number, seconds in enumerate(self._times))
        return []

    def abandon(self) -> None:
        return


def sound_wanted(outputs: Sequence[Any]) -> bool:
    """Whether one of them has sound."""
    return any(isinstance(output, VideoFile) for output in outputs)
