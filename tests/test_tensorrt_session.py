"""Ring (a): how a TensorRT request moves a picture, against a GPU that is made of numpy arrays.

The stand-in does nothing until somebody waits for its stream, as a real one may: what is read too early is garbage.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from descriptions import description

from densepose_engine.backends import tensorrt
from densepose_engine.backends.tensorrt import session as tensorrt_session
from densepose_engine.backends.tensorrt.session import Gpu, TensorrtSession
from densepose_engine.errors import BackendUnavailable, EngineFileError, InferenceError
from densepose_engine.model.engine_file import EngineFile

CAPACITY = 5


class Memory:
    """Device memory with an address, full of a pattern."""

    at: ClassVar[dict[int, Memory]] = {}

    def __init__(self, size: int) -> None:
        self.bytes = np.full(size, 0xA5, np.uint8)
        self.address = 4096 * (len(Memory.at) + 1)
        self.freed = False
        Memory.at[self.address] = self

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        assert not self.freed
        self.freed = True


class Stream:
    def __init__(self) -> None:
        self.handle = id(self)
        self.queue: list[Callable[[], None]] = []
        STREAMS[self.handle] = self

    def drain(self) -> None:
        work, self.queue = self.queue, []
        for step in work:
            step()


STREAMS: dict[int, Stream] = {}


class Event:
    def __init__(self, flags: int) -> None:
        assert flags == 3

    def record(self, stream: Stream) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        self.stream.drain()


def upload(device: Memory, host: np.ndarray, stream: Stream) -> None:
    assert host.nbytes <= device.bytes.size and host.flags.c_contiguous
    stream.queue.append(lambda: device.bytes.__setitem__(slice(host.nbytes), host.view(np.uint8).reshape(-1)))


def download(host: np.ndarray, device: Memory, stream: Stream) -> None:
    assert host.nbytes <= device.bytes.size and host.flags.c_contiguous
    stream.queue.append(lambda: host.view(np.uint8).reshape(-1).__setitem__(slice(None), device.bytes[: host.nbytes]))


class Context:
    """Counts a picture's pixels above 0: so many people, whose maps hold their number and the settings."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.shapes = {name: shape for name, (_, _, shape) in engine.tensors.items()}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def set_output_allocator(self, name: str, allocator: Any) -> None:
        self.allocators[name] = allocator

    def get_max_output_size(self, name: str) -> int:
        _, dtype, shape = self.engine.tensors[name]
        return int(np.prod([CAPACITY if side < 0 else side for side in shape])) * np.dtype(dtype).itemsize

    def execute_async_v3(self, handle: int) -> bool:
        if self.engine.broken:
            return False
        STREAMS[handle].queue.append(self._execute)
        return True

    def _input(self, name: str) -> np.ndarray:
        _, dtype, _ = self.engine.tensors[name]
        memory = Memory.at[self.addresses[name]]
        count = int(np.prod(self.shapes[name]))
        return memory.bytes[: count * np.dtype(dtype).itemsize].view(dtype).reshape(self.shapes[name])

    def _execute(self) -> None:
        people = int((self._input("image") > 0).sum())
        rows = np.arange(people if self.allocators else CAPACITY, dtype=np.float32)
        self._output("count", np.array([people], np.int32))
        self._output("scores", rows + self._input("threshold")[0])
        self._output("u", np.repeat(rows, 4).reshape(-1, 2, 2))

    def _output(self, name: str, value: np.ndarray) -> None:
        address = self.addresses.get(name)
        if name in self.allocators:
            address = self.allocators[name].reallocate_output_async(name, 0, value.nbytes, 256, 0)
            self.allocators[name].notify_shape(name, value.shape)
        assert address is not None
        Memory.at[address].bytes[: value.nbytes] = value.view(np.uint8).reshape(-1)


class FakeEngine:
    def __init__(self, dynamic_people: bool, dynamic_size: bool) -> None:
        people = -1 if dynamic_people else CAPACITY
        size = (-1, -1) if dynamic_size else (2, 4)
        self.broken = False
        self.tensors: dict[str, tuple[str, type, tuple[int, ...]]] = {
            "image": ("in", np.float32, (1, 3, *size)),
            "threshold": ("in", np.float32, (1,)),
            "scores": ("out", np.float32, (people,)),
            "count": ("out", np.int32, (1,)),
            "u": ("out", np.float32, (people, 2, 2)),
        }
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> str:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> type:
        return self.tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][2]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("image", 0)
        return [(1, 3, 1, 1), (1, 3, 2, 2), (1, 3, 8, 8)]

    def create_execution_context(self) -> Context:
        return Context(self)


