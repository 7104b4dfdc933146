"""What a forked child must leave alone: vendors' objects wait, when they are destroyed, for threads that it has not.

A fork copies the calling thread only. So everything that was registered here is kept in the child for ever, also past
the interpreter's end, and is told that it belongs to the parent.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Protocol

from ..errors import BackendUnavailable

_WAY_OUT = "start processes with multiprocessing's 'spawn' or 'forkserver', or fork before the first engine is loaded"
#: What an InferenceError says in the child.
FORKED = f"this engine was loaded before the process was forked and cannot be used in the child; {_WAY_OUT}"


class RuntimeOfOneProcess:
    """A vendor's runtime keeps threads for all that is ever loaded, and a child of the process that has them waits for
    them for ever, now and then: it may not begin.

    ``name``: of the runtime, for the sentence.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun_in: int | None = None

    def begin(self) -> None:
        """Call before the runtime is used. Raises ``BackendUnavailable`` in a child of the process that began."""
        if self._begun_in not in (None, os.getpid()):
            raise BackendUnavailable(
                f"{self._name} was in use before the process was forked and cannot be used in the child; {_WAY_OUT}"
            )
        self._begun_in = os.getpid()


class Inherited(Protocol):
    """What owns threads, or objects of a vendor that do."""

    def disown(self) -> None:
        """In the child: refuse all work with ``FORKED``, and touch no lock that another thread may have held."""


_lock = threading.RLock()
_registered: weakref.WeakSet[Inherited] = weakref.WeakSet()
_at_fork: list[Inherited] = []


def keep_in_child(owner: Inherited) -> None:
    """Never destroy ``owner``, nor what it holds, in a child of this process; ``disown`` it there."""
    with _lock:
        _registered.add(owner)


def _before() -> None:
    _lock.acquire()
    _at_fork[:] = _registered


def _in_parent() -> None:
    _at_fork.clear()
    _lock.release()


def _in_child() -> None:
    for owner in _at_fork:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))  # never given back
        owner.disown()
    _at_fork.clear()
    _registered.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
