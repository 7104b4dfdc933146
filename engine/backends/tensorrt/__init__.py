"""TensorRT on NVIDIA GPUs: one strongly typed network, with our ops from a plugin library.

TensorRT (``tensorrt``) and TensorRT-RTX (``tensorrt_rtx``) share every line; they differ in the package's name, and in
that the latter builds for a GPU that need not be there.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import warnings
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BackendUnavailable, BuildError, EngineFileError
from ...model.compiled import Layer, NominalLoad
from ...model.engine_file import EngineFile
from ...model.graph_file import read_description
from ..base import Backend, Device
from .layers import read_kernels, read_layers

if TYPE_CHECKING:
    from .session import TensorrtSession

PLUGIN = Path(__file__).resolve().parents[2] / "libdensepose_tensorrt.so"
PLAN = "model.plan"
GPU = Device(
    name="cuda",
    precisions=("fp32", "fp16", "int8"),
    layout="NCHW",
    quantization="tensorrt",
    fuses_ends=False,
    host_memory=False,
    times_layers=False,
)


@dataclass(frozen=True)
class Tensorrt:
    """TensorRT or TensorRT-RTX; its methods are what ``backends.base`` describes.

    ``backend``: its name here; ``package``: the Python package; ``install``: how one gets it; ``ahead_of_time``: builds
    for GPUs that are not in this machine.
    """

    backend: str
    package: str
    install: str
    ahead_of_time: bool

    def described(self) -> Backend:
        """What the rest of the package knows of it."""
        return Backend(self.backend, GPU, self.build, self.load, self.versions)

    def versions(self) -> dict[str, str]:
        """Versions of what this backend runs with."""
        return {self.backend: str(self._package().__version__), "plugin": str(_plugin_abi())}

    def build(
        self,
        graph: bytes,
        precision: str,
        load: NominalLoad,
        *,
        compute_capability: str | None = None,
        max_people: int | None = None,
        timing_cache: Path | None = None,
        deepstream: bool = False,
    ) -> tuple[dict[str, bytes], dict[str, str], list[Layer]]:
        """Turn an ONNX graph (serialized; with Q/DQ in it for "int8") into a plan for one kind of GPU.

        Args:
            load: the picture's size and boxes per head that MACs are counted for.
            compute_capability: such as "8.6": the GPU to build for, where that need not be the one in this machine.
            max_people: the DensePose head always runs for this many, which a CUDA graph needs; None: for those found.
            timing_cache: a file that remembers which kernels were fastest; made if it does not exist.
            deepstream: the plan is for DeepStream, with the picture as its only input and batched outputs; it needs
                ``max_people`` and a graph of fixed size, and does not run here.

        Returns:
            The payload's members, the versions it was built with, and what every layer runs as.

        Raises:
            BuildError: TensorRT refuses the graph, or an option.
            BackendUnavailable: TensorRT or our plugin library is missing.
        """
        self.described().check_precision(precision)
        if timing_cache is not None and self.ahead_of_time:
            raise BuildError(f"{self.backend} tunes kernels when a plan first runs, and has no timing cache")
        trt = self._package()
        log = _Log(trt)
        plugins = _load_plugins(trt)
        from .graph import fixed_size, prepare

        if deepstream and (max_people is None or not fixed_size(graph)):
            raise BuildError(
                "DeepStream takes plans of fixed shapes: export with --input-size, and build with --max-people"
            )
        prepared = prepare(graph, precision, max_people, deepstream)
        builder = trt.Builder(log.logger)
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, log.logger)
        if not parser.parse(prepared):
            errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
            raise BuildError(f"{self._name()} cannot read this graph: {self._reasons(errors, plugins)}")
        config = builder.create_builder_config()
        # Every layer is to be listed: that is how its precision is known afterwards.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)
        target = self._choose_gpu(trt, config, compute_capability)
        _add_profile(builder, network, config, prepared, load.image)
        cache = _read_timing_cache(config, timing_cache)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"{self._name()} cannot build this graph: {self._reasons(log.errors, plugins)}")
        _write_timing_cache(config, cache, timing_cache)
        layers = _layers(prepared, log, load)
        runtime = {**self.versions(), "compute capability": target}
        return {PLAN: bytes(plan)}, {**runtime, **({"interface": "deepstream"} if deepstream else {})}, layers

    def load(
        self,
        engine: EngineFile,
        *,
        device: str | None = None,
        num_threads: int | None = None,
        num_requests: int = 4,
        num_streams: int = 1,
        cache_dir: Path | None = None,
        profile: bool = False,
    ) -> TensorrtSession:
        """Deserialize a plan on the GPU ``device`` ("cuda", "cuda:1"; see ``Engine.load`` for the options).

        Every request has a stream of its own, whatever ``num_streams`` says; there are no threads to count, and a plan
        needs no cache.
        """
        ordinal = _ordinal(device, self.backend)
        if profile and not GPU.times_layers:
            raise BackendUnavailable(
                f"the {self.backend} backend does not time layers; 'extract' the plan and use trtexec --dumpProfile"
            )
        if PLAN not in engine.payload:
            raise EngineFileError(f"this engine says it is for {self.backend}, but its payload is not; build it again")
        if engine.runtime.get("interface") == "deepstream":
            raise EngineFileError("this engine was built for DeepStream; 'extract' gives the plan that it loads")
        trt = self._package()
        built, here = engine.runtime.get(self.backend), str(trt.__version__)
        if _release(built) != _release(here):
            raise EngineFileError(
                f"this engine was built with {self.backend} {built}, installed is {here}; plans run on the release "
                "that built them: build it again with this one"
            )
        abi = str(_plugin_abi())
        if engine.runtime.get("plugin") != abi:
            raise EngineFileError(
                f"this engine was built for plugin version {engine.runtime.get('plugin')}, {PLUGIN.name} has version "
                f"{abi}; build it again with this version of densepose-engine"
            )
        plugins = _load_plugins(trt)
        from .session import Gpu, TensorrtSession

        gpu = Gpu.open(ordinal)
        wanted = engine.runtime.get("compute capability")
        if wanted != gpu.compute_capability:
            raise EngineFileError(
                f"this engine was built for GPUs of compute capability {wanted}, device {ordinal} ({gpu.name}) has "
                f"{gpu.compute_capability}; build it again on or for this GPU"
            )
        log = _Log(trt, most=0)
        with gpu.current():
            runtime = trt.Runtime(log.logger)
            deserialized = runtime.deserialize_cuda_engine(engine.payload[PLAN])
        if deserialized is None:
            raise EngineFileError(f"{self._name()} cannot load this plan: {self._reasons(log.errors, plugins)}")
        return TensorrtSession(trt, gpu, runtime, deserialized, num_requests, log.errors)

    def _package(self) -> Any:
        try:
            trt = importlib.import_module(self.package)
        except (ImportError, OSError) as error:
            raise BackendUnavailable(
                f"this needs {self.package}, which cannot be imported ({error}); {self.install}"
            ) from error
        _check_library_names(trt)
        return trt

    def _name(self) -> str:
        return f"{self.backend} {self._package().__version__}"

    def _reasons(self, errors: Iterable[str], plugins: ctypes.CDLL) -> str:
        said = plugins.densepose_last_error().decode(errors="replace")
        return " / ".join(dict.fromkeys([*([said] if said else []), *list(errors)[:3]])) or "it does not say why"

    def _choose_gpu(self, trt: Any, config: Any, wanted: str | None) -> str:
        """The compute capability that is built for."""
        if not self.ahead_of_time:
            from .session import Gpu

            here = Gpu.open(0).compute_capability
            if wanted not in (None, here):
                raise BuildError(
                    f"TensorRT builds for the GPU in this machine, which has compute capability {here}, not {wanted}; "
                    "build on the machine that is to run it"
                )
            return here
        known = {name[2:-1] + "." + name[-1]: name for name in trt.ComputeCapability.__members__ if name[:2] == "SM"}
        if wanted is None:
            raise BuildError(
                f"{self.backend} builds for a GPU that need not be here: name one by its compute capability, "
                f"{', '.join(known)}"
            )
        if wanted not in known:
            raise BuildError(f"{self._name()} builds for compute capabilities {', '.join(known)}, not {wanted}")
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(trt.ComputeCapability, known[wanted]), 0):
            raise BuildError(f"{self._name()} refuses to build for compute capability {wanted}")
        return wanted


class _Log:
    """What TensorRT says: everything during a build, later only its last errors."""

    def __init__(self, trt: Any, most: int | None = None) -> None:
        self.messages: deque[str] = deque(maxlen=most)
        self.errors: deque[str] = deque(maxlen=100)
        severe = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
        keep = self

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                keep.messages.append(message)
                if severity in severe:
                    keep.errors.append(" ".join(message.split()))

        self.logger = Logger()


def _network_flags(trt: Any) -> int:
    # Without the flag a release is strongly typed anyway.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _plugin_library() -> ctypes.CDLL:
    if not PLUGIN.is_file():
        raise BackendUnavailable(
            f"{PLUGIN.name} is not installed. Wheels come without it, because it is compiled with the CUDA and "
            "TensorRT of the machine that it runs on: take densepose-engine's sources and run "
            "deploy/jetson/install.sh on a Jetson, elsewhere pip install . with nvcc on PATH and TENSORRT_ROOT set to "
            "a folder with include/NvInfer.h"
        )
    try:
        library = ctypes.CDLL(str(PLUGIN))
    except OSError as error:
        raise BackendUnavailable(f"{PLUGIN.name} does not load ({error}); reinstall densepose-engine here") from error
    library.densepose_last_error.restype = ctypes.c_char_p
    library.densepose_plugin_abi.restype = ctypes.c_int32
    return library


def _plugin_abi() -> int:
    return int(_plugin_library().densepose_plugin_abi())


_registered: set[str] = set()


def _load_plugins(trt: Any) -> ctypes.CDLL:
    """Make our ops known to TensorRT's registry, once per process and flavour."""
    library = _plugin_library()
    if trt.__name__ not in _registered:
        if not trt.get_plugin_registry().load_library(str(PLUGIN)):
            raise BackendUnavailable(
                f"{PLUGIN.name} does not load in {trt.__name__} {trt.__version__}: reinstall densepose-engine here"
            )
        _registered.add(trt.__name__)
    return library


