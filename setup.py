"""Builds the compiled core and the OpenVINO plugin with CMake; pyproject.toml has everything else."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class CMakeBuild(build_ext):
    """One CMake project builds all binaries, into the folder where setuptools expects the first."""

    def build_extension(self, ext: Extension) -> None:
        package = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        options = [f"-DDENSEPOSE_OUTPUT_DIR={package}", f"-DPython_EXECUTABLE={sys.executable}", "-GNinja"]
        openvino = importlib.util.find_spec("openvino")
        if openvino and openvino.submodule_search_locations:
            options.append(f"-DOpenVINO_DIR={openvino.submodule_search_locations[0]}/cmake")
        options += os.environ.get("CMAKE_ARGS", "").split()
        subprocess.run(["cmake", "-S", Path(__file__).parent, "-B", build, *options], check=True)
        subprocess.run(["cmake", "--build", build], check=True)

    def copy_extensions_to_source(self) -> None:
        """Puts the plugins, too, where an editable install looks; setuptools knows of extension modules only."""
        super().copy_extensions_to_source()
        core = Path(self.get_ext_fullpath("densepose_engine._core"))  # in the source tree: setuptools asks in place
        for plugin in (Path(self.build_lib) / "densepose_engine").glob("libdensepose_*.so"):
            self.copy_file(str(plugin), str(core.parent / plugin.name), level=self.verbose)


setup(ext_modules=[Extension("densepose_engine._core", sources=[])], cmdclass={"build_ext": CMakeBuild})
