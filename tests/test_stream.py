"""Many frames in work at once: order, room, errors, and no thread left behind."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densepose_engine import DensePoseResult, Engine
from densepose_engine.stream import BoundedExecutor, stream

Frame = np.ndarray


def frame(number: int) -> Frame:
    return np.full((2, 3, 3), number, np.uint8)


def result_of(image: Frame) -> DensePoseResult:
    """A result that says which frame it is of."""
    return DensePoseResult(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (), (), (1, int(np.asarray(image).flat[0]) + 1)
    )


def number_of(result: DensePoseResult) -> int:
    return result.image_size[1] - 1


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not [t for t in set(threading.enumerate()) - before if "densepose-engine" in t.name]


def run(infer: Callable[[Frame], DensePoseResult], frames: Iterator[Frame], depth: int = 3) -> list[int]:
    return [number_of(result) for _, result in stream(infer, frames, depth)]  # type: ignore[arg-type]


def test_results_come_in_order_with_their_frames_though_the_first_take_longest() -> None:
    gate = threading.Barrier(3)

    def infer(image: Frame) -> DensePoseResult:
        if image.flat[0] < 3:
            gate.wait(timeout=30)  # three must be in work at once
            time.sleep(0.02 * (3 - image.flat[0]))
        return result_of(image)

    pairs = list(stream(infer, (frame(i) for i in range(9)), 3))  # type: ignore[arg-type]
    assert [number_of(result) for _, result in pairs] == list(range(9))
    assert [int(np.asarray(image).flat[0]) for image, _ in pairs] == list(range(9))
    assert run(result_of, iter(())) == []


def test_who_takes_results_slowly_slows_reading_down() -> None:
    read: list[int] = []

    def frames() -> Iterator[Frame]:
        for number in itertools.count():
            read.append(number)
            yield frame(number % 200)

    results = stream(result_of, frames(), 2)  # type: ignore[arg-type]
    for handed_out in range(1, 6):
        next(results)
        time.sleep(0.05)  # time enough to read on, if nothing held it
        assert len(read) <= handed_out + 2
    results.close()  # type: ignore[attr-defined]
    assert len(read) <= 8


@pytest.mark.parametrize("place", [0, 1, 4])
def test_an_error_of_the_network_comes_in_its_frames_place(place: int) -> None:
    def infer(image: Frame) -> DensePoseResult:
        if image.flat[0] == place:
            raise RuntimeError(f"frame {place}")
        return result_of(image)

    seen = []
    with pytest.raises(RuntimeError, match=f"frame {place}"):
        for _, result in stream(infer, (frame(i) for i in range(9)), 3):  # type: ignore[arg-type]
            seen.append(number_of(result))
    assert seen == list(range(place))


@pytest.mark.parametrize("place", [0, 2])
def test_an_error_of_the_source_comes_after_the_frames_before_it(place: int) -> None:
    def frames() -> Iterator[Frame]:
        yield from (frame(i) for i in range(place))
        raise OSError("the camera is gone")

    seen = []
    with pytest.raises(OSError, match="camera"):
        for _, result in stream(result_of, frames(), 3):  # type: ignore[arg-type]
            seen.append(number_of(result))
    assert seen == list(range(place))


def test_what_is_no_source_is_an_error_too() -> None:
    with pytest.raises(TypeError):
        list(stream(result_of, 7, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_ending_early_leaves_no_thread(taken: int) -> None:
    """The fixture looks for threads."""

    def infer(image: Frame) -> DensePoseResult:
        time.sleep(0.005)
        return result_of(image)

    results = stream(infer, (frame(i % 200) for i in itertools.count()), 4)  # type: ignore[arg-type]
    for _ in range(taken):
        next(results)
    if taken == 1:
        del results  # dropped, not closed
    else:
        results.close()  # type: ignore[attr-defined]


def test_an_executor_holds_as_much_as_it_is_made_for() -> None:
    gate, begun = threading.Event(), []

    def task() -> int:
        begun.append(1)
        assert gate.wait(timeout=30)
        return 7

    executor = BoundedExecutor(2)
    futures = [executor.submit(task), executor.submit(task)]
    third: list[Future[int]] = []
    waiter = threading.Thread(target=lambda: third.append(executor.submit(task)))
    waiter.start()
    waiter.join(timeout=0.1)
    assert waiter.is_alive(), "the third must wait for room"
    gate.set()
    waiter.join(timeout=30)
    assert [future.result() for future in (*futures, *third)] == [7, 7, 7]
    executor.close()
    with pytest.raises(ValueError, match="closed"):
        executor.submit(task)


# ---- with an engine --------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(demo_engine: Path) -> Iterator[Engine]:
    with Engine.load(demo_engine, cache_dir=None, warm_up=0, num_requests=3) as engine:
        yield engine


def pictures(count: int) -> list[Frame]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (60 + 10 * i, 90, 3), np.uint8) for i in range(count)]


def test_an_engine_gives_the_same_one_by_one_in_a_stream_and_in_futures(engine: Engine) -> None:
    frames = pictures(8)
    settings = {"score_threshold": 0.0, "max_people": 3, "max_proposals": 50}
    expected = [engine.infer(image, **settings) for image in frames]  # type: ignore[call-overload]
    assert all(len(result) == 3 for result in expected)
    pairs = list(engine.stream(iter(frames), **settings))  # type: ignore[arg-type]
    assert [result for _, result in pairs] == expected
    assert all(given is image for (given, _), image in zip(pairs, frames, strict=True))
    futures = [engine.infer_async(image, **settings) for image in frames]  # type: ignore[arg-type]
    wait(futures, timeout=60)
    assert [future.result() for future in futures] == expected


def test_settings_are_checked_before_the_first_frame(engine: Engine) -> None:
    for wrong in ({"score_threshold": 2}, {"max_people": -1}, {"depth": 0}, {"depth": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            engine.stream([], **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nms_threshold"):
        engine.infer_async(pictures(1)[0], nms_threshold=7)


def test_a_frame_that_is_no_picture_ends_the_stream_and_not_the_engine(engine: Engine) -> None:
    good = pictures(1)[0]
    seen = []
    with pytest.raises(TypeError):
        for _, result in engine.stream([good, good, None, good]):  # type: ignore[list-item]
            seen.append(result)
    assert len(seen) == 2
    with pytest.raises(FileNotFoundError):
        engine.infer_async("no such file.png").result()
    assert engine.infer_async(good).result() == engine.infer(good)


def test_a_closed_engine_takes_no_more_frames(demo_engine: Path) -> None:
    engine = Engine.load(demo_engine, cache_dir=None, warm_up=0)
    future = engine.infer_async(pictures(1)[0])
    engine.close()
    assert isinstance(future.result(), DensePoseResult), "what was begun is finished"
    with pytest.raises(ValueError, match="closed"):
        engine.infer_async(pictures(1)[0])
    with pytest.raises(ValueError, match="closed"):
        engine.stream([])
    engine.close()


def test_closing_waits_for_what_was_begun(demo_engine: Path, tmp_path: Path) -> None:
    """Also for a file that nobody has decoded yet. Whoever is inside ``infer`` gets a result or a sentence."""
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (900, 1200, 3), np.uint8)).save(tmp_path / "large.png")
    engine = Engine.load(demo_engine, warm_up=0, num_requests=2)
    futures = [engine.infer_async(tmp_path / "large.png") for _ in range(2)]
    said: list[str] = []

    def infer() -> None:
        try:
            while True:
                engine.infer(np.zeros((40, 60, 3), np.uint8))
        except ValueError as error:
            said.append(str(error))

    threads = [threading.Thread(target=infer, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    engine.close()
    assert [future.result().image_size for future in futures] == [(900, 1200)] * 2
    for thread in threads:
        thread.join(timeout=60)
    assert len(said) == 4 and all("closed" in sentence for sentence in said)
