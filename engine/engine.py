"""The thin API: load an engine, give it pictures, get people."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from . import _core
from .backends import LayerTime, Session, find_backend
from .backends.forked import FORKED, keep_in_child
from .decoders import Decoder, DetectionResult, make_decoder
from .errors import CLOSED, EngineFileError, InferenceError, lacks_memory
from .model.decoder import MEMBER as DECODER
from .model.description import ModelDescription
from .model.engine_file import EngineFile, read_engine_file
from .model.frame import FrameSettings, FrameSize, nominal_size
from .pictures.read import to_rgb_array
from .stream import BoundedExecutor, stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .model.frame import InferSettings
    from .pictures.read import Picture


def default_cache_dir() -> Path | None:
    """``$XDG_CACHE_HOME/densepose-engine``, else the same in ``~/.cache``; None where there is no home."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "densepose-engine"
    except RuntimeError:
        return None


class _Task(NamedTuple):
    """How one call wants its frames to be looked at."""

    settings: FrameSettings
    mesh: str | None


def _unmarked(stage: str) -> None:
    """Nobody takes the time."""


def _decoder_of(file: EngineFile, where: str = "") -> Decoder:
    """Raises ``EngineFileError`` where the engine does not describe a network of a kind that is known."""
    try:
        tensors = file.model.decoder.unpack(file.payload.get(DECODER, b""))
        return make_decoder(file.model, tensors)
    except ValueError as error:
        raise EngineFileError(f"{where}its manifest is wrong: {error}; build it again") from error


