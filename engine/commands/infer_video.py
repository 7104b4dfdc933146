"""``densepose-engine infer video.mp4 -o out.mp4``: the part of ``infer`` that works on videos."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import ImageError, InferenceError
from ..files.output_files import OutputError
from ..video import VideoReader
from ..wording import printable
from .progress import ProgressBar
from .terminal import say
from .video_outputs import VideoOutput, planned_outputs, sound_wanted

if TYPE_CHECKING:
    import numpy as np

    from ..decoders import DetectionResult
    from ..engine import Engine

_SOME_FAILED = 1


@dataclass
class _Progress:
    """How far the work is, and what ended it before the video's end."""

    count: int = 0
    people: int = 0
    seconds: float = 0.0
    until: Fraction = Fraction(0)
    stopped: BaseException | None = None


def run(arguments: Namespace, folder: Path, load: Callable[[], Engine], settings: dict[str, Any]) -> int:
    """Work on the one video among ``arguments.pictures``; ``load`` makes the engine.

    Whatever ends the work early (a damaged file, a failing runtime, Ctrl-C), the frames that were done are kept.
    """
    outputs = planned_outputs(arguments, folder)
    # Signals reach the main thread alone: what another writes is never cut off in the middle.
    with VideoReader(arguments.pictures[0], keep_sound=sound_wanted(outputs)) as reader, _writing_thread() as writing:
        progress = _Progress()
        try:
            _ = reader.size  # a file without a single frame is found before the engine is loaded
            for output in outputs:
                writing.submit(output.begin, reader).result()
            with load() as engine:
                _work(engine, reader, outputs, writing, arguments, settings, progress)
            kept, remarks = writing.submit(_finish, reader, outputs, progress).result()
        finally:
            writing.submit(_abandon, outputs).result()
        for remark in (*reader.remarks, *remarks):
            say(f"warning: {printable(remark)}")
    return _report(arguments, reader, outputs, kept, progress)


def _writing_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="densepose-engine writer")


def _work(
    engine: Engine,
    reader: VideoReader,
    outputs: Sequence[VideoOutput],
    writing: ThreadPoolExecutor,
    arguments: Namespace,
    settings: dict[str, Any],
    progress: _Progress,
) -> None:
    begin = time.perf_counter()
    try:
        with ProgressBar(reader.count, "frames", enabled=not arguments.quiet, rate=True) as bar:
            for at, frame, result in infer_video(engine, reader, settings):
                progress.until = at * reader.time_base + 1 / reader.rate
                for output in outputs:
                    writing.submit(output.write, at, frame, result).result()
                _copy_sound(reader, outputs, writing, progress.until)
                number = progress.count
                progress.count += 1
                progress.people += len(result)
                if arguments.json:
                    bar.clear()
                    seconds = round(float(at * reader.time_base), 6)
                    print(json.dumps({"frame": number, "seconds": seconds, **result.to_dict()}), flush=True)
                bar.advance()
    except BaseException as error:
        if not progress.count:
            raise
        progress.stopped = error
    finally:
        progress.seconds = time.perf_counter() - begin


def _copy_sound(
    reader: VideoReader, outputs: Sequence[VideoOutput], writing: ThreadPoolExecutor, until: Fraction | None
) -> None:
    if packets := reader.take_sound(until):
        for output in outputs:
            writing.submit(output.write_sound, packets).result()


def _finish(
    reader: VideoReader, outputs: Sequence[VideoOutput], progress: _Progress
) -> tuple[list[VideoOutput], list[str]]:
    """The outputs that are kept, and remarks. One that cannot be finished does not cost the others."""
    kept, remarks = [], []
    whole = progress.stopped is None or isinstance(progress.stopped, ImageError)
    # Of a video that was not read to its end, as much sound as there are pictures.
    packets = reader.take_sound(None if whole else progress.until)
    for output in outputs:
        if not output.count:
            continue
        try:
            output.write_sound(packets)
            remarks += output.finish()
            kept.append(output)
        except OutputError as error:
            progress.stopped = progress.stopped or error
    return kept, remarks


def _abandon(outputs: Sequence[VideoOutput]) -> None:
    for output in outputs:
        output.abandon()


def _report(
    arguments: Namespace,
    reader: VideoReader,
    outputs: Sequence[VideoOutput],
    kept: Sequence[VideoOutput],
    progress: _Progress,
) -> int:
    count, stopped = progress.count, progress.stopped
    where = "".join(f"{printable(output.path)}: " for output in kept[:1])
    if stopped is None:
        if not arguments.quiet and not arguments.json:
            rate = count / max(progress.seconds, 1e-9)
            people = f"{progress.people / count:.1f} people a frame, " if count else ""
            print(f"{where}{count} frames, {people}{rate:.1f} frames per second from file to file")
        return 0
    if kept:
        names = ", ".join(printable(output.path) for output in kept)
        done = max(output.count for output in kept)
        say(f"warning: the {done} frames that were done are kept in {names}")
    if isinstance(stopped, (ImageError, InferenceError, MemoryError)):
        text = str(stopped) or "there is not enough memory"
        named = text if str(reader.path) in text else f"{reader.path}, after {count} frames: {text}"
        say(f"error: {printable(named)}")
        return _SOME_FAILED
    raise stopped


def infer_video(
    engine: Engine, reader: VideoReader, settings: dict[str, Any]
) -> Iterator[tuple[int, np.ndarray, DetectionResult]]:
    """Time (in units of the reader's), frame and result of each frame; decoding runs ahead in a thread of its own."""
    times: deque[int] = deque()

    def frames() -> Iterator[np.ndarray]:
        for at, rgb in reader.frames():
            times.append(at)
            yield rgb

    for frame, result in engine.stream(frames(), **settings):
        yield times.popleft(), cast("np.ndarray", frame), result
