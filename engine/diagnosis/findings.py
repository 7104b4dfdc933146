"""What is installed, what of it works, and what to do about the rest: the findings that ``doctor`` prints.

Nothing here raises: a probe that fails is a finding itself. What may end the process when it is imported or loaded (a
library for another processor, say) runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import INSTALLED_BY
from .surroundings import cache_folder, gpu, instruction_sets, locale_settings, resources, versions

__all__ = ["Diagnosis", "Finding", "Package", "diagnose"]

OK, MISSING, BROKEN, NOTE = "ok", "missing", "broken", "note"
_PATIENCE = 120.0  # seconds for an import
_LOAD_PATIENCE = 600.0  # and for an engine, which may be compiled on a slow board
_PLUGIN = Path(__file__).resolve().parents[1] / "libdensepose_openvino.so"


@dataclass(frozen=True)
class Finding:
    """One line of the page. ``state``: "ok", "missing", "broken" or "note"; ``remedy``: what to do, "" for nothing."""

    section: str
    name: str
    state: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings; ``works``: whether inference does, of the engine that was asked about where there was one."""

    findings: tuple[Finding, ...]
    works: bool

    @property
    def to_do(self) -> list[str]:
        """What to do, each thing once: first what is broken, then what is missing."""
        ranked = sorted(self.findings, key=lambda one: (BROKEN, MISSING, NOTE, OK).index(one.state))
        return list(dict.fromkeys(one.remedy for one in ranked if one.remedy))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``works``, ``findings`` (as ``Finding``) and ``to_do``."""
        return {"works": self.works, "findings": [asdict(one) for one in self.findings], "to_do": self.to_do}


@dataclass(frozen=True)
class Package:
    """A package by its name in Python, the distribution that has its version, what needs it, whether all of us do."""

    module: str
    distribution: str
    enables: str
    needed: bool = False


PACKAGES = (
    Package("numpy", "numpy", "everything", needed=True),
    Package("openvino", "openvino", "engines for CPUs", needed=True),
    Package("PIL", "Pillow", "reading and writing pictures", needed=True),
    Package("onnx", "onnx", "build, calibrate, report"),
    Package("onnx_ir", "onnx-ir", "build, calibrate, report"),
    Package("torch", "torch", "export, bench --vs torch"),
    Package("onnxscript", "onnxscript", "export"),
    Package("yaml", "PyYAML", "export"),
    Package("av", "av", "videos"),
    Package("pycocotools", "pycocotools", "evaluate, build --keep-float auto --data"),
    Package("onnxruntime", "onnxruntime", "bench --vs onnxruntime"),
    Package("scipy", "scipy", "evaluate --geodesics with .mat files"),
    Package("tensorrt", "tensorrt", "build and engines for Jetson and NVIDIA GPUs"),
    Package("tensorrt_rtx", "tensorrt-rtx-cu13", "build and engines for GeForce and RTX"),
    Package("pycuda", "pycuda", "running TensorRT engines"),
)


def diagnose(engine: Path | None = None) -> Diagnosis:
    """Look at everything; ``engine``: also whether this one loads and runs here."""
    findings = guarded("versions", lambda: [Finding(*one) for one in versions()])
    packages = guarded("packages", lambda: probe_packages(PACKAGES))
    findings += packages
    runtime = guarded("openvino", probe_openvino)
    findings += runtime
    for section, look in (
        ("processor", instruction_sets),
        ("cache", cache_folder),
        ("gpu", gpu),
        ("resources", resources),
        ("locale", locale_settings),
    ):
        findings += guarded(section, lambda look=look: [Finding(*one) for one in look()])  # type: ignore[misc]
    # An engine of another vendor works without OpenVINO; where none is named, the CPU's runtime decides.
    decisive = runtime
    if engine is not None:
        decisive = guarded("engine", lambda: probe_engine(engine))
        findings += decisive
    needed = {one.module for one in PACKAGES if one.needed and (engine is None or one.module != "openvino")}
    broken = [one for one in packages if one.name in needed and one.state != OK]
    works = not broken and bool(decisive) and all(one.state in (OK, NOTE) for one in decisive)
    return Diagnosis(tuple(findings), works)


def guarded(section: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What ``look`` finds, or that it failed."""
    try:
        return list(look())
    except Exception as error:
        return [Finding(section, "probe", BROKEN, f"cannot be looked at: {type(error).__name__}: {error}")]


# ---- what may end the process ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """Of a probe in a process of its own: what it printed last, or in ``failure`` why it did not."""

    text: str = ""
    failure: str = ""