def _check_library_names(trt: Any) -> None:
    """TensorRT-RTX's wheels lack the library's plain name, by which plugins are served: the process would abort."""
    with contextlib.suppress(ImportError):
        libraries = importlib.import_module(f"{trt.__name__}_libs")
        for folder in map(Path, libraries.__path__):
            for versioned in folder.glob("libtensorrt_rtx.so.*"):
                if not (folder / "libtensorrt_rtx.so").exists():
                    raise BackendUnavailable(
                        f"{trt.__name__} {trt.__version__} cannot serve plugins as it was installed: "
                        f"ln -s {versioned.name} {folder / 'libtensorrt_rtx.so'}"
                    )


def _add_profile(builder: Any, network: Any, config: Any, graph: bytes, nominal: tuple[int, int]) -> None:
    """Which sizes pictures can have, for a graph that leaves them open."""
    if all(side >= 0 for i in range(network.num_inputs) for side in network.get_input(i).shape):
        return
    import onnx

    model = onnx.load_model_from_string(graph)
    picture = read_description({entry.key: entry.value for entry in model.metadata_props}).input
    divisor = picture.divisor
    largest = -(-picture.max_size // divisor) * divisor
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, 3, divisor, divisor), (1, 3, *nominal), (1, 3, largest, largest))
    config.add_optimization_profile(profile)


