"""Engines of the demo checkpoint, made once per run by the same commands that a user types."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import native_build
import pytest
from descriptions import description
from fake_engine import FakeEngine
from PIL import Image

from densepose_engine import Engine, _core
from densepose_engine.cli import main
from densepose_engine.model.engine_file import EngineFile, write_engine_file

# A shell starts what runs in the background with Ctrl-C ignored, nohup with SIGHUP; so would a test's commands be.
for _signal, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _usual)

MODELS = Path(__file__).resolve().parent.parent / "models"
# ``make test-py310`` runs in a Python without some packages: their names, and a folder with the graphs that torch made.
WITHOUT = frozenset(filter(None, os.environ.get("DENSEPOSE_TEST_WITHOUT", "").split(",")))
GRAPHS = Path(os.environ.get("DENSEPOSE_TEST_GRAPHS", ""))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """A file that imports a package of ``WITHOUT`` is skipped with that reason; any other failed import is an error."""
    report: Any = yield
    cause = report.call.excinfo.value.__cause__ if report.failed else None
    if isinstance(cause, ModuleNotFoundError) and (cause.name or "").partition(".")[0] in WITHOUT:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: needs {cause.name}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The same for a test that imports it on its way, or is told by the command line that it is missing."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in WITHOUT:
            raise
        pytest.skip(f"needs {error.name}")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled graphs go into a folder of this run: tests neither use nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("DENSEPOSE_DEBUG", "0")
        yield


def _export(path: Path, *size: str) -> Path:
    if "torch" in WITHOUT:
        return Path(shutil.copy(GRAPHS / f"{path.parent.name[:-1]}.onnx", path))
    arguments = ["export", "--config", str(MODELS / "demo.yaml"), "--weights", str(MODELS / "demo.pth"), *size]
    assert main([*arguments, "-o", os.fspath(path), "--quiet"]) == 0
    return path


def _build(graph: Path) -> Path:
    path = graph.with_suffix(".engine")
    assert main(["build", str(graph), "--backend", "openvino", "--precision", "fp32", "-o", str(path), "--quiet"]) == 0
    return path


@pytest.fixture(scope="session")
def demo_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint's graph for pictures of 320x448."""
    return _export(tmp_path_factory.mktemp("static") / "demo.onnx", "--input-size", "320x448")


@pytest.fixture(scope="session")
def demo_engine(demo_onnx: Path) -> Path:
    """Its fp32 engine."""
    return _build(demo_onnx)


@pytest.fixture(scope="session")
def dynamic_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint's graph for pictures of any size."""
    return _export(tmp_path_factory.mktemp("dynamic") / "demo.onnx", "--dynamic")


@pytest.fixture(scope="session")
def dynamic_engine(dynamic_onnx: Path) -> Path:
    """Its fp32 engine."""
    return _build(dynamic_onnx)


@pytest.fixture(scope="session")
def demo_table(demo_onnx: Path) -> Path:
    """Its calibration table, of the two pictures beside the checkpoint."""
    path = demo_onnx.with_suffix(".calib.json")
    pictures = [str(MODELS / name) for name in ("person.jpg", "astronaut.jpg")]
    assert main(["calibrate", str(demo_onnx), *pictures, "--min-people", "1", "-o", str(path), "--quiet"]) == 0
    return path


@pytest.fixture(scope="session")
def demo_int8_engine(demo_onnx: Path, demo_table: Path) -> Path:
    """Its int8 engine, of the observer that needs least time."""
    path = demo_onnx.with_suffix(".int8.engine")
    options = ["--precision", "int8", "--calib", str(demo_table), "--observer", "minmax"]
    assert main(["build", str(demo_onnx), *options, "-o", str(path), "--quiet"]) == 0
    return path


@pytest.fixture(scope="session")
def emulated_ops() -> ModuleType:
    """The ops as the CUDA kernels' code computes them, one thread after another on the CPU."""
    return native_build.emulated_ops()


@pytest.fixture(scope="session")
def cuda_ops() -> ModuleType:
    """Ring (c): the ops on a GPU."""
    if shutil.which("nvcc") is None:
        pytest.skip("ring (c) needs nvcc on PATH")
    folder = native_build.build("cuda_ops", folder=native_build.BUILD / "cuda", options=("-DDENSEPOSE_CUDA_TESTS=ON",))
    module = native_build.load("cuda_ops", folder)
    if module.why_no_gpu():
        pytest.skip(f"ring (c) needs a GPU: {module.why_no_gpu()}")
    return module


@pytest.fixture(params=os.environ.get("DENSEPOSE_TEST_KERNELS", "cpu,emulated").split(","))
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test of the ops on the CPU's kernels, again on the CUDA kernels' code emulated there, or on a GPU.

    ``make test-gpu`` sets the variable to "cuda".
    """
    if request.param != "cpu":
        monkeypatch.setattr(_core, "ops", request.getfixturevalue(f"{request.param}_ops"))
    return str(request.param)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    """Stands in for every engine; the working folder becomes an empty one with ``fake.engine`` and pictures."""
    engine = FakeEngine()

    def load(path: Path, **options: Any) -> FakeEngine:
        engine.loaded.append((path, options))
        return engine

    monkeypatch.setattr(Engine, "load", load)
    monkeypatch.chdir(tmp_path)
    write_engine_file("fake.engine", EngineFile("openvino", "fp32", description(), {}, {}))
    for number, name in enumerate(("a.jpg", "b.png", "sub/a.jpg")):
        path = Path("pictures", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24 + number, 16), (200, 100, 50)).save(path)
    return engine
