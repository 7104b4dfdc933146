"""Requests to end, however they come: what SIGINT does, SIGTERM and SIGHUP do too.

``docker stop``, systemd, ``timeout`` and batch systems send SIGTERM, a closed terminal SIGHUP. By default both end a
process at once, and leave what it was writing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end; ``number``: which one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return signal.Signals(self.number).name


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Inside the block, SIGTERM and SIGHUP raise ``Terminated`` in the main thread, once.

    Whoever ignores one of them (``nohup``), or handles it already, goes on to do so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may, and gets it
        return
    signals = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is signal.SIG_DFL]

    def end(number: int, frame: FrameType | None) -> None:
        for one in signals:  # one is enough: the next must not end the cleaning up
            signal.signal(one, signal.SIG_IGN)
        raise Terminated(number)

    for one in signals:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one in signals:
            signal.signal(one, signal.SIG_DFL)