def _read_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # One of another release or GPU is of no use; the build then measures again.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _write_timing_cache(config: Any, cache: Any, path: Path | None) -> None:
    if path is None or cache is None:
        return
    data = bytes(config.get_timing_cache().serialize())
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:  # the engine is built, which may have taken an hour
        warnings.warn(
            f"cannot write the timing cache {path}: {error.strerror or error}; the next build measures again",
            stacklevel=2,
        )


def _layers(graph: bytes, log: _Log, load: NominalLoad) -> list[Layer]:
    import onnx
    import onnx_ir as ir

    model = ir.from_proto(onnx.load_model_from_string(graph))
    return read_layers(model, read_kernels(log.messages), load.image, load.rows)


def _release(version: str | None) -> tuple[str, ...]:
    # "10.3.0.30" and "10.3.0": the last number is a build's, and plans do not depend on it.
    return tuple((version or "").split(".")[:3])


def _ordinal(device: str | None, backend: str) -> int:
    name, _, number = (device or GPU.name).lower().partition(":")
    if name not in ("cuda", "gpu") or not (number or "0").isdecimal():
        raise BackendUnavailable(
            f"device {device!r}: the {backend} backend runs on GPUs: 'cuda', or 'cuda:1' and so on"
        )
    return int(number or "0")


TENSORRT = Tensorrt(
    backend="tensorrt",
    package="tensorrt",
    install="JetPack brings it (make the virtual environment with --system-site-packages), elsewhere: "
    "pip install tensorrt",
    ahead_of_time=False,
).described()
#: For GeForce and RTX cards; builds on machines without a GPU.
TENSORRT_RTX = Tensorrt(
    backend="tensorrt-rtx",
    package="tensorrt_rtx",
    install="pip install tensorrt-rtx-cu13",
    ahead_of_time=True,
).described()
