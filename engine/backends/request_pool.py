"""The requests of a session, handed out one at a time to as many callers as there are."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from .. import _core
from ..errors import CLOSED, InferenceError
from .forked import FORKED

_Request = TypeVar("_Request")


class RequestPool(Generic[_Request]):
    """Gives the request that was used last, whose memory is still in the caches.

    Taking and giving back are the compiled core's: between two lines of Python a KeyboardInterrupt could lose a request
    for ever.
    """

    def __init__(self, requests: Iterable[_Request]) -> None:
        self._all = list(requests)  # also those that somebody holds
        self._pool = _core.RequestPool(self._all)

    def request(self) -> AbstractContextManager[_Request]:
        """A free request; waits for one. Raises ValueError if the pool is closed, also meanwhile."""
        lease: AbstractContextManager[_Request] = self._pool.lease()
        return lease

    def close(self) -> list[_Request]:
        """Hand out no more, and return those that nobody holds."""
        self._all = []
        free: list[_Request] = self._pool.close(ValueError, CLOSED)
        return free

    def disown(self) -> None:
        """See ``forked.Inherited``."""
        self._pool.abandon(InferenceError, FORKED)
