"""``densepose-engine infer video.mp4 -o out.mp4``: the part of ``infer`` that works on videos."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..output_files import OutputError, atomic_output, check_outputs
from ..outputs.kinds import OUTPUT_KINDS, Look
from ..progress import ProgressBar
from ..terminal import printable
from ..video import VideoReader, VideoWriter, is_video

if TYPE_CHECKING:
    import numpy as np

    from ..engine import Engine
    from ..result import DensePoseResult

#: What can be drawn on a video; "iuv" is the IUV image itself.
OVERLAYS = tuple(kind for kind, made in OUTPUT_KINDS.items() if made.render is not None)


def target(arguments: Namespace, folder: Path) -> tuple[Path | None, str]:
    """Where the video goes (None: nowhere) and what is drawn on it.

    Raises:
        ValueError: the arguments are for pictures.
        OutputError: there is something in the way.
    """
    (source,) = arguments.pictures if len(arguments.pictures) == 1 else (None,)
    if source is None:
        raise ValueError("a video is worked on alone; give one video, or pictures")
    kinds = arguments.save or ("parts",)
    if len(kinds) > 1 or kinds[0] not in OVERLAYS:
        raise ValueError(f"of a video one of {','.join(OVERLAYS)} is saved, not {','.join(kinds)}")
    if arguments.json and arguments.output is None and arguments.save is None:
        return None, kinds[0]
    path = arguments.output or folder
    if not is_video(path):
        path = path / f"{source.stem}.{kinds[0]}.mp4"
    if path.absolute() == source.absolute():
        raise OutputError(f"{path} is the video itself, it would be overwritten; -o names another")
    check_outputs([path], arguments.force)
    return path, kinds[0]


def run(arguments: Namespace, folder: Path, load: Callable[[], Engine], settings: dict[str, Any]) -> int:
    """Work on the one video among ``arguments.pictures``; ``load`` makes the engine."""
    path, kind = target(arguments, folder)
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(arguments.pictures[0]))
        engine = stack.enter_context(load())
        writer = None
        if path is not None:
            temporary = stack.enter_context(atomic_output(path))
            writer = stack.enter_context(VideoWriter(temporary, reader.rate, reader.time_base))
        bar = stack.enter_context(ProgressBar(reader.count, "frames", enabled=not arguments.quiet, rate=True))
        begin, count, people = time.perf_counter(), 0, 0
        for at, frame, result in infer_video(engine, reader, settings):
            if writer is not None:
                writer.write(_drawn(frame, result, kind, arguments.look), at)
            if arguments.json:
                bar.clear()
                seconds = float(at * reader.time_base)
                print(json.dumps({"frame": count, "seconds": round(seconds, 6), **result.to_dict()}), flush=True)
            count += 1
            people += len(result)
            bar.advance()
        seconds = time.perf_counter() - begin
    if not arguments.quiet and not arguments.json:
        per_frame = f"{people / count:.1f} people a frame, " if count else ""
        where = f"{printable(path)}: " if path is not None else ""
        print(f"{where}{count} frames, {per_frame}{count / max(seconds, 1e-9):.1f} frames per second from file to file")
    return 0


def infer_video(
    engine: Engine, reader: VideoReader, settings: dict[str, Any]
) -> Iterator[tuple[int, np.ndarray, DensePoseResult]]:
    """Time (in units of the reader's), frame and result of each frame; decoding runs ahead in a thread of its own."""
    times: deque[int] = deque()

    def frames() -> Iterator[np.ndarray]:
        for at, rgb in reader.frames():
            times.append(at)
            yield rgb

    for frame, result in engine.stream(frames(), **settings):
        yield times.popleft(), cast("np.ndarray", frame), result


def _drawn(frame: np.ndarray, result: DensePoseResult, kind: str, look: Look) -> np.ndarray:
    render = OUTPUT_KINDS[kind].render
    assert render is not None
    return render(frame, result, look)
