"""A wheel in an empty environment: no torch, no onnx, no compiler at run time."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "models" / "person.jpg"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with this package installed from a wheel."""
    folder = tmp_path_factory.mktemp("install")
    # The build tools are in the tests' own environment; what is proved here is the run-time side.
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(list(map(str, build)), check=True)
    (wheel,) = folder.glob("densepose_engine-*.whl")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    return python


def run(python: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(python), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)


def test_only_the_run_time_packages_are_there(python: Path, tmp_path: Path) -> None:
    code = "import importlib.util as u; print([m for m in ('torch', 'onnx', 'onnx_ir', 'yaml') if u.find_spec(m)])"
    assert run(python, "-c", code, cwd=tmp_path).stdout.strip() == "[]"


def test_infer_works(python: Path, demo_engine: Path, tmp_path: Path) -> None:
    command = python.parent / "densepose-engine"
    done = subprocess.run(
        [command, "infer", demo_engine, PICTURE, "-o", tmp_path / "out", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert list((tmp_path / "out").glob("*.png"))


def test_export_says_what_is_missing(python: Path, tmp_path: Path) -> None:
    models = ROOT / "models"
    arguments = ["export", "--config", models / "demo.yaml", "--weights", models / "demo.pth", "--dynamic"]
    done = run(python, "-m", "densepose_engine", *arguments, "-o", tmp_path / "x.onnx", cwd=tmp_path)
    assert done.returncode == 4
    assert "pip install 'densepose-engine[export]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_machine_specific_instructions_outside_the_dispatched_kernels(python: Path, tmp_path: Path) -> None:
    """What runs before the choice of an instruction set must run on any x86-64 machine."""
    code = "import densepose_engine._core as c; print(c.isa())"
    env = {"DENSEPOSE_ISA": "baseline", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([str(python), "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "baseline"
