"""The wheels in dist/ (``make wheel``): their tags, what is in them, and that they run where there is no compiler."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from densepose_engine import Engine
from densepose_engine.cli import main

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "wheels"
MODELS = ROOT / "models"
PICTURE = MODELS / "person.jpg"
MACHINES = {"x86_64": 62, "aarch64": 183}  # as ELF numbers them
WITHOUT_TENSORRT = """
from densepose_engine.backends import tensorrt
from densepose_engine.errors import BackendUnavailable
try:
    tensorrt._plugin_library()
except BackendUnavailable as error:
    print(error)
"""
sys.path.insert(0, str(ROOT / "deploy" / "wheels"))
from build_wheels import MANYLINUX, VERSIONS, find_interpreter  # noqa: E402

NAMES = [(version, machine) for version in VERSIONS for machine in MACHINES]


def wheel_of(version: str, machine: str) -> Path:
    if find_interpreter(version) is None:
        pytest.skip(f"there is no CPython {version} here")
    tag = f"cp{version.replace('.', '')}"
    found = list((ROOT / "dist").glob(f"densepose_engine-*-{tag}-{tag}-*{machine}.whl"))
    assert len(found) == 1, f"{len(found)} wheels for CPython {version} on {machine} in dist/: make wheel"
    return found[0]


@pytest.mark.parametrize(("version", "machine"), NAMES)
def test_tag_is_what_auditwheel_reads_from_the_file(version: str, machine: str) -> None:
    wheel = wheel_of(version, machine)
    tools = WORK / "environments" / "tools" / "bin"
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    shown = subprocess.run(
        [tools / "auditwheel", "show", wheel], env=environment, capture_output=True, text=True, check=True
    )
    said = " ".join(shown.stdout.split())
    (constraint,) = re.findall(rf'constrains the platform tag to "manylinux_(\d+)_(\d+)_{machine}"', said)
    assert tuple(map(int, constraint)) <= MANYLINUX
    assert f"manylinux_{constraint[0]}_{constraint[1]}_{machine}" in wheel.name


@pytest.mark.parametrize(("version", "machine"), NAMES)
def test_holds_our_binaries_and_nobody_elses(version: str, machine: str) -> None:
    with zipfile.ZipFile(wheel_of(version, machine)) as archive:
        binaries = {name: archive.read(name)[:20] for name in archive.namelist() if ".so" in name}
    core = f"densepose_engine/_core.cpython-{version.replace('.', '')}-{machine}-linux-gnu.so"
    assert set(binaries) == {core, "densepose_engine/libdensepose_openvino.so"}
    for name, header in binaries.items():
        assert header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") == MACHINES[machine], name


def check_people(said: str, path: Path) -> None:
    """Whether infer's JSON has the people that the engine finds here."""
    people = json.loads(said)["people"]
    with Engine.load(path, cache_dir=None) as engine:
        expected = engine.infer(PICTURE).to_dict()["people"]
    assert len(people) == len(expected) >= 1
    for found, other in zip(people, expected, strict=True):
        np.testing.assert_allclose(found["box"], other["box"], atol=0.1)
        assert found["score"] == pytest.approx(other["score"], abs=1e-3)


@pytest.mark.parametrize("version", VERSIONS)
def test_runs_without_a_compiler(version: str, demo_engine: Path, tmp_path: Path) -> None:
    wheel, interpreter = wheel_of(version, "x86_64"), find_interpreter(version)
    assert interpreter is not None
    subprocess.run([interpreter, "-m", "venv", tmp_path / "env"], check=True)
    programs = tmp_path / "env" / "bin"
    # pip of old Pythons looks for a C library's version with ldd; nothing else is on PATH.
    environment = {**{k: v for k, v in os.environ.items() if k.startswith("PIP_")}, "PATH": str(programs)}
    assert not any(
        shutil.which(tool, path=environment["PATH"]) for tool in ("cc", "c++", "gcc", "g++", "cmake", "ninja")
    )
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", wheel]
    environment["HOME"] = os.environ.get("HOME", "/root")
    subprocess.run(install, env=environment, check=True)
    infer = [programs / "densepose-engine", "infer", demo_engine, PICTURE, "-o", tmp_path / "out", "--json"]
    done = subprocess.run(infer, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_people(done.stdout, demo_engine)
    assert list((tmp_path / "out").glob("*.png"))
    said = subprocess.run(
        [programs / "python", "-c", WITHOUT_TENSORRT], env=environment, capture_output=True, text=True, check=True
    )
    assert "deploy/jetson/install.sh" in said.stdout


@pytest.fixture(scope="module")
def arm() -> list[str]:
    """The command of a Python for 64-bit Arm into which pip has put the wheel and what it depends on."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64: apt-get install qemu-user")
    wheel = wheel_of("3.11", "aarch64")
    root, site = ROOT / "build" / "aarch64" / "root", WORK / "site-aarch64"
    subprocess.run([ROOT / "deploy" / "jetson" / "unpack_python.sh", "3.11", root], check=True)
    shutil.rmtree(site, ignore_errors=True)
    # What pip on a machine with glibc 2.35, JetPack's, would take.
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 36)]
    options = ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", *platforms]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", site, *options, wheel], check=True)
    python = root / "usr" / "bin" / "python3.11"
    return [
        # What Orin's cores have. With qemu's own choice, "max", OpenVINO takes its kernels for SME, and convolutions of
        # 15 channels come out wrong: by whose fault, the emulator's or theirs, cannot be told without such a processor.
        *("qemu-aarch64", "-cpu", "neoverse-n1", "-L", str(root)),
        "-E",
        f"PYTHONPATH={site}",
        "-E",
        f"LD_LIBRARY_PATH={site}/openvino/libs",
        str(python),
    ]


@pytest.fixture
def small_engine(tmp_path: Path) -> Path:
    """An engine of so few pixels, proposals and people that an emulator takes two minutes for it."""
    graph, engine = tmp_path / "small.onnx", tmp_path / "small.engine"
    few = ["MODEL.RPN.POST_NMS_TOPK_TEST", "50", "TEST.DETECTIONS_PER_IMAGE", "1"]
    models = ["--config", str(MODELS / "demo.yaml"), "--weights", str(MODELS / "demo.pth")]
    assert main(["export", *models, "--input-size", "128x160", "-o", str(graph), "-q", "--opts", *few]) == 0
    assert main(["build", str(graph), "--precision", "fp32", "-o", str(engine), "-q"]) == 0
    return engine


def test_arm_infers(arm: list[str], small_engine: Path, tmp_path: Path) -> None:
    options = ["--json", "--no-cache"]
    infer = [*arm, "-m", "densepose_engine", "infer", small_engine, PICTURE, "-o", tmp_path / "out", *options]
    done = subprocess.run(list(map(str, infer)), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_people(done.stdout, small_engine)


def test_arm_says_how_the_tensorrt_plugin_comes(arm: list[str]) -> None:
    said = subprocess.run([*arm, "-c", WITHOUT_TENSORRT], capture_output=True, text=True, check=True).stdout
    assert "libdensepose_tensorrt.so is not installed" in said and "deploy/jetson/install.sh" in said