class Allocator:
    pass


TRT = SimpleNamespace(
    IOutputAllocator=Allocator, TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"), nptype=lambda dtype: dtype
)


class CudaError(Exception):
    pass


class PrimaryContext:
    """Keeps count of which threads it is current in."""

    def __init__(self) -> None:
        self.depth = 0
        self.detached = False
        self.lock = threading.Lock()

    def push(self) -> None:
        with self.lock:
            self.depth += 1

    def detach(self) -> None:
        self.detached = True


def gpu() -> Gpu:
    context = PrimaryContext()

    def pop() -> None:
        with context.lock:
            context.depth -= 1

    cuda = SimpleNamespace(
        Stream=Stream,
        Event=Event,
        event_flags=SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2),
        pagelocked_empty=lambda count, dtype: np.full(count, 77, dtype),
        mem_alloc=Memory,
        memcpy_htod_async=upload,
        memcpy_dtoh_async=download,
        Context=SimpleNamespace(pop=pop),
        Error=CudaError,
    )
    return Gpu(cuda, context, "stand-in", "8.7")


class RecordedGraph:
    """What a captured stream would do again."""

    made: ClassVar[list[RecordedGraph]] = []

    def __init__(self, _driver: Any, stream: int, work: Callable[[], None]) -> None:
        self.stream = STREAMS[stream]
        assert not self.stream.queue
        work()
        self.steps, self.stream.queue = self.stream.queue, []
        self.launches = 0
        RecordedGraph.made.append(self)

    def launch(self) -> None:
        self.launches += 1
        self.stream.queue += self.steps

    def close(self) -> None:
        self.steps = []


@pytest.fixture(params=["graph", "no graph"])
def graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    RecordedGraph.made = []
    if request.param == "graph":
        monkeypatch.setattr(tensorrt_session, "CudaGraph", RecordedGraph)
        monkeypatch.setattr(tensorrt_session.ctypes, "CDLL", lambda name: None)
    else:

        def refuse(_name: str) -> None:
            raise OSError("no driver")

        monkeypatch.setattr(tensorrt_session.ctypes, "CDLL", refuse)
    return str(request.param)


@contextlib.contextmanager
def session(engine: FakeEngine, requests: int = 1) -> Iterator[tuple[TensorrtSession, Gpu]]:
    device = gpu()
    with device.current():
        pass
    opened = TensorrtSession(TRT, device, object(), engine, requests)
    yield opened, device
    opened.close()
    opened.close()
    assert device.context.depth == 0
    assert device.context.detached


def infer(
    opened: TensorrtSession, people: int, threshold: float, size: tuple[int, int] = (2, 4)
) -> dict[str, np.ndarray]:
    with opened.request() as request:
        image = request.image(*size)
        assert image.shape == (1, 3, *size)
        image[...] = 0
        image.reshape(-1)[:people] = 1
        outputs = request.run({"threshold": threshold})
        return {name: value.copy() for name, value in outputs.items()}


@pytest.mark.parametrize("dynamic_people", [False, True])
@pytest.mark.parametrize("dynamic_size", [False, True])
def test_outputs(graphs: str, dynamic_people: bool, dynamic_size: bool) -> None:
    with session(FakeEngine(dynamic_people, dynamic_size)) as (opened, _):
        for people, threshold in ((3, 0.5), (0, 0.25), (5, 0.0), (1, 0.75)):
            outputs = infer(opened, people, threshold)
            assert outputs["count"] == [people]
            np.testing.assert_array_equal(outputs["scores"], np.arange(people) + np.float32(threshold))
            assert outputs["u"].shape == (people, 2, 2)
            np.testing.assert_array_equal(outputs["u"][:, 0, 0], np.arange(people))
    fixed = not dynamic_people and not dynamic_size
    assert [graph.launches for graph in RecordedGraph.made] == ([3] if fixed and graphs == "graph" else [])


def test_sizes_change_between_pictures(graphs: str) -> None:
    with session(FakeEngine(True, True)) as (opened, _):
        for size in ((2, 2), (8, 8), (1, 4)):
            assert infer(opened, 2, 0.5, size)["count"] == [2]
        with opened.request() as request, pytest.raises(InferenceError, match="not 8x9"):
            request.image(8, 9)


