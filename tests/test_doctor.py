"""``doctor``: what it finds, what it makes of what is broken, and that it never fails itself."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from densepose_engine.cli import main
from densepose_engine.diagnosis import findings as diagnosis
from densepose_engine.diagnosis import surroundings
from densepose_engine.diagnosis.findings import (
    BROKEN,
    MISSING,
    NOTE,
    OK,
    Finding,
    Package,
    diagnose,
    probe_packages,
    run_apart,
)

SECTIONS = ["versions", "packages", "openvino", "processor", "cache", "gpu", "resources", "locale"]


def quick(monkeypatch: pytest.MonkeyPatch, *kept: str) -> None:
    """Leave out the probes that take seconds, but those named."""
    fine = {"probe_packages": [], "probe_openvino": [Finding("openvino", "inference", OK, "runs here")]}
    for name, findings in fine.items():
        if name not in kept:
            monkeypatch.setattr(diagnosis, name, lambda *_, findings=findings: findings)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_page_and_its_json(demo_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(demo_engine), "--json", "-q"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["works"] is True
    assert list(dict.fromkeys(one["section"] for one in content["findings"])) == [*SECTIONS, "engine"]
    found = {(one["section"], one["name"]): one for one in content["findings"]}
    assert {"openvino", "torch", "av", "pycocotools"} <= {name for section, name in found if section == "packages"}
    assert found["openvino", "inference"]["state"] == found["engine", demo_engine.name]["state"] == OK
    assert "fp32" in found["engine", demo_engine.name]["text"]
    plugin = found["openvino", "plugin"]["text"].split()[-1]
    assert found["packages", "openvino"]["text"].startswith(plugin)


def test_the_page_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    quick(monkeypatch)
    missing = [Finding("packages", "av", MISSING, "missing; videos"), Finding("packages", "x", BROKEN, "no", "do this")]
    monkeypatch.setattr(diagnosis, "probe_packages", lambda packages: missing)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  - av" in "\n".join(lines) and "  ! x" in "\n".join(lines)
    assert "inference works here" in lines
    assert lines[lines.index("what to do") + 1] == "  do this"
    assert main(["doctor", "-q"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("what", ["picture", "truncated", "absent", "another release"])
def test_an_engine_that_does_not_load(
    what: str, demo_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick(monkeypatch)
    path = tmp_path / "x.engine"
    if what == "picture":
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    elif what == "truncated":
        path.write_bytes(demo_engine.read_bytes()[:5000])
    elif what == "another release":
        with zipfile.ZipFile(demo_engine) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                content = old.read(entry)
                if entry.filename == "manifest.json":
                    manifest = json.loads(content)
                    manifest["runtime"]["openvino"] = "2025.1.0"
                    content = json.dumps(manifest).encode()
                new.writestr(entry, content)
    assert main(["doctor", str(path)]) == 1
    out = capsys.readouterr().out
    assert "inference does not work here" in out and "Traceback" not in out
    to_do = out[out.index("what to do") :]
    assert "x.engine" in to_do and {"another release": "pip install openvino==2025.1.0"}.get(what, "") in to_do


def test_a_cache_that_is_to_blame(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(diagnosis, "_run_engine", lambda path, cache: ("died", "") if cache == "cache" else ("", "E"))
    (finding,) = diagnosis.probe_engine(tmp_path / "x.engine")
    assert finding.state == BROKEN and "died" in finding.text and "compiled graphs" in finding.remedy


@pytest.mark.parametrize(
    ("runtime", "state", "works"),
    [("openvino", BROKEN, False), ("openvino", OK, True), ("packages", BROKEN, False), ("packages", MISSING, False)],
)
def test_what_decides_whether_inference_works(
    runtime: str, state: str, works: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick(monkeypatch)
    name = "probe_openvino" if runtime == "openvino" else "probe_packages"
    finding = Finding(runtime, "inference" if runtime == "openvino" else "PIL", state, "so it is", "pip install it")
    monkeypatch.setattr(diagnosis, name, lambda *_: [finding])
    assert diagnose().works is works
    assert main(["doctor", "-q"]) == int(not works)


def test_no_probe_can_end_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: object) -> list[Finding]:
        raise RuntimeError("a disk of jelly")

    looks = ("versions", "instruction_sets", "cache_folder", "gpu", "resources", "locale_settings")
    for name in (*looks, "probe_packages", "probe_openvino", "probe_engine"):
        monkeypatch.setattr(diagnosis, name, fails)
    assert main(["doctor", "x.engine"]) == 1
    out = capsys.readouterr().out
    assert out.count("RuntimeError: a disk of jelly") == len(SECTIONS) + 1


# ---- probes in processes of their own --------------------------------------------------------------------------------


def test_how_a_process_can_end() -> None:
    assert run_apart("print('noise'); print('the last line')").text == "the last line"
    assert "SIGABRT" in run_apart("import os; os.abort()").failure
    assert run_apart("import os, signal; os.kill(os.getpid(), signal.SIGILL)").failure.endswith("processor lacks")
    assert "ZeroDivisionError" in run_apart("1 / 0").failure
    assert run_apart("import sys; sys.exit(3)").failure == "exit code 3"
    assert "not done after 0 seconds" in run_apart("import time; time.sleep(60)", patience=0.2).failure


def test_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert "no process can be started" in run_apart("1").failure


def test_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = {"fine_one": "", "aborts": "import os; os.abort()", "old_one": "raise ImportError('libx.so.1 is missing')"}
    for name, code in codes.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = [*codes, "absent_one"]
    packages = [Package(name, f"dist-{name}", "a verb") for name in names]
    found = dict(zip(names, probe_packages(packages), strict=True))
    assert [one.state for one in found.values()] == [OK, BROKEN, BROKEN, MISSING]
    assert "SIGABRT" in found["aborts"].text and "libx.so.1 is missing" in found["old_one"].text
    assert found["old_one"].remedy == "pip install dist-old_one --force-reinstall"
    assert "pip install dist-absent_one" in found["absent_one"].text and not found["absent_one"].remedy
    (needed,) = probe_packages([Package("absent_one", "dist", "everything", needed=True)])
    assert (needed.state, needed.remedy) == (BROKEN, "pip install dist")


def test_openvino_of_another_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "run_apart", lambda code: diagnosis.Outcome(failure="it does not load"))
    monkeypatch.setattr(diagnosis, "_version", lambda name: "2025.1.0")
    plugin, inference = diagnosis.probe_openvino()
    release = diagnosis.plugin_release(diagnosis._PLUGIN)
    assert release is not None and plugin.state == inference.state == BROKEN
    assert plugin.remedy == inference.remedy == f"pip install openvino=={release}"
    monkeypatch.setattr(diagnosis, "_PLUGIN", tmp_path / "absent.so")
    (plugin,) = diagnosis.probe_openvino()
    assert plugin.state == BROKEN and "reinstall" in plugin.remedy


def test_the_release_in_a_plugin(tmp_path: Path) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(b"\0libopenvino.so.2641\0libtbb.so.12\0")
    assert diagnosis.plugin_release(path) == "2026.4.1"
    path.write_bytes(b"\0libopenvino.so.25310\0")
    assert diagnosis.plugin_release(path) == "2025.3.10"
    path.write_bytes(b"nothing")
    assert diagnosis.plugin_release(path) is diagnosis.plugin_release(tmp_path / "absent") is None


# ---- surroundings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "machine", "fast", "said"),
    [
        ("avx2 avx512bw avx512_vnni amx_int8", "x86_64", True, "AMX"),
        ("avx2 avx512bw avx512_vnni", "x86_64", True, "AVX-512 VNNI"),
        ("avx2 avx_vnni", "x86_64", True, "AVX-VNNI"),
        ("avx2 avx512bw", "x86_64", False, "AVX-512 without VNNI"),
        ("avx2", "x86_64", False, "AVX2 without VNNI"),
        ("sse4_2", "x86_64", False, "no AVX2"),
        ("asimd asimddp", "aarch64", True, "dot products: one"),
        ("asimd", "aarch64", False, "no dot products"),
    ],
)
def test_how_int8_is_multiplied(flags: str, machine: str, fast: bool, said: str) -> None:
    key = "flags" if machine == "x86_64" else "Features"
    cpuinfo = f"processor\t: 0\nmodel name\t: X\n{key}\t\t: {flags}\n\nprocessor\t: 1\n{key}\t\t: other\n"
    found, text = surroundings.int8_path(surroundings.cpu_flags(cpuinfo), machine)
    assert found is fast and said in text


def test_a_lower_instruction_set_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSEPOSE_ISA", "sse17")
    rows = {name: (state, remedy) for _, name, state, _, remedy in surroundings.instruction_sets()}
    assert rows["used by our kernels"][0] == NOTE and "unset it" in rows["used by our kernels"][1]


def cache_rows(monkeypatch: pytest.MonkeyPatch, root: Path) -> dict[str, tuple[str, str, str]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    return {name: (state, text, remedy) for _, name, state, text, remedy in surroundings.cache_folder()}


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "densepose-engine"
    assert cache_rows(monkeypatch, tmp_path)["folder"] == (OK, f"{folder}, not made yet", "")
    folder.mkdir(mode=0o700)
    (folder / "x.blob").write_bytes(b"0" * 2_000_000)
    assert cache_rows(monkeypatch, tmp_path)["contents"] == (OK, "1 files, 2.0 MB", "")
    os.mkfifo(folder / "pipe")  # opening it would wait for ever
    state, text, remedy = cache_rows(monkeypatch, tmp_path)["contents"]
    assert state == BROKEN and "1 of them" in text and "remove" in remedy
    folder.chmod(0o777)
    assert cache_rows(monkeypatch, tmp_path)["folder"][0] == BROKEN
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    state, text, remedy = cache_rows(monkeypatch, tmp_path)["folder"]
    assert state == BROKEN and "belongs to user" in text and "XDG_CACHE_HOME" in remedy


def test_a_cache_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "densepose-engine").write_text("a file")
    assert cache_rows(monkeypatch, tmp_path)["folder"][0] == BROKEN
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    state, _, remedy = cache_rows(monkeypatch, tmp_path)["folder"]
    assert state == NOTE and "writable" in remedy
    monkeypatch.setattr(surroundings, "default_cache_dir", lambda: None)
    assert cache_rows(monkeypatch, tmp_path)["folder"][0] == NOTE


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({"cpu.max": "150000 100000", "memory.max": "500000000"}, 1.5, 500_000_000),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ({"cpu.max": "nonsense", "memory.max": ""}, None, None),
        ({}, None, None),
    ],
)
def test_limits_of_a_container(files: dict[str, str], cores: float | None, memory: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    assert surroundings.cgroup_cores(tmp_path) == cores
    assert surroundings.cgroup_memory(tmp_path) == memory
    rows = {name: (state, text, remedy) for _, name, state, text, remedy in surroundings.resources(tmp_path)}
    if cores == 0.5:
        assert rows["cores"][0] == NOTE and "--threads 1 " in rows["cores"][2]
    if memory:
        assert rows["memory"][0] == NOTE and "limit is 0.5 GB" in rows["memory"][1]


def test_the_groups_above_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cores, memory in (
        ("", "max 100000", "max"),
        ("a", "200000 100000", "3000"),
        ("a/b", "400000 100000", "9"),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cpu.max").write_text(cores)
        (tmp_path / name / "memory.max").write_text(memory)
    assert surroundings.cgroup_cores(tmp_path, "a/b") == 2 and surroundings.cgroup_memory(tmp_path, "a/b") == 9
    assert surroundings.cgroup_cores(tmp_path) is surroundings.cgroup_memory(tmp_path) is None
    monkeypatch.setattr(surroundings, "_PROC", tmp_path)
    (tmp_path / "self").mkdir()
    for text, group in (("0::/a/b\n", "a/b"), ("0::/\n", ""), ("0::/../x\n", ""), ("3:cpu:/x\n", ""), ("", "")):
        (tmp_path / "self/cgroup").write_text(text)
        assert surroundings.own_group() == group


def test_a_limit_of_address_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(surroundings, "_address_space", lambda: 2_000_000_000)
    rows = {name: (state, remedy) for _, name, state, _, remedy in surroundings.resources(tmp_path)}
    assert rows["address space"] == (NOTE, rows["address space"][1]) and "ulimit" in rows["address space"][1]


def test_an_encoding_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    rows = {name: (state, remedy) for _, name, state, _, remedy in surroundings.locale_settings()}
    assert rows["encoding"][0] == NOTE and "PYTHONUTF8=1" in rows["encoding"][1]


def test_a_gpu_whose_plugin_was_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "_PROC", tmp_path)
    assert [row[2] for row in surroundings.gpu()] == [NOTE]
    information = tmp_path / "driver/nvidia/gpus/0000:01:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA H100\nIRQ: 11\n")
    monkeypatch.setattr(surroundings, "_TENSORRT_PLUGIN", tmp_path / "absent.so")
    (first, second) = surroundings.gpu()
    assert first[2:4] == (OK, "NVIDIA H100") and second[2] == MISSING and "TENSORRT_ROOT" in second[4]
