"""A target that fails in every way, on purpose: whoever counts failures must be seen to count."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

from .target import Target, WrongResult

ACTIONS = ("nothing", "allowed", "crash", "wrong", "hang", "sleep", "lost", "memory", "exit", "nothing")


class SelfCheck(Target):
    """Each input is the name of what happens; one after the other."""

    name = "self-check"
    inputs = len(ACTIONS)
    allowed = (ValueError,)
    seconds = 0.3
    memory = 256 << 20

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._made = folder.with_name("self-check-made")  # a worker that ends is followed by another

    def make(self, rng: Random) -> tuple[bytes, str]:
        number = int(self._made.read_text()) if self._made.exists() else 0
        self._made.write_text(str(number + 1))
        return ACTIONS[number % len(ACTIONS)].encode(), ".txt"

    def run(self, path: Path) -> None:
        action = path.read_text()
        if action == "allowed":
            raise ValueError("as documented")
        if action == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif action == "wrong":
            raise KeyError("an exception that nobody documents")
        elif action == "hang":
            while True:
                pass
        elif action == "sleep":
            signal.pause()
        elif action == "lost":
            raise WrongResult("seven bytes", 7)
        elif action == "memory":
            bytearray(1 << 30)
        elif action == "exit":
            os._exit(3)
