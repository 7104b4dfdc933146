"""The requests of a session, handed out one at a time to as many callers as there are."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from ..errors import CLOSED

_Request = TypeVar("_Request")


class RequestPool(Generic[_Request]):
    """Gives the request that was used last, whose memory is still in the caches."""

    def __init__(self, requests: Iterable[_Request]) -> None:
        self._closed = False
        self._free: queue.LifoQueue[_Request | None] = queue.LifoQueue()
        for request in requests:
            self._free.put(request)

    @contextlib.contextmanager
    def request(self) -> Iterator[_Request]:
        """A free request; waits for one. Raises ValueError if the pool is closed, also meanwhile."""
        request = self._free.get()
        if self._closed or request is None:
            self._free.put(None)  # for whoever else waits
            raise ValueError(CLOSED)
        try:
            yield request
        finally:
            self._free.put(request)

    def close(self) -> list[_Request]:
        """Hand out no more, and return those that nobody holds."""
        self._closed = True
        free = []
        with contextlib.suppress(queue.Empty):
            while True:
                free.append(self._free.get_nowait())
        self._free.put(None)
        return [request for request in free if request is not None]
