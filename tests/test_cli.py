"""The command line: what it prints and writes, its exit codes, and that nothing a user does gives a traceback."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import conftest
import numpy as np
import pytest
from fake_engine import FakeEngine
from PIL import Image

from densepose_engine import DensePoseResult, Engine, InferenceError, cli
from densepose_engine.commands.interruption import Terminated
from densepose_engine.errors import ExportError
from densepose_engine.model.engine_file import read_manifest

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
PICTURE = MODELS / "person.jpg"
KINDS = ("parts.png", "u.png", "v.png", "contours.png", "iuv.png", "npz")
HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "openvino", "PIL", "yaml")


def main(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def command(*arguments: object, buffered: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "densepose_engine", *map(str, arguments)]
    # What is left in Python's buffer at exit is part of what is tested.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if not buffered:
        env["PYTHONUNBUFFERED"] = "1"
    return subprocess.run(words, text=True, check=False, env=env, **{"capture_output": True, **options})


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


# ---- the real thing, from outside the repository ---------------------------------------------------------------------


def test_infer_end_to_end(demo_engine: Path, tmp_path: Path) -> None:
    shutil.copy(PICTURE, tmp_path / "people.jpg")
    run = command("infer", demo_engine, "people.jpg", "-o", "out", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert files(tmp_path / "out") == {f"people.{kind}" for kind in KINDS}
    line = json.loads(run.stdout)

    with Engine.load(demo_engine, warm_up=0) as engine:
        expected, drawn = engine.infer(PICTURE), engine.infer(PICTURE, score_threshold=0.5)
    assert len(expected) >= len(drawn) > 0
    assert {key: line[key] for key in ("image_size", "people")} == json.loads(json.dumps(expected.to_dict()))
    assert line["picture"] == "people.jpg"
    assert line["milliseconds"] > 0
    assert line["outputs"]["npz"] == "out/people.npz"
    assert DensePoseResult.load(tmp_path / "out" / "people.npz") == expected
    iuv = np.asarray(Image.open(tmp_path / "out" / "people.iuv.png"))
    np.testing.assert_array_equal(iuv, drawn.iuv())
    original = np.asarray(Image.open(PICTURE).convert("RGB"))
    for kind in ("parts", "u", "v", "contours"):
        overlay = np.asarray(Image.open(tmp_path / "out" / f"people.{kind}.png"))
        assert overlay.shape == original.shape
        assert (overlay != original).any(axis=-1)[iuv[..., 0] > 0].mean() > 0.1, kind


def test_thresholds_reach_the_engine(demo_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def people(*options: object) -> int:
        assert main("infer", demo_engine, MODELS / "astronaut.jpg", "--json", "--quiet", *options) == 0
        return len(json.loads(capsys.readouterr().out)["people"])

    assert people("--max-people", 1) == 1
    assert people("--score-threshold", 1) == 0
    assert people("--score-threshold", 0, "--nms-threshold", 1, "--max-people", 30) == 30
    assert main("infer", demo_engine, PICTURE, "--json", "--max-people", 100_000) == cli.USAGE
    assert "max_people" in capsys.readouterr().err


def test_inspect(demo_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("inspect", demo_engine) == 0
    text = capsys.readouterr().out
    for part in (
        "efficientnet_lite0-bifpn64-deeplab",
        "320x448",
        "fp32",
        "openvino",
        "demo.pth",
        "score_threshold 0.3",
    ):
        assert part in text
    assert main("inspect", demo_engine, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {**read_manifest(demo_engine).to_json(), "int8_mac_share": 0.0}


def test_damaged_and_missing_inputs(
    demo_engine: Path, demo_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")  # export comes no further without it
    damaged, out = tmp_path / "damaged.engine", tmp_path / "out"
    damaged.write_bytes(demo_engine.read_bytes()[:-1000])
    weights = tmp_path / "weights.pth"
    weights.write_text("not a checkpoint")
    yaml = MODELS / "demo.yaml"
    export = ("export", "--dynamic", "-o", tmp_path / "x.onnx", "--config")
    for arguments, code, name in (
        (("infer", damaged, PICTURE, "-o", out), cli.BAD_INPUT, "damaged.engine"),
        (("infer", tmp_path / "gone.engine", PICTURE, "-o", out), cli.BAD_INPUT, "gone.engine"),
        (("infer", demo_engine, tmp_path / "gone.jpg", "-o", out), cli.BAD_INPUT, "gone.jpg"),
        (("infer", demo_engine, PICTURE, "-o", out, "--device", "GPU"), cli.BAD_RUNTIME, "GPU"),
        (("inspect", damaged), cli.BAD_INPUT, "damaged.engine"),
        (("inspect", tmp_path), cli.BAD_INPUT, "folder"),
        (("build", PICTURE, "-o", out), cli.BAD_INPUT, "person.jpg is a picture, not an ONNX graph"),
        (("build", tmp_path / "gone.onnx"), cli.BAD_INPUT, "gone.onnx"),
        (("build", demo_onnx, "--backend", "abacus", "-o", out), cli.BAD_RUNTIME, "abacus"),
        ((*export, yaml, "--weights", weights), cli.BAD_INPUT, "weights.pth"),
        ((*export, tmp_path / "gone.yaml", "--weights", weights), cli.BAD_INPUT, "gone.yaml"),
        ((*export, yaml, "--weights", weights, "--opts", "MODEL.MASK_ON", "True"), cli.BAD_INPUT, "MODEL.MASK_ON"),
    ):
        assert main(*arguments) == code, arguments
        output = capsys.readouterr()
        assert output.out == ""
        last = output.err.splitlines()[-1]
        assert last.startswith("densepose-engine: error: ") and name in last
        assert "Traceback" not in output.err
    assert files(tmp_path) == {"damaged.engine", "weights.pth"}


# ---- outputs of infer ------------------------------------------------------------------------------------------------


def test_folders_are_mirrored_and_lines_printed(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("infer", "fake.engine", "pictures", "-o", "results") == 0
    assert files(Path("results")) == {f"{name}.{kind}" for name in ("a", "b", "sub/a") for kind in KINDS}
    output = capsys.readouterr()
    assert [line.rsplit(", ", 1)[0] for line in output.out.splitlines()] == [
        f"pictures/{name}: 1 person" for name in ("a.jpg", "b.png", "sub/a.jpg")
    ]
    assert all(line.endswith(" ms") for line in output.out.splitlines())
    assert "3 of 3 pictures" in output.err


def test_only_what_is_asked_for_is_saved(fake: FakeEngine) -> None:
    assert main("infer", "fake.engine", "pictures/a.jpg", "--save", "npz,iuv") == 0
    assert files(Path("out")) == {"a.npz", "a.iuv.png"}
    assert main("infer", "fake.engine", "pictures/a.jpg", "--save", "npz,mesh", "--force") == cli.USAGE


def test_nothing_is_overwritten_without_force(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out/sub").mkdir(parents=True)
    Path("out/sub/a.npz").write_text("precious")
    assert main("infer", "fake.engine", "pictures") == cli.BAD_OUTPUT
    assert "out/sub/a.npz exists already; --force" in capsys.readouterr().err
    assert files(Path("out")) == {"sub/a.npz"}, "it began before it had checked everything"
    assert not fake.loaded
    assert main("infer", "fake.engine", "pictures", "--force") == 0
    assert len(DensePoseResult.load("out/sub/a.npz")) == 1


def test_a_picture_is_never_overwritten(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("pictures/a.jpg").read_bytes()
    shutil.copy("pictures/a.jpg", "pictures/a.u.png")
    pictures = ("pictures/a.jpg", "pictures/a.u.png")
    assert main("infer", "fake.engine", *pictures, "-o", "pictures", "--force") == cli.BAD_OUTPUT
    assert "one of the pictures" in capsys.readouterr().err
    assert Path("pictures/a.u.png").read_bytes() == before


def test_json_is_all_there_is_on_stdout(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures/c.jpg").write_text("no picture")
    assert main("infer", "fake.engine", "pictures", "--json") == cli.SOME_FAILED
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert [line["picture"] for line in lines] == [f"pictures/{n}" for n in ("a.jpg", "b.png", "c.jpg", "sub/a.jpg")]
    assert lines[0]["people"][0]["score"] == 0.75
    assert set(lines[2]) == {"picture", "error"}
    assert not Path("out").exists(), "--json alone writes no files"
    assert main("infer", "fake.engine", "pictures/a.jpg", "--json", "--save", "npz") == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"npz": "out/a.npz"}


def test_a_bad_picture_is_reported_and_skipped(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures/b.png").write_bytes(Path("pictures/a.jpg").read_bytes()[:200])
    Path("pictures/broken.jpg").symlink_to("nowhere.jpg")
    assert main("infer", "fake.engine", "pictures", "--save", "npz") == cli.SOME_FAILED
    assert files(Path("out")) == {"a.npz", "sub/a.npz"}
    error = capsys.readouterr().err
    assert "error: pictures/b.png" in error
    assert "pictures/broken.jpg" in error
    assert "4 of 4 pictures" in error and "failed: 2" in error


def test_a_failing_runtime_skips_the_picture(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(image: np.ndarray) -> None:
        if image.shape[1] == 25:
            raise InferenceError("the runtime failed")

    fake.before = fail
    assert main("infer", "fake.engine", "pictures", "--save", "npz") == cli.SOME_FAILED
    assert files(Path("out")) == {"a.npz", "sub/a.npz"}
    assert "error: pictures/b.png: the runtime failed" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_finished(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(image: np.ndarray) -> None:
        if len(fake.settings) == 2:
            raise KeyboardInterrupt

    fake.before = interrupt
    assert main("infer", "fake.engine", "pictures") == cli.INTERRUPTED
    assert files(Path("out")) == {f"a.{kind}" for kind in KINDS}
    error = capsys.readouterr().err
    assert "1 of 3 pictures" in error and error.endswith("interrupted\n")


def test_an_output_that_cannot_be_written_ends_the_work(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: DensePoseResult, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(DensePoseResult, "save", full)
    assert main("infer", "fake.engine", "pictures", "--save", "iuv,npz") == cli.BAD_OUTPUT
    assert "cannot write out/a.npz: No space left on device" in capsys.readouterr().err
    assert files(Path("out")) == {"a.iuv.png"}


def test_options_reach_the_engine(fake: FakeEngine) -> None:
    assert main("infer", "fake.engine", "pictures/a.jpg") == 0
    assert main(
        *("infer", "fake.engine", "pictures/a.jpg", "--force", "--score-threshold", "0.25", "--nms-threshold", "0.6"),
        *("--max-people", "3", "--max-proposals", "200", "--threads", "2", "--no-cache"),
    ) == 0  # fmt: skip
    assert main("infer", "fake.engine", "pictures/a.jpg", "--force", "--cache-dir", "cache") == 0
    assert fake.settings[0] == dict.fromkeys(("score_threshold", "nms_threshold", "max_people", "max_proposals"))
    assert list(fake.settings[1].values()) == [0.25, 0.6, 3, 200]
    assert [options["cache_dir"] for _, options in fake.loaded] == ["auto", None, Path("cache")]
    assert [options["num_threads"] for _, options in fake.loaded] == [None, 2, None]


@pytest.mark.parametrize(
    ("interrupt", "code", "said"),
    [(KeyboardInterrupt(), cli.INTERRUPTED, "interrupted"), (Terminated(15), cli.TERMINATED, "ended by SIGTERM")],
)
def test_an_interrupt_that_a_library_wrapped_is_one(
    interrupt: KeyboardInterrupt,
    code: int,
    said: str,
    fake: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As torch's exporter does, around whatever comes up in it."""

    def run(_: object) -> int:
        try:
            try:
                raise interrupt
            except BaseException as error:
                raise RuntimeError("(Refer to the full stack trace above for more information.)") from error
        except RuntimeError as error:
            raise ExportError("the graph cannot be exported") from error

    monkeypatch.setattr("densepose_engine.commands.infer.run", run)
    assert main("infer", "fake.engine", "x.png") == code
    assert capsys.readouterr().err == f"densepose-engine: {said}\n"


