"""Many frames through one engine: several in work at once, results in order, and only as many as there is room for.

While one frame is in the network, the next is being read and resized, and the last one's charts are decoded.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from . import _core
from .backends.forked import FORKED
from .errors import CLOSED, InferenceError

if TYPE_CHECKING:
    from .decoders import DetectionResult
    from .pictures.read import Picture

_Result = TypeVar("_Result")
_END = object()


class BoundedExecutor:
    """Threads that take work, as much as ``size`` tasks; who brings more waits until one is done."""

    def __init__(self, size: int) -> None:
        self._room = _core.RequestPool(range(size))
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="densepose-engine")
        self._closed = False

    def submit(self, task: Callable[[], _Result]) -> Future[_Result]:
        """Start ``task`` as soon as there is room."""
        try:
            # Whoever is interrupted in here gives the place back, or else the worker does.
            with self._room.lease(keep=True) as place:
                return self._pool.submit(_task_in(place, task))
        except RuntimeError as error:
            if self._closed:  # while we waited
                raise ValueError(CLOSED) from error
            raise InferenceError(f"the system grants no thread for this picture ({error})") from error

    def close(self) -> None:
        """Wait for what is in work; nothing can be submitted afterwards."""
        self._closed = True
        self._pool.shutdown(wait=True)

    def disown(self) -> None:
        """See ``backends.forked.Inherited``."""
        self._room.abandon(InferenceError, FORKED)


def _task_in(place: Any, task: Callable[[], _Result]) -> Callable[[], _Result]:
    def run() -> _Result:
        try:
            return task()
        finally:  # in a worker, where no signal arrives
            place.give_back()

    return run


def stream(
    infer: Callable[[Picture], DetectionResult], frames: Iterable[Picture], depth: int
) -> Iterator[tuple[Picture, DetectionResult]]:
    """Pairs of frame and result, in the frames' order.

    Args:
        infer: what makes a result of a frame; several threads call it.
        frames: read by a thread of their own, one after the other, never more than ``depth`` ahead of the caller.
        depth: frames that are read but whose results were not yet handed out.

    What ``frames`` or ``infer`` raise is raised here, after the results of all frames before it, and ends the stream.
    When the iterator is closed or dropped, work in progress is waited for and no thread is left. In a forked child the
    stream ends with an InferenceError.
    """
    room = _core.RequestPool(range(depth))
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    workers = ThreadPoolExecutor(depth, thread_name_prefix="densepose-engine stream")
    process = os.getpid()

    def read() -> None:
        try:
            source = iter(frames)
            while True:
                with room.lease(keep=True) as place:
                    frame = next(source, _END)
                    if frame is _END:
                        break
                    waiting.put((place, frame, workers.submit(infer, frame)))  # type: ignore[arg-type]
            waiting.put(_END)
        except BaseException as error:  # also KeyboardInterrupt and SystemExit, which are the caller's
            waiting.put(error)
        finally:
            workers.shutdown(wait=False)  # after what they have; nobody else brings work

    reader = threading.Thread(target=read, name="densepose-engine reader", daemon=True)
    # However this ends, also by an interrupt while it ends: without room the reader ends, and with it the workers.
    with room.closing(ValueError, CLOSED):
        try:
            reader.start()
            while (entry := waiting.get()) is not _END:
                if isinstance(entry, BaseException):
                    raise entry
                place, frame, future = entry
                result = future.result()
                place.give_back()
                yield frame, result
                if os.getpid() != process:
                    raise InferenceError(FORKED)
        finally:
            if os.getpid() == process:  # a forked child has none of the threads, and perhaps locks that they held
                room.close(ValueError, CLOSED)
                if reader.is_alive():
                    reader.join()
                workers.shutdown(wait=True, cancel_futures=True)
