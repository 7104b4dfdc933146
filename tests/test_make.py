"""What stands before ``make``: the check of the machine, the virtual environment, where torch is taken from."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PREREQUISITES = ROOT / "deploy" / "fresh" / "prerequisites.sh"
SPEAK = ROOT / "deploy" / "fresh" / "speak.py"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def prerequisites(path: Path, python: str) -> subprocess.CompletedProcess[str]:
    command = [str(shutil.which("sh")), str(PREREQUISITES), python]
    return subprocess.run(command, env={"PATH": str(path)}, capture_output=True, text=True, check=False)


LACKING = {
    "everything": ("", "python3 python3-venv python3-dev g++"),
    "all but Python": ('case "$*" in *ensurepip* | *Python.h*) exit 1 ;; esac', "python3-venv python3-dev g++"),
    "headers": ('case "$*" in *Python.h*) exit 1 ;; esac', "python3-dev g++"),
    "a compiler": ("exit 0", "g++"),
}


@pytest.mark.parametrize("lacking", LACKING)
def test_one_sentence_names_all_that_is_missing(tmp_path: Path, lacking: str) -> None:
    python, packages = LACKING[lacking]
    if python:
        script(tmp_path / "python3", python)
    done = prerequisites(tmp_path, "python3")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith(f"apt-get install {packages}\n")


def test_packages_of_a_python_called_by_its_version(tmp_path: Path) -> None:
    script(tmp_path / "python3.12", LACKING["all but Python"][0])
    assert "python3.12-venv python3.12-dev" in prerequisites(tmp_path, "python3.12").stderr


def test_a_compiler_that_does_not_work_counts_as_missing(tmp_path: Path) -> None:
    script(tmp_path / "python3", "exit 0")
    script(tmp_path / "c++", "exit 1")
    assert "a compiler for C++17" in prerequisites(tmp_path, "python3").stderr
    script(tmp_path / "c++", "exit 0")
    assert prerequisites(tmp_path, "python3").returncode == 0


def test_an_old_python_is_named(tmp_path: Path) -> None:
    script(tmp_path / "python3", 'case "$*" in -V) echo Python 3.9.1 ;; *) exit 1 ;; esac')
    said = prerequisites(tmp_path, "python3").stderr
    assert "Python 3.10 or newer" in said and "Python 3.9.1" in said and "make PYTHON=" in said


def make(target: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", str(target), *variables]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "TORCH", "MFLAGS"))
    }
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_failed_environment_does_not_count_as_made(tmp_path: Path) -> None:
    """Debian's venv without ensurepip leaves a folder with a Python in it, and fails."""
    folder = tmp_path / "venv"
    python = script(
        tmp_path / "python3",
        f'case "$*" in *speak.py*) exec {sys.executable} "$@" ;;\n'
        f'*"-m venv"*) mkdir -p {folder}/bin; cp "$0" {folder}/bin/python; exit 1 ;;\n'
        '*"-m pip"*) exit 1 ;; esac',
    )
    for _ in range(2):
        done = make(folder / "made", f"VENV={folder}", f"PYTHON={python}")
        assert done.returncode != 0 and "making" in done.stdout
        assert (folder / "bin" / "python").is_file() and not (folder / "made").exists()


SOURCES = {
    "https://example.org/cpu": "--index-url https://example.org/cpu",
    "": "--no-deps torch==",
    "FOLDER": "--no-index --find-links FOLDER",
}


@pytest.mark.parametrize("index", SOURCES)
def test_torch_is_taken_from_where_it_is_said(tmp_path: Path, index: str) -> None:
    folder, wheels = tmp_path / "venv", tmp_path / "wheels"
    wheels.mkdir()
    log = tmp_path / "pip.txt"
    script(folder / "bin" / "python", f'echo "$@" >>{log}; exit 1')
    for name in ("made", "tools", "built"):
        (folder / name).touch()
    done = make(folder / "torch", f"VENV={folder}", f"TORCH_INDEX={index.replace('FOLDER', str(wheels))}")
    assert " ".join(log.read_text().split()).count(SOURCES[index].replace("FOLDER", str(wheels))) == 1
    # pip failed: the way out is named, and nothing counts as installed.
    assert done.returncode != 0 and "make TORCH_INDEX=FOLDER" in done.stderr
    assert not (folder / "torch").exists()


def test_the_default_is_an_index_of_cpu_builds(tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    script(folder / "bin" / "python", "exit 1")
    for name in ("made", "tools", "built"):
        (folder / name).touch()
    assert "https://download.pytorch.org/whl/cpu" in make(folder / "torch", f"VENV={folder}").stderr


def test_nothing_is_silent_for_long(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SPEAK.parent)!r}); import speak; speak.SILENCE = 0.05\n"
        "sys.exit(speak.main('sleeping', ['sh', '-c', 'echo begun; sleep 0.5; echo done; exit 3']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 3 and lines[:2] == ["=== sleeping", "begun"] and lines[-1] == "done"
    assert len(lines) > 3 and all(line.startswith("    ... sleeping, ") for line in lines[2:-1])


def test_a_missing_program_is_named() -> None:
    done = subprocess.run([sys.executable, SPEAK, "x", "no-such-program"], capture_output=True, text=True, check=False)
    assert done.returncode == 127 and done.stderr == "no-such-program: No such file or directory\n"


def test_build_requirements_are_read_as_pip_reads_them() -> None:
    spec = importlib.util.spec_from_file_location("build_wheels", ROOT / "deploy" / "wheels" / "build_wheels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if sys.version_info < (3, 11):
        from pip._vendor import tomli as tomllib
    else:
        import tomllib
    expected = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert module.build_requirements() == expected


def test_what_was_built_is_not_linted_where_there_is_no_git_to_say_so(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("build/lib/wrong.py", "dist/wrong.py", "out/wrong.py", "engine/right.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    seen = [str(Path(line).relative_to(tmp_path)) for line in done.stdout.splitlines()]
    assert [name for name in seen if name.endswith(".py")] == ["engine/right.py"]
