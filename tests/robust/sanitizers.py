"""The compiled parts under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer: the kernels' tests, the
kernels' fuzzing, and a small engine that loads and infers in several threads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import native_build

from . import fuzzing, material
from .counts import ROOT, Counts, environment

_TESTS = (
    *("test_generate_proposals", "test_multilevel_roi_align", "test_box_detections", "test_chart_result"),
    "test_closest_vertices",
    *("test_resize", "test_thread_pool", "test_openvino_plugin"),
)
_REPORT = re.compile(r"ERROR: \w+Sanitizer: .*|WARNING: ThreadSanitizer: .*|\S+: runtime error: .*")
_BETWEEN_REPORTS = "=" * 18
_PASSED = re.compile(r"(\d+) passed")
_ASAN = ("asan", "address,undefined", ("libasan.so", "libubsan.so"))
# Python itself and the vendor's runtime leave much behind when they end. No limit on addresses goes with the sanitizer:
# an array that would fill the machine is refused by its allocator.
_ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096"
_TEST_SECONDS = 3600
_ENGINE_SECONDS = 600

# Loads an engine and infers from several threads at once, as a program does.
_ENGINE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from densepose_engine import Engine
from robust import material
for path in sys.argv[1:]:
    with Engine.load(path, cache_dir=None, num_threads=2, num_requests=3, warm_up=2) as engine:
        pictures = [material.picture(*size) for size in material.SIZES] * 4
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(engine.infer, pictures))
        assert results[: len(material.SIZES)] == results[-len(material.SIZES) :]
"""


def part(scale: float, long: bool) -> Counts:
    """AddressSanitizer with UndefinedBehaviorSanitizer; in the long run ThreadSanitizer too."""
    counts = Counts("sanitizers")
    for name, sanitizers, library in (
        _ASAN,
        *((("tsan", "thread", ("libtsan.so",)),) if long else ()),
    ):
        if missing := [file for file in library if _library(file) is None]:
            counts.skipped.append(f"{name}: the compiler has no {missing[0]} (Debian: g++ brings it)")
            continue
        _run(_Sanitized(name, sanitizers, library), counts, scale)
    return counts


def replay(words: Sequence[str]) -> int:
    """Run this suite's "replay" with these words under AddressSanitizer and UndefinedBehaviorSanitizer."""
    around = _Sanitized(*_ASAN).fuzzing_environment()
    return subprocess.run([sys.executable, "-m", "robust", "replay", *words], env=around, check=False).returncode


class _Sanitized:
    """A build of the compiled parts, with the package around it, in build/NAME."""

    def __init__(self, name: str, sanitizers: str, libraries: tuple[str, ...]) -> None:
        self.name, self.folder = name, ROOT / "build" / name
        self.package = self.folder / "package"
        self.logs = self.folder / "logs"
        self._libraries = libraries
        shutil.rmtree(self.package, ignore_errors=True)
        self._copy()
        options = (
            f"-DDENSEPOSE_SANITIZE={sanitizers}",
            # The compiler, busy with the sanitizer's code, warns of what is not so.
            "-DDENSEPOSE_WERROR=OFF",
            f"-DDENSEPOSE_OUTPUT_DIR={self.package / 'densepose_engine'}",
            f"-DOpenVINO_DIR={_openvino() / 'cmake'}",
        )
        native_build.build("_core", "densepose_openvino", folder=self.folder, options=options)

    def _copy(self) -> None:
        """The package's Python files beside the sanitized binaries, as setup.py lays them out.

        Copies, no links: the package looks for its plugins where its files truly are.
        """
        inside = self.package / "densepose_engine"
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / "engine", inside, ignore=ignored, dirs_exist_ok=True)
        shutil.copytree(ROOT / "calibration", inside / "calibration", ignore=ignored, dirs_exist_ok=True)
        # The plugin finds its runtime's libraries beside the package, as in site-packages.
        (self.package / "openvino").mkdir()
        (self.package / "openvino" / "libs").symlink_to(_openvino() / "libs")

    def environment(self) -> Mapping[str, str]:
        """For a process that loads the build."""
        self.logs.mkdir(exist_ok=True)
        shim = self.folder / "rtld_deepbind.so"
        source = ROOT / "tests" / "robust" / "rtld_deepbind.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
        preloaded = [str(shim), *(_library(name) for name in self._libraries), _library("libstdc++.so")]
        log = f"log_path={self.logs / 'report'}"
        paths = f"{self.package}:{ROOT / 'tests'}"
        return {
            **environment(),
            "PYTHONPATH": paths,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONMALLOC": "malloc",  # so that each of Python's own buffers is watched, too
            "LD_PRELOAD": " ".join(path for path in preloaded if path),
            "ASAN_OPTIONS": f"{_ASAN_OPTIONS}:{log}",
            # Beside AddressSanitizer it writes to standard error, wherever it is told to.
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "TSAN_OPTIONS": f"suppressions={ROOT / 'tests' / 'robust' / 'thread_sanitizer.txt'}:exitcode=0:{log}",
            "DENSEPOSE_TEST_KERNELS": "cpu",
            "ROBUST_NO_MEMORY_LIMIT": "1",  # the sanitizers' shadow memory is terabytes of addresses
        }

    def fuzzing_environment(self) -> Mapping[str, str]:
        """For workers of the fuzzer: what undefined behavior is found ends the process at once."""
        halting = "print_stacktrace=1:halt_on_error=1:abort_on_error=1"
        return {**self.environment(), "UBSAN_OPTIONS": halting, "ROBUST_REPLAY": "replay-asan"}

    def reports(self, said: str = "") -> list[str]:
        """The first line of every report since the last call, and of those in what a process said."""
        found: list[str] = list(dict.fromkeys(_REPORT.findall(said)))
        for path in sorted(self.logs.glob("report*")):
            for report in path.read_text(errors="replace").split(_BETWEEN_REPORTS):
                # ThreadSanitizer does not see how threads of what it did not compile wait for each other: a report
                # in which no line is ours is about those.
                if self.name != "tsan" or "/csrc/" in report or "/plugins/" in report:
                    found += _REPORT.findall(report)
            path.rename(path.with_name(f"seen.{path.name}"))
        return found


