"""Rings (b) and (c): what needs TensorRT. Ring (b) builds and never executes; ring (c) needs a GPU, or says why not."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from densepose_engine.backends import tensorrt
from densepose_engine.cli import main


@pytest.fixture(scope="session")
def trt() -> ModuleType:
    """TensorRT-RTX with our plugins in its registry."""
    package = pytest.importorskip("tensorrt_rtx", reason="ring (b) needs tensorrt-rtx-cu13: run 'make test-tensorrt'")
    if not tensorrt.PLUGIN.is_file():
        pytest.skip("ring (b) needs the plugin library: nvcc on PATH, TENSORRT_ROOT set, 'make test-tensorrt'")
    tensorrt._check_library_names(package)
    tensorrt._load_plugins(package)
    return package


@pytest.fixture(scope="session")
def plugin_library(trt: ModuleType) -> ctypes.CDLL:
    """Our library, with its own functions declared."""
    return tensorrt._plugin_library()


def _calibrated(graph: Path, folder: Path) -> Path:
    table = folder / "calib.json"
    pictures = str(Path(__file__).resolve().parents[2] / "models")
    assert main(["calibrate", str(graph), pictures, "-o", str(table), "--quiet"]) == 0
    return table


@pytest.fixture(scope="session")
def calibration(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the static demo graph, from two pictures: enough to place Q/DQ."""
    return _calibrated(demo_onnx, tmp_path_factory.mktemp("calibration"))


@pytest.fixture(scope="session")
def dynamic_calibration(dynamic_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the dynamic graph."""
    return _calibrated(dynamic_onnx, tmp_path_factory.mktemp("calibration"))


@pytest.fixture
def build_engine(tmp_path: Path) -> Any:
    """``build_engine(graph, *arguments)``: the engine that the command makes for TensorRT-RTX."""

    def build(graph: Path, *arguments: str) -> Path:
        output = tmp_path / "rtx.engine"
        command = ["build", os.fspath(graph), "--backend", "tensorrt-rtx", *arguments, "-o", str(output), "--quiet"]
        assert main(command) == 0
        return output

    return build
