"""Running a TensorRT plan: a GPU, a session of several requests, and what each of them owns.

Everything here goes through TensorRT's Python API and pycuda. A request has its own execution context, stream, pinned
host buffers and device buffers, all made once; a picture allocates nothing. Where all shapes are fixed, the whole way
of a picture (copies to the GPU, network, copies back) is one CUDA graph.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import BackendUnavailable, InferenceError
from ..base import LayerTime
from ..forked import keep_in_child
from ..request_pool import RequestPool


@dataclass(frozen=True)
class Gpu:
    """A device and its primary context, which TensorRT and our kernels share."""

    cuda: Any
    context: Any
    name: str
    compute_capability: str

    @classmethod
    def open(cls, ordinal: int) -> Gpu:
        """Raises ``BackendUnavailable`` where there is no pycuda, no driver or no such GPU."""
        try:
            cuda = importlib.import_module("pycuda.driver")
        except (ImportError, OSError) as error:
            raise BackendUnavailable(
                f"this needs pycuda and an NVIDIA driver ({error}); pip install pycuda (it compiles, with nvcc on PATH)"
            ) from error
        try:
            cuda.init()
            found = cuda.Device.count()
            if ordinal >= found:
                raise BackendUnavailable(f"there is no GPU number {ordinal}: this machine has {found}, counted from 0")
            device = cuda.Device(ordinal)
            major, minor = device.compute_capability()
            return cls(cuda, device.retain_primary_context(), str(device.name()), f"{major}.{minor}")
        except cuda.Error as error:
            raise BackendUnavailable(f"the NVIDIA driver refuses: {error}") from error

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes this GPU the calling thread's."""
        self.context.push()
        try:
            yield
        finally:
            self.cuda.Context.pop()


class CudaGraph:
    """A captured stream. pycuda has no such thing, so this asks the driver itself."""

    def __init__(self, driver: ctypes.CDLL, stream: int, work: Callable[[], None]) -> None:
        """Capture what ``work`` puts on ``stream``; ``InferenceError`` if that cannot be captured."""
        self._driver = driver
        self._stream = ctypes.c_void_p(stream)
        self._executable = ctypes.c_void_p()
        graph = ctypes.c_void_p()
        thread_local = 1
        self._check(driver.cuStreamBeginCapture_v2(self._stream, thread_local))
        try:
            work()
        finally:
            ended = driver.cuStreamEndCapture(self._stream, ctypes.byref(graph))
        self._check(ended)
        try:
            flags = ctypes.c_ulonglong(0)
            self._check(driver.cuGraphInstantiateWithFlags(ctypes.byref(self._executable), graph, flags))
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        self._check(self._driver.cuGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        if self._executable:
            self._driver.cuGraphExecDestroy(self._executable)
            self._executable = ctypes.c_void_p()

    @staticmethod
    def _check(status: int) -> None:
        if status != 0:
            raise InferenceError(f"the CUDA driver refuses a graph (error {status})")


@dataclass
class _Buffer:
    """A tensor's memory: pinned on the host, and on the device. ``shape`` is that of the current picture."""

    host: np.ndarray  # flat, at its largest
    device: Any
    shape: tuple[int, ...]

    @property
    def view(self) -> np.ndarray:
        return self.host[: int(np.prod(self.shape))].reshape(self.shape)


def _output_allocator(trt: Any, buffer: _Buffer) -> Any:
    """Hands out memory that is there already, at its largest, and learns how much of it was used."""

    class Allocator(trt.IOutputAllocator):
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output(self, _name: str, _memory: int, size: int, _alignment: int) -> int:
            return int(buffer.device) if size <= buffer.host.nbytes else 0

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, _stream: int) -> int:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, _name: str, shape: Any) -> None:
            buffer.shape = tuple(shape)

    return Allocator()