def _run(build: _Sanitized, counts: Counts, scale: float) -> None:
    for path in build.logs.glob("*") if build.logs.exists() else ():
        path.unlink()
    tests = [str(ROOT / "tests" / f"{name}.py") for name in _TESTS]
    # -s: what a sanitizer says is not to be kept for tests that fail.
    pytest = (
        "-m",
        "pytest",
        "-q",
        "-s",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--import-mode=prepend",
    )
    _command(build, counts, [*pytest, *tests], _TEST_SECONDS)
    engines = [str(path) for path in (material.ENGINE, material.INT8_ENGINE, material.DYNAMIC_ENGINE)]
    _command(build, counts, ["-c", _ENGINE, *engines], _ENGINE_SECONDS)
    if build.name == "asan":  # each input in one thread after the other would tell ThreadSanitizer nothing
        for name, share in (("kernels", 1.0), ("engine-graph", 0.1), ("infer-arguments", 0.05)):
            # An input ends its process where a sanitizer reports, and so is known, and kept.
            around = build.fuzzing_environment()
            counts.add(fuzzing.run_target(name, fuzzing.budget(name, share * scale), around=around))
            _collect(build, counts)


def _command(build: _Sanitized, counts: Counts, words: list[str], seconds: float) -> None:
    """Count a test as an input; what fails is said."""
    command = [*_fixed_addresses(build.name), sys.executable, *words]
    try:
        done = subprocess.run(
            command, env=build.environment(), cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        counts.fail("hangs", f"{build.name}: no end after {seconds:g} s: {' '.join(words[:3])}")
        return
    _collect(build, counts, done.stdout + done.stderr)
    passed = _PASSED.search(done.stdout)
    counts.tried += int(passed.group(1)) if passed else 1
    if done.returncode:
        kind = "crashes" if done.returncode < 0 else "wrong exception types"
        said = (done.stdout + done.stderr).strip().splitlines()
        log = build.logs / f"failed{len(list(build.logs.glob('failed*')))}.txt"
        log.write_text("\n".join(said))
        counts.fail(kind, f"{build.name}: exit code {done.returncode}: {said[-1] if said else ''}; {log}")


def _collect(build: _Sanitized, counts: Counts, said: str = "") -> None:
    for line in build.reports(said):
        counts.fail("crashes", f"{build.name}: {line}; the report is in {build.logs}")


def _fixed_addresses(name: str) -> list[str]:
    """ThreadSanitizer of GCC 12 needs its shadow where newer kernels put libraries, unless addresses are fixed."""
    command = ["setarch", os.uname().machine, "-R"]
    if name != "tsan" or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        return []
    return command


def _library(name: str) -> str | None:
    """Where the compiler has it; it may be a text for the linker beside the true file."""
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=False)
    path = Path(found.stdout.strip())
    return str(path.resolve()) if path.is_absolute() and path.exists() else None


def _openvino() -> Path:
    import importlib.util

    found = importlib.util.find_spec("openvino")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0])
