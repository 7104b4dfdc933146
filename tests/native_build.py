"""Compiles what only tests need (tests/native), once, into build/tests; later runs compile what has changed."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pybind11

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "tests"


def build(*targets: str, source: Path = ROOT, folder: Path = BUILD, options: tuple[str, ...] = ()) -> Path:
    """Configure ``source`` in ``folder`` and build ``targets``; the folder. Says what the compiler said if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    configure = [
        *("cmake", "-S", str(source), "-B", str(folder), "-GNinja", "-DDENSEPOSE_TESTS=ON"),
        f"-DDENSEPOSE_OUTPUT_DIR={folder}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        *options,
    ]
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once would compile over each other
        for command in (configure, ["cmake", "--build", str(folder), "--target", *targets]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return folder


def load(name: str, folder: Path) -> ModuleType:
    """The extension module ``name`` in ``folder``."""
    (path,) = folder.glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def emulated_ops() -> ModuleType:
    return load("emulated_ops", build("emulated_ops"))