def test_a_failure_is_a_sentence_and_the_request_survives(graphs: str) -> None:
    engine = FakeEngine(True, False)
    with session(engine) as (opened, device):
        engine.broken = True
        with pytest.raises(InferenceError, match="TensorRT failed"):
            infer(opened, 1, 0.5)
        assert device.context.depth == 0
        engine.broken = False
        assert infer(opened, 4, 0.5)["count"] == [4]


def test_requests_do_not_share_memory(graphs: str) -> None:
    with session(FakeEngine(False, False), requests=3) as (opened, _), contextlib.ExitStack() as stack:
        views = [stack.enter_context(opened.request()).image(2, 4) for _ in range(3)]
        for index, view in enumerate(views):
            view[...] = index
        assert [view.mean() for view in views] == [0, 1, 2]


def test_closing_lets_a_waiting_caller_go_with_a_sentence(graphs: str) -> None:
    said: list[str] = []
    waits = threading.Event()

    def wait(opened: TensorrtSession) -> None:
        waits.set()
        try:
            with opened.request():
                said.append("a request")
        except ValueError as error:
            said.append(str(error))

    with session(FakeEngine(False, False)) as (opened, device), opened.request() as held:
        waiting = [threading.Thread(target=wait, args=(opened,), daemon=True) for _ in range(3)]
        for thread in waiting:
            thread.start()
        assert waits.wait(timeout=30)
        opened.close()
        for thread in waiting:
            thread.join(timeout=30)
        assert held.image(2, 4).shape == (1, 3, 2, 4), "whoever holds one keeps it"
        assert device.context.depth == 0
    assert said == ["this engine is closed; load it again"] * 3


def test_an_interrupted_picture_is_waited_for(graphs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would still be read from memory that the next picture is written to."""
    with session(FakeEngine(True, False)) as (opened, device):
        enqueue = Context.execute_async_v3

        def interrupted(self: Context, handle: int) -> bool:
            enqueue(self, handle)
            raise KeyboardInterrupt

        monkeypatch.setattr(Context, "execute_async_v3", interrupted)
        with pytest.raises(KeyboardInterrupt):
            infer(opened, 2, 0.5)
        monkeypatch.undo()
        assert device.context.depth == 0
        assert not any(stream.queue for stream in STREAMS.values())


def engine_file(**runtime: str) -> EngineFile:
    return EngineFile("tensorrt", "int8", description(), runtime, {"model.plan": b"plan"})


GOOD = {"tensorrt": "10.3.0.26", "plugin": "1", "compute capability": "8.7"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A TensorRT 10.3 that refuses every plan, beside a plugin library of version 1 and a GPU."""

    class Logger:
        Severity = SimpleNamespace(ERROR="error", INTERNAL_ERROR="internal")

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> None:
            self.logger.log("error", f"no good:  {plan.decode()}")

    trt = SimpleNamespace(__name__="tensorrt", __version__="10.3.0", ILogger=Logger, Runtime=Runtime)
    Logger.log = lambda self, severity, message: None  # type: ignore[attr-defined]
    library = SimpleNamespace(densepose_last_error=lambda: b"")
    monkeypatch.setattr(tensorrt.Tensorrt, "_package", lambda self: trt)
    monkeypatch.setattr(tensorrt, "_plugin_abi", lambda: 1)
    monkeypatch.setattr(tensorrt, "_load_plugins", lambda trt: library)
    monkeypatch.setattr(tensorrt_session.Gpu, "open", classmethod(lambda cls, ordinal: gpu()))
    return trt


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tensorrt": "10.4.0.1"}, "built with tensorrt 10.4.0.1, installed is 10.3.0"),
        ({"plugin": "2"}, "built for plugin version 2"),
        ({"compute capability": "8.6"}, "compute capability 8.6, device 0 .stand-in. has 8.7"),
        ({"interface": "deepstream"}, "built for DeepStream"),
        ({}, "cannot load this plan: no good: plan"),
    ],
)
def test_a_mismatch_is_a_sentence(installed: SimpleNamespace, changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(EngineFileError, match=sentence):
        tensorrt.TENSORRT.load(engine_file(**{**GOOD, **changes}))


@pytest.mark.parametrize("device", ["CPU", "cuda:x", "npu"])
def test_wrong_devices(installed: SimpleNamespace, device: str) -> None:
    with pytest.raises(BackendUnavailable, match="runs on GPUs"):
        tensorrt.TENSORRT.load(engine_file(**GOOD), device=device)
