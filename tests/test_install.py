"""A wheel in an empty environment: no torch, no onnx, no compiler at run time. And a checkout that is built again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pybind11
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


def test_the_missing_tensorrt_plugin_is_explained(python: Path, tmp_path: Path) -> None:
    """Wheels have none: it is compiled against the device's own CUDA and TensorRT."""
    code = "from densepose_engine.backends import tensorrt as t; t._plugin_library()"
    done = run(python, "-c", code, cwd=tmp_path)
    assert "BackendUnavailable: libdensepose_tensorrt.so is not installed" in done.stderr
    assert "deploy/jetson/install.sh" in done.stderr and "TENSORRT_ROOT" in done.stderr


def test_no_machine_specific_instructions_outside_the_dispatched_kernels(python: Path, tmp_path: Path) -> None:
    """What runs before the choice of an instruction set must run on any x86-64 machine."""
    code = "import densepose_engine._core as c; print(c.isa())"
    env = {"DENSEPOSE_ISA": "baseline", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([str(python), "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "baseline"


SOURCES = ("cmake", "csrc", "plugins", "engine", "calibration")
FILES = (
    "CMakeLists.txt",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "THIRD_PARTY_NOTICES.md",
    "pyproject.toml",
    "setup.py",
)


def checkout(folder: Path) -> Path:
    """A copy of the sources, as if nothing had been built."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


def passing_tools(folder: Path) -> dict[str, str]:
    """What pip lays into a build environment, which is gone after the build: a ninja, a cmake, a pybind11."""
    programs = Path(sys.executable).parent
    (folder / "bin").mkdir(parents=True)
    for name in ("cmake", "ninja"):
        found = shutil.which(name, path=f"{programs}:{os.environ['PATH']}")
        assert found is not None
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{found}" "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    shutil.copytree(Path(pybind11.__file__).parent, folder / "site" / "pybind11")
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(folder / "site")}


def counting_compiler(folder: Path) -> tuple[Path, Callable[[], list[str]]]:
    """A compiler that finds a source's headers and makes an empty object of it; and what it was given since last asked.

    What is no source of ours, CMake's own questions, it compiles.
    """
    log, compiler = folder / "compiled.txt", folder / "c++"
    compiler.write_text(f"""#!/bin/sh
source= object= last=
for word; do
  case $word in */CMakeFiles/*.cpp) ;; {folder}/*.cpp) source=$word ;; esac
  [ "$last" != -o ] || object=$word
  last=$word
done
[ -n "$source" ] || exec c++ "$@"
echo "${{source##*/}}" >>{log}
c++ "$@" -E && c++ -x c++ -c /dev/null -o "$object"
""")
    compiler.chmod(0o755)

    def compiled() -> list[str]:
        names = log.read_text().split() if log.is_file() else []
        log.write_text("")
        return sorted(names)

    return compiler, compiled


def test_a_checkout_is_built_again_and_compiled_once(tmp_path: Path) -> None:
    """``pip install .`` twice, then ``make``, then both again: the CMake of one never asks for the tools of another."""
    source = checkout(tmp_path / "checkout")
    compiler, compiled = counting_compiler(tmp_path)
    environment = {**os.environ, "CXX": str(compiler), "CMAKE_ARGS": "-DCMAKE_DISABLE_FIND_PACKAGE_OpenVINO=ON"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def build(*command: str, **extra: str) -> None:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=source,
            env={**environment, **extra},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    def wheel(name: str, **extra: str) -> set[str]:
        options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path / name))
        build("-m", "pip", "wheel", *options, ".", **extra)
        (path,) = (tmp_path / name).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())

    (source / "engine" / "gone.py").touch()
    names = wheel("first", **passing_tools(tmp_path / "pip1"))
    shutil.rmtree(tmp_path / "pip1")
    everything = compiled()
    core = next(name for name in names if "/_core." in name)
    assert "densepose_engine/gone.py" in names and "kernels_baseline.cpp" in everything
    assert len(everything) == len(set(everything)), "compiled twice"

    (source / "engine" / "gone.py").unlink()
    again = wheel("second", **passing_tools(tmp_path / "pip2"))
    shutil.rmtree(tmp_path / "pip2")
    assert again == names - {"densepose_engine/gone.py"}
    # Only what sees pybind11's headers, which lie elsewhere now.
    assert all(name.startswith("bindings") for name in compiled())

    build("setup.py", "--quiet", "build_ext", "--inplace")
    assert all(name.startswith("bindings") for name in compiled())
    assert (source / "engine" / Path(core).name).is_file()
    build("setup.py", "--quiet", "build_ext", "--inplace")
    assert wheel("third") == again
    assert compiled() == []

    moved = source.rename(tmp_path / "elsewhere")
    source = moved
    build("setup.py", "--quiet", "build_ext", "--inplace")


def test_a_plugin_that_is_left_out_does_not_stay(tmp_path: Path) -> None:
    """One of other sources would be loaded, and packed into wheels."""
    code = (
        "import sys, setup_under_test as s; from pathlib import Path\n"
        "s._cmake = lambda *arguments: None\n"
        "s.CMakeBuild._install(None, Path('build'), Path('package'))\n"
    )
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    (tmp_path / "setup_under_test.py").write_text(text[: text.index("\nsetup(")], encoding="utf-8")
    (tmp_path / "build").mkdir()
    (tmp_path / "package").mkdir()
    for name in ("_core.so", "libdensepose_openvino.so", "libdensepose_tensorrt.so"):
        (tmp_path / "package" / name).touch()
    (tmp_path / "build" / "install_manifest.txt").write_text("/x/_core.so\n/x/libdensepose_openvino.so")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    left = {path.name for path in (tmp_path / "package").iterdir()}
    assert left == {"_core.so", "libdensepose_openvino.so"}


@pytest.mark.parametrize("lacking", ["c++", "cmake"])
def test_building_says_in_a_sentence_what_is_missing(tmp_path: Path, lacking: str) -> None:
    source = checkout(tmp_path / "checkout")
    tools = {
        name: shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") for name in ("ninja",)
    }
    (tmp_path / "bin").mkdir()
    for name, path in tools.items():
        (tmp_path / "bin" / name).symlink_to(str(path))
    if lacking == "cmake":
        (tmp_path / "bin" / "c++").symlink_to(str(shutil.which("c++")))
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC", "CMAKE_ARGS")}
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=source,
        env={**environment, "PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    expected = {"c++": "apt-get install g++ python3-dev", "cmake": "cmake, which is not on PATH: pip install cmake"}
    assert expected[lacking] in done.stderr


def test_the_archive_of_sources_is_complete(tmp_path: Path) -> None:
    """Everything that compiling needs, and the package; no tests, no binaries."""
    source = checkout(tmp_path / "checkout")
    (source / "engine" / "_core.cpython-311-x86_64-linux-gnu.so").touch()
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=source, capture_output=True, check=True)
    (archive,) = tmp_path.glob("densepose_engine-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    expected = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file() and path.suffix != ".so"}
    generated = {name for name in expected if "egg-info" in name}
    assert expected - generated <= names
    assert not any(name.endswith(".so") or name.startswith("tests/") for name in names)