class Engine:
    """A DensePose R-CNN, compiled and ready.

    Make one with ``Engine.load``. Several threads may call ``infer`` at the same time. It is a context manager;
    ``close`` frees the memory. It belongs to the process that loaded it: in a forked child ``infer`` raises
    InferenceError and ``close`` does nothing.
    """

    def __init__(
        self,
        session: Session,
        file: EngineFile,
        num_threads: int | None = None,
        num_requests: int = 1,
        decoder: Decoder | None = None,
        mesh: str | None = None,
    ) -> None:
        self._session: Session | None = session
        self._description = model = file.model
        self.backend = file.backend
        self.precision = file.precision
        self._num_threads = min(num_threads or os.cpu_count() or 1, _MOST_THREADS)
        self._num_requests = num_requests
        # Without a lock: whoever is interrupted in a method must not leave one behind.
        self._executor = BoundedExecutor(num_requests)
        self._closed = False
        self._input, self._capacity = model.input, model.capacity
        self._defaults = model.defaults.within(model.capacity)
        self._mean = np.asarray(model.input.mean_rgb, np.float32)
        self._quantization = model.input_quantization
        self._decoder = decoder or _decoder_of(file)
        self._mesh = mesh
        self._forked = False
        keep_in_child(self)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        num_threads: int | None = None,
        num_requests: int = 4,
        num_streams: int = 1,
        cache_dir: str | os.PathLike[str] | None = "auto",
        warm_up: int = 8,
        profile: bool = False,
        mesh: str | None = None,
    ) -> Engine:
        """Load and compile the engine at ``path``.

        Args:
            device: None for the backend's own: "CPU" for openvino, "cuda" (or "cuda:1", ...) for tensorrt.
            num_threads: of the whole engine; None leaves it to the runtime.
            num_requests: how many callers can be inside ``infer`` at once; further ones wait.
            num_streams: how many graphs run at once, sharing the threads; more than 1 is for throughput, and latency
                pays for it.
            cache_dir: where compiled graphs are kept for a faster next load; "auto" is the user's cache folder, None
                turns it off. At most 1 GiB is kept there. A folder that cannot be written is no error; one that others
                can write to, or that is not the user's own, is left alone with a warning, and so is a damaged entry.
            warm_up: the head is run for 1 .. this many people, so that no count pays a first-time cost later; 0: none.
            profile: count the time of every layer, for ``layer_times``; costs speed.
            mesh: see ``infer``.

        Raises:
            FileNotFoundError: there is no such file.
            EngineFileError: it is damaged, of another version, or no engine; or there is not enough memory for it.
            BackendUnavailable: the vendor's runtime is not installed, or cannot use ``device``.

        A limit on the process's address space (``ulimit -v``) that is too small for the engine can end the process
        inside OpenVINO (docs/architecture.md). Limit memory by a control group instead.

        >>> Engine.load("demo.engine", num_threads=2)
        Engine(efficientnet_lite0-bifpn64-deeplab, openvino, fp32, input 320x448)
        """
        for name, value, least in (
            ("num_requests", num_requests, 1),
            ("num_streams", num_streams, 1),
            ("warm_up", warm_up, 0),
            ("num_threads", num_threads, 1),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
        file = read_engine_file(path)
        decoder = _decoder_of(file, f"{path}: ")
        mesh = decoder.mesh(mesh)
        cache = default_cache_dir() if cache_dir == "auto" else None if cache_dir is None else Path(cache_dir)

        def load_with(cache: Path | None) -> Engine:
            session = find_backend(file.backend).load(
                file,
                device=device,
                num_threads=num_threads,
                num_requests=num_requests,
                num_streams=num_streams,
                cache_dir=cache,
                profile=profile,
            )
            engine = cls(session, file, num_threads, num_requests, decoder, mesh)
            engine._warm_up(warm_up)
            return engine

        try:
            if cache is not None:
                with contextlib.suppress(*_LOAD_FAILURES):
                    return load_with(cache)
                # Whatever it was: a cache must not stand between an engine that is good and its user.
            return load_with(None)
        except _LOAD_FAILURES as error:
            if lacks_memory(error):
                raise EngineFileError(f"{path}: there is not enough memory to load it ({error!s:.500})") from error
            if isinstance(error, EngineFileError):
                raise EngineFileError(f"{path}: {error}") from error
            # Arguments were checked above: what is left is a graph that is not what the manifest says.
            raise EngineFileError(
                f"{path}: its graph and its manifest do not fit ({error!r}); build it again"
            ) from error

    @classmethod
    def from_file(cls, file: EngineFile, *, num_threads: int | None = None, num_requests: int = 1) -> Engine:
        """An engine that is in memory, on its backend's own device, without a warm-up; raises as its backend does."""
        session = find_backend(file.backend).load(file, num_threads=num_threads, num_requests=num_requests)
        return cls(session, file, num_threads, num_requests)

    @overload
    def infer(self, image: Picture, **settings: Unpack[InferSettings]) -> DetectionResult: ...

    @overload
    def infer(
        self, image: list[Picture] | tuple[Picture, ...], **settings: Unpack[InferSettings]
    ) -> list[DetectionResult]: ...

    def infer(
        self, image: Picture | list[Picture] | tuple[Picture, ...], **settings: Unpack[InferSettings]
    ) -> DetectionResult | list[DetectionResult]:
        """Find people and their dense poses.

        Args:
            image: uint8 RGB array of shape (height, width, 3), a path, a PIL image, or a list of these.
            score_threshold: people with a score above this, in [0, 1].
            nms_threshold: of two boxes with a larger IoU, the better one stays; in [0, 1].
            max_people: at most this many, best first.
            max_proposals: how many regions the box head looks at; fewer is faster and finds less.
            mesh: of a network with embeddings, the surface whose vertices are looked for, one of ``meshes``, on all
                people instead of that of their class.
            All of them default to what the model's configuration says, ``mesh`` to what ``load`` was given.

        Returns:
            A ``DensePoseResult`` (labels and uv of every pixel) of a network with charts, a ``VertexResult`` (the
            closest vertex) of one with embeddings, or a list of them for a list. Results own their memory.

        Raises:
            TypeError, ValueError: an argument is not what it should be.
            ImageError: a file cannot be read as a picture.
            InferenceError: the runtime failed. The engine can still be used, but after a failure for want of memory a
                dynamic engine should be loaded again: OpenVINO may be left in disorder. Or this is a forked child of
                the process that loaded the engine.

        >>> engine = Engine.load("demo.engine")
        >>> result = engine.infer("person.jpg", score_threshold=0.5)
        >>> result.boxes.shape, result.labels[0].shape == result.uv[0].shape[1:]
        ((1, 4), True)
        """
        self._check_open()
        task = self._task(**settings)
        if isinstance(image, (list, tuple)):
            return [self._infer(to_rgb_array(one), task) for one in image]
        return self._infer(to_rgb_array(image), task)

    def infer_timed(
        self, image: Picture, **settings: Unpack[InferSettings]
    ) -> tuple[DetectionResult, dict[str, float]]:
        """As ``infer``, of one picture, and the seconds that each part of it took, in their order.

        The parts are "preprocess", "graph", what the decoder does ("chart decode" or "closest vertices"), "result".

        >>> with Engine.load("demo.engine") as engine:
        ...     result, seconds = engine.infer_timed("person.jpg")
        >>> list(seconds)
        ['preprocess', 'graph', 'chart decode', 'result']
        """
        self._check_open()
        task = self._task(**settings)
        rgb = to_rgb_array(image)
        seconds: dict[str, float] = {}
        last = time.perf_counter()

        def mark(stage: str) -> None:
            nonlocal last
            now = time.perf_counter()
            seconds[stage] = now - last
            last = now

        result = self._infer(rgb, task, mark)
        mark("result")
        return result, seconds

    def layer_times(self) -> list[LayerTime]:
        """Mean times of the graph's layers, of an engine that was loaded with ``profile=True`` and one request."""
        self._check_open()
        assert self._session is not None
        with self._session.request() as request:
            return request.profile()

    def infer_async(self, image: Picture, **settings: Unpack[InferSettings]) -> Future[DetectionResult]:
        """Begin with one picture and come back at once; ``infer`` says what the arguments are.

        While as many pictures as ``num_requests`` are in work, a call waits for one of them to be done: whoever brings
        pictures faster than they can be worked on is slowed down and needs no more memory.

        Returns:
            A future of the result; what is wrong with the picture is raised by its ``result()``. The picture must not
            be changed before that.

        Raises:
            ValueError: a setting is out of range, or the engine is closed.

        >>> with Engine.load("demo.engine") as engine:
        ...     futures = [engine.infer_async(name) for name in ("person.jpg", "people.jpg")]
        ...     [len(future.result()) > 0 for future in futures]
        [True, True]
        """
        task = self._task(**settings)
        self._check_open()
        return self._executor.submit(lambda: self._infer(to_rgb_array(image), task))

    def stream(
        self, frames: Iterable[Picture], *, depth: int | None = None, **settings: Unpack[InferSettings]
    ) -> Iterator[tuple[Picture, DetectionResult]]:
        """Results of many frames in their order, each with its frame: ``for frame, result in engine.stream(camera)``.

        Reading, resizing, the network and chart decoding of neighboring frames overlap. A thread of its own reads
        ``frames``, at most ``depth`` ahead of what was handed out; who takes results slowly slows reading down.

        Args:
            frames: pictures as ``infer`` takes them. An array must not be changed before its result is there.
            depth: frames in work, at least 1; None: as many as the engine has requests.
            Others: as ``infer``.

        Raises:
            ValueError: a setting is out of range, or the engine is closed; at once.
            Others: what ``infer`` or ``frames`` raise, in their frame's place. It ends the stream. Ending it early
                (``break``, ``close``) waits for the frames in work, then no thread is left.

        >>> with Engine.load("demo.engine") as engine:
        ...     for frame, result in engine.stream(["person.jpg", "people.jpg"]):
        ...         print(frame, len(result) > 0)
        person.jpg True
        people.jpg True
        """
        if depth is None:
            depth = self._num_requests
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth must be an integer of at least 1, not {depth!r}")
        self._check_open()
        task = self._task(**settings)
        return stream(lambda frame: self._infer(to_rgb_array(frame), task), frames, depth)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) of the network's input; None for a dynamic engine."""
        return self._input.size

    @functools.cached_property
    def model(self) -> dict[str, Any]:
        """What the graph says of itself: architecture, sizes, defaults, provenance, as the manifest has it.

        ``description`` is the same with types.
        """
        return self._description.to_json()

    @property
    def description(self) -> ModelDescription:
        """What the graph says of itself, typed; ``model`` is the same as plain dictionaries and lists."""
        return self._description

    def close(self) -> None:
        """Wait for what ``infer_async`` began and free the compiled graph; ``infer`` raises ValueError afterwards."""
        if self._forked:
            return
        self._closed = True
        self._executor.close()
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def disown(self) -> None:
        """In the child of a fork (see ``backends.forked``): from now on every call raises a sentence."""
        self._forked = True
        self._executor.disown()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        size = "dynamic" if self._input.size is None else "{}x{}".format(*self._input.size)
        return f"Engine({self._description.architecture}, {self.backend}, {self.precision}, input {size})"

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(CLOSED)
        if self._forked:
            raise InferenceError(FORKED)

    def _task(self, *, mesh: str | None = None, **settings: Any) -> _Task:
        """Raises TypeError for a setting that there is not, ValueError for a value."""
        frame = self._defaults.changed(self._capacity, **settings)
        return _Task(frame, self._mesh if mesh is None else self._decoder.mesh(mesh))

    def _infer(self, rgb: np.ndarray, task: _Task, mark: Callable[[str], None] = _unmarked) -> DetectionResult:
        session = self._session  # close() may take it away meanwhile
        if session is None:
            raise ValueError(CLOSED)
        size = FrameSize.of(rgb.shape[0], rgb.shape[1], self._input)
        with session.request() as request:
            image = request.image(*size.padded)
            if (q := self._quantization) is not None:
                threads = self._num_threads
                _core.preprocess_to_bytes(rgb, *size.resized, self._mean, image, q.scale, q.zero_point, threads)
            else:
                layout = session.image_layout
                _core.preprocess(rgb, *size.resized, self._mean, image, layout=layout, threads=self._num_threads)
            inputs = {"sizes": size.graph_input, **task.settings.graph_inputs}
            mark("preprocess")
            outputs = request.run(inputs)
            mark("graph")
            return self._decoder.decode(outputs, size.original, self._num_threads, task.mesh, mark)

    def _warm_up(self, people: int) -> None:
        grey = np.full((*nominal_size(self._input), 3), 127, np.uint8)
        for count in range(1, min(people, self._capacity.max_people) + 1):
            # Every proposal is a person and none suppresses another: exactly `count` people.
            self.infer(grey, score_threshold=0, nms_threshold=1, max_people=count)


_LOAD_FAILURES = (ArithmeticError, EngineFileError, InferenceError, LookupError, MemoryError, TypeError, ValueError)
_MOST_THREADS = 256  # that preprocessing and charts can make use of