class TensorrtRequest:
    """See ``backends.Request``."""

    def __init__(self, trt: Any, gpu: Gpu, engine: Any, errors: deque[str]) -> None:
        self._gpu = gpu
        self._errors = errors
        cuda = gpu.cuda
        self._stream = cuda.Stream()
        # A thread that waits for it sleeps, where a plain wait would take a whole core.
        self._done = cuda.Event(cuda.event_flags.BLOCKING_SYNC | cuda.event_flags.DISABLE_TIMING)
        self._context = engine.create_execution_context()
        self._graph: CudaGraph | None = None
        self._graph_refused = False
        self._inputs: dict[str, _Buffer] = {}
        self._outputs: dict[str, _Buffer] = {}
        self._allocators: list[Any] = []  # TensorRT does not keep them alive
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        self._fixed = all(side >= 0 for shape in shapes.values() for side in shape)
        for name in inputs:
            if min(shapes[name], default=1) < 0:
                shapes[name] = tuple(engine.get_tensor_profile_shape(name, 0)[2])
                self._context.set_input_shape(name, shapes[name])
        for name in names:
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            sized = min(shapes[name], default=1) >= 0
            nbytes = int(np.prod(shapes[name])) * dtype.itemsize if sized else self._context.get_max_output_size(name)
            host = cuda.pagelocked_empty(max(1, -(-nbytes // dtype.itemsize)), dtype)
            buffer = _Buffer(host, cuda.mem_alloc(host.nbytes), shapes[name] if sized else ())
            (self._inputs if name in inputs else self._outputs)[name] = buffer
            if sized:
                self._context.set_tensor_address(name, int(buffer.device))
            else:
                self._allocators.append(_output_allocator(trt, buffer))
                self._context.set_output_allocator(name, self._allocators[-1])

    def profile(self) -> list[LayerTime]:
        raise InferenceError("TensorRT's layers are not timed here: 'extract' the plan and use trtexec --dumpProfile")

    def image(self, height: int, width: int) -> np.ndarray:
        buffer = self._inputs["image"]
        shape = (1, 3, height, width)
        if shape != buffer.shape:
            if self._fixed or np.prod(shape) > buffer.host.size:
                raise InferenceError(f"this engine takes pictures of {buffer.shape[2:]}, not {height}x{width}")
            buffer.shape = shape
        return buffer.view

    def run(self, inputs: Mapping[str, float | Sequence[int]]) -> dict[str, np.ndarray]:
        for name, value in inputs.items():
            self._inputs[name].view[...] = value
        with self._gpu.current():
            try:
                self._execute()
            except self._gpu.cuda.Error as error:
                raise InferenceError(f"CUDA failed on this picture: {error}") from error
            except BaseException:  # interrupted: what is on its way still reads and writes the next picture's memory
                with contextlib.suppress(self._gpu.cuda.Error):
                    self._wait()
                raise
        people = int(self._outputs["count"].view.reshape(-1)[0])
        # With room for a fixed number of people, what lies beyond the count is empty.
        return {name: b.view if name == "count" else b.view[:people] for name, b in self._outputs.items()}

    def close(self) -> None:
        """Give the memory back; the GPU must be the calling thread's."""
        if self._graph is not None:
            self._graph.close()
        self._context = None
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            buffer.device.free()
        self._inputs, self._outputs = {}, {}

    def _execute(self) -> None:
        if self._graph is not None:
            self._graph.launch()
            self._wait()
            return
        if self._fixed:
            self._way_of_a_picture()
            self._wait()
            self._capture()  # TensorRT wants to have run once before
            return
        self._context.set_input_shape("image", self._inputs["image"].shape)
        self._upload_and_enqueue()
        self._wait()  # only now the outputs' shapes are known
        self._download()
        self._wait()

    def _capture(self) -> None:
        if self._graph_refused:
            return
        try:
            driver = ctypes.CDLL("libcuda.so.1")
            self._graph = CudaGraph(driver, self._stream.handle, self._way_of_a_picture)
        except (OSError, AttributeError, InferenceError):
            self._graph_refused = True  # a driver or a plan that cannot: the plain way is slower, not wrong

    def _way_of_a_picture(self) -> None:
        self._upload_and_enqueue()
        self._download()

    def _upload_and_enqueue(self) -> None:
        cuda = self._gpu.cuda
        for buffer in self._inputs.values():
            cuda.memcpy_htod_async(buffer.device, buffer.view, self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            said = self._errors[-1] if self._errors else "it does not say why"
            raise InferenceError(f"TensorRT failed on this picture: {said}")

    def _download(self) -> None:
        for buffer in self._outputs.values():
            if buffer.view.size:
                self._gpu.cuda.memcpy_dtoh_async(buffer.view, buffer.device, self._stream)

    def _wait(self) -> None:
        self._done.record(self._stream)
        self._done.synchronize()


class TensorrtSession:
    """See ``backends.Session``."""

    image_layout = "NCHW"

    def __init__(
        self, trt: Any, gpu: Gpu, runtime: Any, engine: Any, num_requests: int, errors: deque[str] | None = None
    ) -> None:
        """``errors``: where TensorRT's logger puts what goes wrong, the last at the end."""
        self._gpu = gpu
        self._forked = False
        self._runtime, self._engine = runtime, engine
        said = errors if errors is not None else deque()
        with gpu.current():
            self._pool = RequestPool(TensorrtRequest(trt, gpu, engine, said) for _ in range(num_requests))
        keep_in_child(self)

    def request(self) -> AbstractContextManager[TensorrtRequest]:
        return self._pool.request()

    def close(self) -> None:
        if self._engine is None or self._forked:
            return
        with self._gpu.current():
            for request in self._pool.close():
                request.close()
            # In this order, and while the context is there.
            self._engine = None
            self._runtime = None
        self._gpu.context.detach()

    def disown(self) -> None:
        """See ``forked.Inherited``: a child has no use of its parent's GPU context."""
        self._forked = True
        self._pool.disown()