def test_names_cannot_steer_the_terminal(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"pictures/\x1b[2J\n\xff.jpg")
    shutil.copy("pictures/a.jpg", name)
    assert main("infer", "fake.engine", name, "--save", "npz") == 0
    output = capsys.readouterr()
    assert output.out.startswith("pictures/\\x1b[2J\\n\\udcff.jpg: 1 person")
    assert "\x1b" not in output.out + output.err
    assert len(list(Path("out").iterdir())) == 1


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: COMMAND"),
        (["dance"], "dance"),
        (["infer"], "required: ENGINE, PICTURE"),
        (["infer", "fake.engine", "pictures", "--score-threshold", "1.5"], "from 0 to 1"),
        (["infer", "fake.engine", "pictures", "--nms-threshold", "nan"], "from 0 to 1"),
        (["infer", "fake.engine", "pictures", "--max-people", "-1"], "at least 0"),
        (["infer", "fake.engine", "pictures", "--threads", "0"], "at least 1"),
        (["infer", "fake.engine", "pictures", "--no-cache", "--cache-dir", "x"], "not allowed with"),
        (["infer", "fake.engine", "pictures", "-o", "pictures"], "results cannot go into"),
        (["export", "--config", "c", "--weights", "w"], "--input-size --dynamic"),
        (["export", "--config", "c", "--weights", "w", "--input-size", "1x2", "--dynamic"], "not allowed with"),
        (["export", "--config", "c", "--weights", "w", "--input-size", "320"], "HEIGHTxWIDTH"),
        (["export", "--config", "c", "--weights", "w", "--input-size", "0x32"], "from 1 to"),
        (["export", "--config", "c", "--weights", "w", "--dynamic", "--opts", "A"], "A has no partner"),
        (["build", "x.onnx", "--precision", "fp64"], "fp64"),
        (["build", "x.engine"], "is the graph itself"),
    ],
)
def test_wrong_usage(fake: FakeEngine, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(*arguments) == cli.USAGE
    output = capsys.readouterr()
    assert output.err.startswith("densepose-engine: error: ") and said in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


@pytest.mark.parametrize("way", ["option", "variable"])
def test_debug_shows_the_traceback(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DENSEPOSE_DEBUG", str(int(way == "variable")))
    assert main("inspect", tmp_path / "gone", *(["--debug"] if way == "option" else [])) == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1] == f"densepose-engine: error: {tmp_path}/gone: No such file or directory"


def test_our_own_mistakes_ask_for_a_report(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    def crash(image: np.ndarray) -> None:
        raise KeyError("surprise")

    fake.before = crash
    assert main("infer", "fake.engine", "pictures") == cli.BUG
    error = capsys.readouterr().err
    assert "mistake in densepose-engine (KeyError: 'surprise'); please report" in error
    assert "Traceback" in error


def test_existing_graphs_and_engines_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("demo.onnx", "demo.engine"):
        (tmp_path / name).write_text("precious")
    weights = ("--weights", tmp_path / "demo.pth")
    assert main("export", "--config", MODELS / "demo.yaml", *weights, "--dynamic") == cli.BAD_OUTPUT
    assert main("build", tmp_path / "demo.onnx") == cli.BAD_OUTPUT
    assert capsys.readouterr().err.count("exists already; --force") == 2
    assert {path.read_text() for path in tmp_path.iterdir()} == {"precious"}


def test_unknown_keys_are_a_warning_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    config = tmp_path / "odd.yaml"
    config.write_text((MODELS / "demo.yaml").read_text(encoding="utf-8") + "\nODD_KEY: 1\n")
    weights = tmp_path / "none.pth"
    weights.write_text("")
    assert main("export", "--config", config, "--weights", weights, "--dynamic") == cli.BAD_INPUT
    remarks = [line for line in capsys.readouterr().err.splitlines() if "ODD_KEY" in line]
    assert len(remarks) == 1
    assert remarks[0].startswith("densepose-engine: warning: ")


# ---- the process -----------------------------------------------------------------------------------------------------


def test_help_lists_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--help") == 0
    text = capsys.readouterr().out
    for verb in ("export", "build", "infer", "inspect"):
        assert f"\n    {verb} " in text
        assert main(verb, "--help") == 0
        own = capsys.readouterr().out
        assert all(meaning in own for meaning in cli.EXIT_CODES.values())
    assert {int(line.split()[0]) for line in text.partition("exit codes:\n")[2].splitlines()} == set(cli.EXIT_CODES)


def test_version_names_every_runtime_and_imports_none(tmp_path: Path) -> None:
    code = (
        "import sys; from densepose_engine.cli import main; code = main(['--version']); "
        f"sys.exit(f'imported: {{found}}' if (found := [m for m in {HEAVY} if m in sys.modules]) else code)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    lines = dict(line.rsplit(" ", 1) for line in run.stdout.splitlines())
    assert lines["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("densepose-engine", "numpy", "Pillow", "openvino", "torch", "onnx"):
        assert name in conftest.WITHOUT or lines[name] == version(name)
    assert lines["instruction set"]


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_stops_is_no_error(buffered: bool, demo_engine: Path, tmp_path: Path) -> None:
    for arguments in (["--version"], ["--help"], ["infer", demo_engine, MODELS, "--json"]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            run = command(
                *arguments, buffered=buffered, cwd=tmp_path, capture_output=False, stdout=writer, stderr=subprocess.PIPE
            )
        finally:
            os.close(writer)
        assert run.returncode == cli.CLOSED_PIPE
        assert "Error" not in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize("buffered", [True, False])  # argparse passes over what fails while it writes
@pytest.mark.parametrize("verb", ["--version", "--help", "infer --help", "export --help", "inspect", "doctor"])
def test_a_full_disk_behind_stdout_is_said(verb: str, buffered: bool, demo_engine: Path, tmp_path: Path) -> None:
    words = verb.split() + [str(demo_engine)] * (verb == "inspect")
    with Path("/dev/full").open("w") as full:
        run = command(
            *words, buffered=buffered, cwd=tmp_path, capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert run.returncode == cli.BAD_OUTPUT
    errors = [line for line in run.stderr.splitlines() if "error" in line]
    assert errors == ["densepose-engine: error: cannot write to standard output: No space left on device"]


def test_every_package_is_in_the_wheel() -> None:
    listed = re.search(
        r"^packages = (\[.*?\])", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert listed
    packages = ast.literal_eval(listed[1])
    for folder, name in ((ROOT / "engine", "densepose_engine"), (ROOT / "calibration", "densepose_engine.calibration")):
        for init in folder.rglob("__init__.py"):
            assert ".".join([name, *init.relative_to(folder).parts[:-1]]) in packages
