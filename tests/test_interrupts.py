"""Ctrl-C at any instruction: what was taken comes back, and the engine answers.

Python raises KeyboardInterrupt between any two of its instructions. So each of these runs is repeated with an exception
in the place of every instruction and every line that it has in this package, one at a time.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import densepose_engine
from densepose_engine import DensePoseResult, Engine, _core
from densepose_engine.backends.request_pool import RequestPool
from densepose_engine.stream import BoundedExecutor, stream

PACKAGE = str(Path(densepose_engine.__file__).resolve().parent)


def run_interrupted(work: Callable[[], Any], place: int, event: str) -> bool:
    """Run ``work`` with a KeyboardInterrupt at the ``place``-th ``event`` in this package; False if it has fewer."""
    left = place

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = event == "opcode"
        if what == event:
            if left == 0:
                sys.settrace(None)
                left -= 1
                raise KeyboardInterrupt
            left -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt as error:
        sys.settrace(before)
        kept.append(error)  # as an interactive Python keeps it: with its traceback, the frames and their variables
    finally:
        sys.settrace(before)
    return left < 0


kept: list[BaseException] = []


def interrupted_everywhere(work: Callable[[], Any], check: Callable[[], None]) -> int:
    """How many places there were, both kinds together."""
    places = 0
    for event in ("opcode", "line", "return"):
        place = 0
        while run_interrupted(work, place, event):
            check()
            place += 1
        places += place
    kept.clear()
    return places


def within(seconds: float, task: Callable[[], Any]) -> Any:
    """What ``task`` gives, in a thread that is left behind if it gives nothing."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(task()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it waits for what never comes back"
    return found[0]


def test_a_pool_gets_its_only_request_back() -> None:
    pool = RequestPool(["the request"])

    def work() -> None:
        with pool.request() as request:
            assert request

    def take() -> str:
        with pool.request() as request:
            return request

    assert interrupted_everywhere(work, lambda: within(10, take)) > 5


def test_an_interrupt_inside_the_block_gives_the_request_back() -> None:
    pool = RequestPool(["the request"])
    for error in (KeyboardInterrupt, SystemExit, ValueError):
        with pytest.raises(error), pool.request():
            raise error
        with pool.request() as request:
            assert request == "the request"


def test_a_lease_that_is_dropped_or_left_twice_gives_back_once() -> None:
    pool = _core.RequestPool([1])
    lease = pool.lease()
    assert lease.__enter__() == 1
    del lease
    with pool.lease(keep=True) as lease:
        pass
    lease.give_back()
    lease.give_back()
    assert pool.close(ValueError, "closed") == [1]
    with pytest.raises(ValueError, match="closed"), pool.lease():
        pass


def test_who_waits_for_a_request_can_be_interrupted() -> None:
    """By a real signal, in the main thread."""
    import signal

    pool = RequestPool(["the request"])
    with pool.request():
        threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt), pool.request():
            pass
    with pool.request() as request:
        assert request == "the request"


def test_the_request_that_was_used_last_comes_first_and_all_come_out() -> None:
    pool = RequestPool([1, 2, 3])
    with pool.request() as first:
        pass
    with pool.request() as again, pool.request() as second, pool.request() as third:
        assert again == first
        assert {again, second, third} == {1, 2, 3}


def test_an_executor_keeps_its_room() -> None:
    executor = BoundedExecutor(1)

    def work() -> None:
        executor.submit(lambda: 7).result(timeout=30)

    assert interrupted_everywhere(work, lambda: within(10, lambda: executor.submit(lambda: 7).result(timeout=10))) > 10
    within(10, lambda: executor.close() or True)


def test_a_cancelled_task_gives_its_place_back() -> None:
    executor, gate = BoundedExecutor(2), threading.Event()
    begun = [executor.submit(lambda: gate.wait(30)) for _ in range(2)]
    # A third has no room; so take a place away from the workers' sight and cancel what then waits in their queue.
    executor._room = _core.RequestPool([0])
    waiting = executor.submit(lambda: True)
    assert waiting.cancel()
    gate.set()
    assert all(future.result(timeout=30) for future in begun)
    assert within(10, lambda: executor.submit(lambda: True).result(timeout=10))
    executor.close()


def test_a_stream_leaves_no_thread_that_waits_for_ever() -> None:
    def work() -> None:
        result = DensePoseResult(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (), (), (1, 1))
        frames: Iterator[Any] = (np.zeros((2, 3, 3), np.uint8) for _ in range(4))
        results = stream(lambda frame: result, frames, 1)
        next(results)
        next(results)
        results.close()  # type: ignore[attr-defined]

    before = set(threading.enumerate())

    def check() -> None:
        kept.clear()  # what an executor was dropped with, its threads find out
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
            assert not thread.is_alive(), thread.name

    assert interrupted_everywhere(work, check) > 100


@pytest.mark.parametrize("kind", ["demo_engine", "dynamic_engine"])
def test_an_engine_with_one_request_answers_as_before(kind: str, request: pytest.FixtureRequest) -> None:
    pictures = [np.random.default_rng(seed).integers(0, 256, (40, 60 + 40 * seed, 3), np.uint8) for seed in range(2)]
    settings = {"score_threshold": 0.0, "nms_threshold": 1.0, "max_people": 3, "max_proposals": 30}
    with Engine.load(request.getfixturevalue(kind), cache_dir=None, warm_up=0, num_requests=1) as engine:
        expected = [engine.infer(picture, **settings) for picture in pictures]  # type: ignore[call-overload]

        def work() -> None:
            # Another size and another number of people than the checks', so that everything is set anew.
            engine.infer(pictures[1], **{**settings, "max_people": 2})  # type: ignore[call-overload]

        def check() -> None:
            assert within(120, lambda: [engine.infer(picture, **settings) for picture in pictures]) == expected  # type: ignore[call-overload]

        def asynchronous() -> None:
            engine.infer_async(pictures[1], **settings).result(timeout=60)  # type: ignore[arg-type]

        # Not all instructions, for there are a thousand: the pool's test above has all of what takes and gives back.
        for call, event, step, least in ((work, "opcode", 37, 10), (asynchronous, "line", 3, 5)):
            places = 0
            while run_interrupted(call, step * places, event):
                check()
                places += 1
            assert places > least
        kept.clear()
        assert engine.infer_async(pictures[0], **settings).result(timeout=60) == expected[0]  # type: ignore[arg-type]
