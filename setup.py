"""Builds the compiled core and the vendors' plugins with CMake; pyproject.toml has everything else.

One folder, build/NAME-OF-THE-ABI, serves pip and make alike, so that neither compiles what the other has compiled.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# What CMake looks at when it meets an empty folder, and then never again.
ENVIRONMENT = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDACXX", "TENSORRT_ROOT")


class CMakeBuild(build_ext):
    """One CMake project builds all binaries, which then go where setuptools expects the first."""

    def build_extension(self, ext: Extension) -> None:
        options = [*self._options(ext), *os.environ.get("CMAKE_ARGS", "").split()]
        _check_machine(options)
        with _alone(self._folder(ext)) as folder:
            _configure(folder, options)
            _cmake("--build", folder)
            self._install(folder, Path(self.get_ext_fullpath(ext.name)).resolve().parent)

    def copy_extensions_to_source(self) -> None:
        """Puts the binaries where an editable install looks; setuptools would copy extension modules only."""
        for ext in self.extensions:  # in the source tree: setuptools asks for the full path as in place
            with _alone(self._folder(ext)) as folder:
                self._install(folder, Path(self.get_ext_fullpath(ext.name)).resolve().parent)

    def _suffix(self, ext: Extension) -> str:
        """ ".cpython-311-x86_64-linux-gnu.so": CMake is told, so that both give the module one name."""
        name = Path(self.get_ext_filename(ext.name)).name
        return name[name.index(".") :]

    def _folder(self, ext: Extension) -> Path:
        return ROOT / "build" / self._suffix(ext).strip(".").removesuffix(".so")

    def _options(self, ext: Extension) -> list[str]:
        options = [
            "-GNinja",
            f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
            f"-DDENSEPOSE_OUTPUT_DIR={self._folder(ext) / 'lib'}",
            f"-DPYTHON_MODULE_EXTENSION={self._suffix(ext)}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={_cmake_folder('pybind11', 'share', 'cmake', 'pybind11')}",
        ]
        if importlib.util.find_spec("openvino"):
            options.append(f"-DOpenVINO_DIR={_cmake_folder('openvino', 'cmake')}")
        return options

    def _install(self, folder: Path, package: Path) -> None:
        _cmake("--install", folder, "--prefix", package)
        built = {Path(line).name for line in (folder / "install_manifest.txt").read_text().splitlines()}
        # A plugin that is left out this time must not stay from an earlier one, with other sources.
        for plugin in package.glob("libdensepose_*.so"):
            if plugin.name not in built:
                plugin.unlink()


class CleanBuild(build):
    """setuptools' build, from an empty folder: modules that are gone from the sources would stay in wheels."""

    def run(self) -> None:
        folder = Path(self.build_lib).resolve()
        if folder.is_relative_to(ROOT / "build"):  # elsewhere it is the caller's
            shutil.rmtree(folder, ignore_errors=True)
        super().run()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The folder, made if need be, while no other build works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _configure(folder: Path, options: list[str]) -> None:
    """Run CMake, without its memory where the tools, the options or the checkout are no longer those that it was told.

    pip's build environments come and go, each with a ninja, a cmake, a pybind11 and an OpenVINO of its own. Compiled
    objects stay: ninja knows from their command lines and headers which of them are still good.
    """
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    tools = {name: shutil.which(name) for name in ("cmake", "c++", "nvcc")}
    told = json.dumps([str(folder), options, environment, tools], indent=1)
    stamp = folder / "configured.json"
    if not stamp.is_file() or stamp.read_text() != told:
        stamp.unlink(missing_ok=True)
        (folder / "CMakeCache.txt").unlink(missing_ok=True)
        for compilers in (folder / "CMakeFiles").glob("[0-9]*"):
            shutil.rmtree(compilers)
    _cmake("-S", ROOT, "-B", folder, *options)
    stamp.write_text(told)


def _check_machine(options: list[str]) -> None:
    """Say in a sentence what CMake would say in a page."""
    missing = []
    compiler = os.environ.get("CXX", "").split()[:1]  # a launcher such as ccache, or the compiler itself
    if not any(map(shutil.which, compiler or ("c++", "g++", "clang++"))):
        missing.append(f"a C++17 compiler ({compiler[0] if compiler else 'g++'})")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file() and not any(option.startswith("-DPython_INCLUDE_DIR=") for option in options):
        missing.append(f"Python's headers ({header})")
    if missing:
        raise SystemExit(
            f"densepose-engine is compiled here, which needs {' and '.join(missing)}; on Debian or Ubuntu: "
            "apt-get install g++ python3-dev"
        )


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"densepose-engine is built with {name}, which is not on PATH: pip install {name}")
    return path


def _cmake_folder(package: str, *below: str) -> Path:
    """Where a Python package keeps its files for CMake."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"densepose-engine is built with {package}, which is not there: pip install {package}")
    return Path(spec.submodule_search_locations[0], *below)


def _cmake(*arguments: object) -> None:
    done = subprocess.run([_tool("cmake"), *map(str, arguments)], check=False)
    if done.returncode:
        raise SystemExit("densepose-engine could not be compiled: what CMake or the compiler said stands above")


setup(
    ext_modules=[Extension("densepose_engine._core", sources=[])],
    cmdclass={"build": CleanBuild, "build_ext": CMakeBuild},
)