def run_apart(code: str, *arguments: str, patience: float = _PATIENCE) -> Outcome:
    """Run Python code in a process of its own. An exception there, a crash and a hang each become a failure."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=patience,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(failure=f"it was not done after {patience:.0f} seconds")
    except (OSError, ValueError) as error:
        return Outcome(failure=f"no process can be started to try it ({error})")
    printed = done.stdout.decode("utf-8", "replace").strip().splitlines()
    if done.returncode < 0:
        return Outcome(failure=f"it ends the process with {_signal_name(-done.returncode)}")
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return Outcome(failure=said[-1] if said else f"exit code {done.returncode}")
    return Outcome(printed[-1] if printed else "")


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    meaning = {"SIGILL": ", an instruction that this processor lacks", "SIGKILL": ", perhaps for want of memory"}
    return name + meaning.get(name, "")


# ---- packages --------------------------------------------------------------------------------------------------------


def probe_packages(packages: Sequence[Package]) -> list[Finding]:
    """Which are there, and whether each can be imported."""
    with ThreadPoolExecutor(max_workers=4) as executor:
        return list(executor.map(_probe_package, packages))


def _probe_package(package: Package) -> Finding:
    install = f"pip install {INSTALLED_BY.get(package.module, package.distribution)}"
    if not _is_there(package.module):
        remedy = install if package.needed else ""
        state = BROKEN if package.needed else MISSING
        return Finding("packages", package.module, state, f"missing; {package.enables}: {install}", remedy)
    outcome = run_apart(f"import {package.module}")
    installed = _version(package.distribution)
    if outcome.failure:
        text = f"{installed} does not import: {outcome.failure}; {package.enables}"
        return Finding("packages", package.module, BROKEN, text, f"{install} --force-reinstall")
    return Finding("packages", package.module, OK, f"{installed}: {package.enables}")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # another finder's, or a module that was put in place by hand
        return False


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of an unknown version"


# ---- the runtime for CPUs --------------------------------------------------------------------------------------------

_RUN_OPENVINO = """
import json, sys
import numpy as np
from densepose_engine import DensePoseEngineError
from densepose_engine.backends.openvino import make_core, versions
try:
    core = make_core()
except DensePoseEngineError as error:
    print(json.dumps({"failure": str(error)}))
    sys.exit()
from openvino import Model, Type, opset13
x = opset13.parameter([1, 8], Type.f32)
compiled = core.compile_model(Model([opset13.relu(x).output(0)], [x]), "CPU")
(result,) = compiled([np.arange(-4, 4, dtype=np.float32)[None]]).values()
assert result.sum() == 6, "a wrong result"
print(json.dumps({"version": versions()["openvino"],
                  "capabilities": list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))}))
"""


def probe_openvino() -> list[Finding]:
    """The release of OpenVINO against the one that the plugin was built for, and whether both run a graph."""
    built, installed = plugin_release(_PLUGIN), _version("openvino")
    if not _PLUGIN.is_file():
        remedy = "reinstall densepose-engine: the plugin for OpenVINO was not built"
        return [Finding("openvino", "plugin", BROKEN, f"there is no {_PLUGIN.name}", remedy)]
    install = f"pip install openvino=={built or installed}"
    findings = [Finding("openvino", "plugin", OK, f"built for OpenVINO {built or 'of an unknown release'}")]
    if built and installed != built:
        text = f"OpenVINO {installed} is installed, the plugin was built for {built}"
        findings[0] = Finding("openvino", "plugin", BROKEN, text, install)
    outcome = run_apart(_RUN_OPENVINO)
    found = {"failure": outcome.failure} if outcome.failure else json.loads(outcome.text)
    if "failure" in found:
        remedy = findings[0].remedy or f"{install} --force-reinstall, or reinstall densepose-engine"
        return [*findings, Finding("openvino", "inference", BROKEN, found["failure"], remedy)]
    capabilities = ", ".join(found["capabilities"])
    return [*findings, Finding("openvino", "inference", OK, f"OpenVINO {found['version']} runs here ({capabilities})")]


def plugin_release(path: Path) -> str | None:
    """The release of OpenVINO that a plugin is linked with, such as "2026.4.1"; None where it does not say."""
    try:
        found = re.search(rb"libopenvino\.so\.(\d\d)(\d)(\d+)\0", path.read_bytes())
    except OSError:
        return None
    return None if found is None else "20{}.{}.{}".format(*(part.decode() for part in found.groups()))


# ---- an engine -------------------------------------------------------------------------------------------------------

_RUN_ENGINE = """
import json, sys
import numpy as np
from densepose_engine import DensePoseEngineError, Engine
try:
    with Engine.load(sys.argv[1], cache_dir="auto" if sys.argv[2] == "cache" else None, num_requests=1) as engine:
        engine.infer(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8))
        print(json.dumps({"engine": repr(engine)}))
except (DensePoseEngineError, OSError) as error:
    print(json.dumps({"failure": str(error)}))
"""


def probe_engine(path: Path) -> list[Finding]:
    """Whether the engine loads here and runs a picture; why not, and whether the cache is to blame."""
    failure, text = _run_engine(path, "cache")
    if not failure:
        return [Finding("engine", path.name, OK, f"{text} loads and runs a picture")]
    without, _ = _run_engine(path, "no cache")
    if without:
        return [Finding("engine", path.name, BROKEN, without, without)]  # the sentence says the way out itself
    remedy = "remove the folder of compiled graphs (see cache above)"
    return [Finding("engine", path.name, BROKEN, f"it runs without the cache only; with it: {failure}", remedy)]


def _run_engine(path: Path, cache: str) -> tuple[str, str]:
    """Why it fails, and what it is."""
    outcome = run_apart(_RUN_ENGINE, os.fspath(path), cache, patience=_LOAD_PATIENCE)
    if outcome.failure:
        return outcome.failure, ""
    found = json.loads(outcome.text)
    return found.get("failure", ""), found.get("engine", "")
