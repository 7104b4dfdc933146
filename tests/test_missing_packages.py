"""Every verb without every optional package: a sentence with the pip command, and never a request for a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

from densepose_engine.cli import BAD_INPUT, BAD_RUNTIME, BUG, OK, SOME_FAILED
from densepose_engine.commands import VERBS
from densepose_engine.errors import INSTALLED_BY, BackendUnavailable, missing_package

TESTS = Path(__file__).resolve().parent
MODELS = TESTS.parent / "models"
PICTURE = str(MODELS / "person.jpg")
OPTIONAL = (
    *("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "av", "pycocotools", "PIL", "yaml", "openvino"),
    *("tensorrt", "tensorrt_rtx", "pycuda", "scipy", "trimesh", "matplotlib"),
)
READS_GRAPHS = ("onnx", "onnx_ir", "openvino")
EXPORTS = ("torch", "onnx", "onnx_ir", "onnxscript", "yaml")
CHECKPOINT = ("--config", str(MODELS / "demo.yaml"), "--weights", str(MODELS / "demo.pth"))

# What each command cannot do without. Of the others it is enough that the command gets as far as it does with them.
NEEDED: dict[str, tuple[str, ...]] = {
    "export": EXPORTS,
    "calibrate": (*READS_GRAPHS, "PIL"),
    "build": READS_GRAPHS,
    "build int8": READS_GRAPHS,
    "build tensorrt": ("onnx", "onnx_ir", "tensorrt"),
    "build tensorrt-rtx": ("onnx", "onnx_ir", "tensorrt_rtx"),
    "build auto with labels": (*READS_GRAPHS, "pycocotools"),
    "build auto without labels": (*READS_GRAPHS, "PIL"),
    "infer": ("openvino", "PIL"),
    "infer a video": ("av",),
    "evaluate": ("openvino", "pycocotools", "PIL"),
    "report": READS_GRAPHS,
    "report on pictures": (*READS_GRAPHS, "PIL"),
    "bench": ("openvino",),
    "bench on a picture": ("openvino", "PIL"),
    "bench against torch": ("torch", "yaml", "openvino"),
    "bench against onnxruntime": ("onnxruntime", *READS_GRAPHS),
    "bench against openvino-stock": READS_GRAPHS,
    "bench against openvino-stock of a checkpoint": (*EXPORTS, "openvino"),
    "inspect": (),
    "extract": (),
    "doctor": (),
}
#: Commands that must get as far as always where nothing is installed but what they need.
LIGHT = {
    "inspect": OK,
    "extract": BAD_INPUT,  # an OpenVINO engine holds no plan
    "infer": OK,
    "evaluate": OK,
    "calibrate": OK,
    "doctor": SOME_FAILED,  # it lacks all, and says so
}


@pytest.fixture(scope="module")
def commands(
    demo_onnx: Path, demo_table: Path, demo_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    graph, table, engine = str(demo_onnx), str(demo_table), str(demo_engine)
    video = tmp_path_factory.mktemp("video") / "x.mp4"
    video.write_bytes(b"no video")
    int8 = ["build", graph, "--precision", "int8", "--calib", table, "--observer", "minmax", "-o", "x.engine"]
    quick = ["--warmUp=0", "--duration=0", "--iterations=1", "--noFootprint", "--noProfile", "--sweep="]
    bench = ["bench", engine, *quick, "--no-cache"]
    report = ["--calib", table, "--observer", "minmax", "-o", "x.html"]
    return {
        "export": ["export", *CHECKPOINT, "--input-size", "320x448", "-o", "x.onnx"],
        "calibrate": ["calibrate", graph, PICTURE, "-o", "x.json", "--min-people", "1"],
        "build": ["build", graph, "-o", "x.engine"],
        "build int8": int8,
        "build tensorrt": ["build", graph, "--backend", "tensorrt", "-o", "x.engine"],
        "build tensorrt-rtx": ["build", graph, "--backend", "tensorrt-rtx", "-o", "x.engine"],
        "build auto with labels": [*int8, "--keep-float", "auto", "--data", str(MODELS / "evaluation")],
        "build auto without labels": [*int8, "--keep-float", "auto", "--pictures", str(MODELS / "people.jpg")],
        "infer": ["infer", engine, PICTURE, "-o", "out"],
        "infer a video": ["infer", engine, str(video), "-o", "x.mp4"],
        "evaluate": ["evaluate", engine, "--data", str(MODELS / "evaluation"), "--limit", "1"],
        "report": ["report", graph, *report],
        "report on pictures": ["report", graph, PICTURE, *report],
        "bench": bench,
        "bench on a picture": [*bench, "--loadInputs", PICTURE],
        "bench against torch": [*bench, "--vs", "torch", *CHECKPOINT],
        "bench against onnxruntime": [*bench, "--vs", "onnxruntime", "--graph", graph],
        "bench against openvino-stock": [*bench, "--vs", "openvino-stock", "--graph", graph],
        "bench against openvino-stock of a checkpoint": [*bench, "--vs", "openvino-stock", *CHECKPOINT],
        "inspect": ["inspect", engine],
        "extract": ["extract", engine, "-o", "x.plan"],
        "doctor": ["doctor"],
    }


def run(cases: list[tuple[list[str], str, str]]) -> list[tuple[int, str]]:
    """Exit codes, and what was said on stderr."""
    command = [sys.executable, TESTS / "blocked_imports.py"]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, said in json.loads(done.stdout)]


@pytest.mark.parametrize("name", [name for name, needed in NEEDED.items() if needed])
def test_a_command_without_what_it_needs(name: str, commands: dict[str, list[str]]) -> None:
    for package in sorted(conftest.WITHOUT & set(NEEDED[name])):  # it must be there to be taken away
        pytest.importorskip(package)
    ways = [("missing", "broken")[index % 2] for index in range(len(NEEDED[name]))]  # by turns, which is faster
    cases = [([*commands[name], "-q"], package, how) for package, how in zip(NEEDED[name], ways, strict=True)]
    for (_, package, how), (code, said) in zip(cases, run(cases), strict=True):
        assert code == BAD_RUNTIME, (package, how, said)
        (line,) = said.splitlines()
        # Of two packages that come with the same extra, naming one is enough; [export] brings what [build] does.
        extras = {INSTALLED_BY[package], INSTALLED_BY[package].replace("build", "export")}
        assert package.split("_")[0] in line, (package, how, said)
        assert any(f"pip install {extra}" in line for extra in extras), (package, how, said)
        assert ("libfoo.so.1" in line) == (how == "broken"), (package, how, said)


@pytest.mark.parametrize("name", LIGHT)
def test_a_command_without_what_it_does_not_need(name: str, commands: dict[str, list[str]]) -> None:
    others = ",".join(package for package in OPTIONAL if package not in NEEDED[name])
    ((code, said),) = run([([*commands[name], "-q"], others, "missing")])
    assert code == LIGHT[name], said
    assert "report" not in said


def test_every_verb_is_here() -> None:
    assert {verb.NAME for verb in VERBS} == {name.split()[0] for name in NEEDED}
    assert set(OPTIONAL) - set(INSTALLED_BY) == {"matplotlib"}


# ---- what the command line says of an import that nobody guarded -----------------------------------------------------


def raised(code: str, **names: object) -> Exception:
    """What running the code in a module of that name raises."""
    with pytest.raises(Exception) as caught:
        exec(compile(code, "x.py", "exec"), dict(names))
    return caught.value


def test_a_package_that_fails_in_its_own_way() -> None:
    """As one that was compiled for another release of numpy."""
    error = raised("def inner(): raise AttributeError('numpy has no float')\ninner()", __name__="torch.nn")
    said = missing_package(error)
    assert isinstance(said, BackendUnavailable)
    assert str(said).startswith("this needs torch, which cannot be imported (numpy has no float)")
    assert str(said).endswith("pip install 'densepose-engine[export]'")


def test_a_package_that_nobody_knows() -> None:
    said = missing_package(raised("import no_such_package.inner", __name__="densepose_engine.x"))
    assert str(said).endswith("pip install no_such_package")


def test_what_another_package_lacks_is_that_packages() -> None:
    said = missing_package(raised("import no_such_package", __name__="torch"))
    assert str(said).endswith("pip install 'densepose-engine[export]'") and "no_such_package" in str(said)


@pytest.mark.parametrize(
    "code",
    [
        "from densepose_engine import no_such_name",
        "1 / 0",
        "import _no_such_module_of_python_itself as sys_only; sys_only",
        "raise KeyError('x')",
    ],
)
def test_our_own_mistakes_stay_ours(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdlib_module_names", {*sys.stdlib_module_names, "_no_such_module_of_python_itself"})
    assert missing_package(raised(code, __name__="densepose_engine.x")) is None


def test_an_error_inside_a_package_that_runs_is_no_missing_package() -> None:
    """Only what fails while a module is executed is an import."""
    names: dict[str, object] = {"__name__": "torch.nn"}
    exec(compile("def f(): raise RuntimeError('x')", "x.py", "exec"), names)
    with pytest.raises(RuntimeError) as caught:
        names["f"]()  # type: ignore[operator]
    assert missing_package(caught.value) is None


def test_the_command_line_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from densepose_engine.cli import main
    from densepose_engine.commands import inspect

    def fails(arguments: object) -> int:
        import no_such_package

        return int(no_such_package.x)

    monkeypatch.setattr(inspect, "run", fails)
    assert main(["inspect", "x"]) == BAD_RUNTIME != BUG
    assert "pip install no_such_package" in capsys.readouterr().err
