"""What ``infer`` does with pictures beside running them: who is drawn, what is said, and that no work is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine
from PIL import Image

from densepose_engine import DensePoseResult, cli

MODELS = Path(__file__).resolve().parent.parent / "models"
ALL = ("parts.png", "u.png", "v.png", "contours.png", "iuv.png", "npz")


def main(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def files(folder: str | Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if not path.is_dir()}


# ---- thresholds ------------------------------------------------------------------------------------------------------


def test_data_have_the_models_threshold_and_drawings_their_own(
    fake: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.scores = (0.9, 0.5, 0.1)
    assert main("infer", "fake.engine", "pictures/a.jpg", "--save", "parts,iuv,npz") == 0
    assert fake.settings[0]["score_threshold"] is None, "the engine's own"
    assert len(DensePoseResult.load("out/a.npz")) == 3
    saved = DensePoseResult.load("out/a.npz")
    best = DensePoseResult(saved.boxes[:1], saved.scores[:1], saved.labels[:1], saved.uv[:1], saved.image_size)
    assert np.array_equal(np.asarray(Image.open("out/a.iuv.png")), best.iuv())
    assert not np.array_equal(best.iuv(), saved.iuv())
    output = capsys.readouterr()
    assert "a.jpg: 3 people, 2 of them not drawn, " in output.out
    assert "people found: 3 (score above 0.05, the model's own), drawn: 1 (above 0.5), left out: 2" in output.err


def test_a_threshold_that_is_given_is_everybodys(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.scores = (0.9, 0.5, 0.3)
    assert main("infer", "fake.engine", "pictures/a.jpg", "--save", "iuv,npz", "--score-threshold", "0.25") == 0
    assert fake.settings[0]["score_threshold"] == 0.25
    output = capsys.readouterr()
    assert "not drawn" not in output.out
    assert "people found: 3 (score above 0.25, --score-threshold), drawn: 3 (above 0.25), " in output.err
    assert main("infer", "fake.engine", "pictures/a.jpg", "--json", "-q") == 0
    assert len(json.loads(capsys.readouterr().out)["people"]) == 3


def test_a_model_that_asks_for_more_is_believed(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.model["defaults"]["score_threshold"] = 0.7
    assert main("infer", "fake.engine", "pictures/a.jpg") == 0
    assert "score above 0.7, the model's own), drawn: 1 (above 0.7)" in capsys.readouterr().err


def test_cli_and_api_agree(demo_engine: Path, tmp_path: Path) -> None:
    from densepose_engine import Engine
    from densepose_engine.outputs.overlays import draw

    path = MODELS / "astronaut.jpg"
    assert main("infer", demo_engine, path, "-o", tmp_path / "o", "--save", "parts,npz", "-q") == 0
    with Engine.load(demo_engine, warm_up=0) as engine:
        result = engine.infer(path)
    assert DensePoseResult.load(tmp_path / "o/astronaut.npz") == result
    overlay = np.asarray(Image.open(tmp_path / "o/astronaut.parts.png"))
    assert np.array_equal(overlay, draw(path, result, ["parts", "boxes"]))


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_the_limit_of_people_is_said(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    fake.scores = (0.9,) * 20
    assert main("infer", "fake.engine", "pictures") == 0
    output = capsys.readouterr()
    assert "a.jpg: 20 people, the limit, " in output.out
    assert "in 3 pictures the model's limit of 20 people was reached, and there may be more: --max-people" in output.err
    assert main("infer", "fake.engine", "pictures", "--force", "--max-people", "20") == 0
    assert "limit" not in capsys.readouterr().err, "whoever sets it knows it"
    fake.scores = (0.9,) * 19 + (0.2,)
    assert main("infer", "fake.engine", "pictures", "--force", "--save", "parts") == 0
    assert "limit" not in capsys.readouterr().err, "nobody is missing among those who are drawn"
    assert main("infer", "fake.engine", "pictures", "--force", "--save", "npz") == 0
    assert "limit of 20" in capsys.readouterr().err


def test_what_is_left_out_of_a_folder_is_said(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.heic", "c.mp4", ".hidden.jpg", "notes"):
        Path("pictures", name).write_bytes(b"x")
    Path("pictures/.thumbs").mkdir()
    Path("pictures/link").symlink_to("sub")
    assert main("infer", "fake.engine", "pictures", "--save", "npz") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out: 1" in line]
    assert line.startswith(
        "densepose-engine: left out: 1 without suffix, 1 .heic, 1 .mp4, 2 hidden, 1 linked folder (HEIC is read"
    )
    assert main("infer", "fake.engine", "pictures", "--save", "npz", "--force", "-q") == 0
    assert capsys.readouterr().err == ""
    assert main("infer", "fake.engine", "pictures/sub", "-o", "o", "--save", "npz") == 0
    assert "left out" not in capsys.readouterr().err.replace("left out: 0", "")


def test_a_folder_of_other_things_says_what_is_there(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dcim").mkdir()
    for name in ("a.heic", "b.HEIC", "c.mov"):
        Path("dcim", name).write_bytes(b"x")
    assert main("infer", "fake.engine", "dcim") == cli.BAD_INPUT
    assert "no pictures in dcim" in (error := capsys.readouterr().err)
    assert "left out: 2 .heic, 1 .mov (HEIC is read where pillow-heif is installed; a video has to be named" in error


@pytest.mark.parametrize(
    ("suffix", "noun"), [("gif", "frames"), ("png", "frames"), ("webp", "frames"), ("tif", "pages")]
)
def test_further_frames_are_said(suffix: str, noun: str, fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("RGB", (24, 16), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(f"several.{suffix}", save_all=True, append_images=frames[1:])
    frames[0].save(f"one.{suffix}")
    assert main("infer", "fake.engine", f"several.{suffix}", f"one.{suffix}", "--save", "npz") == 0
    error = capsys.readouterr().err
    assert f"several.{suffix} has 3 {noun}, and only the first is taken" in error
    assert "one." not in error


def test_the_summary_has_the_whole_time_of_a_picture(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(DensePoseResult, "save", lambda self, path: (time.sleep(0.05), path.touch()))
    assert main("infer", "fake.engine", "pictures/a.jpg", "--save", "npz", "--json") == 0
    output = capsys.readouterr()
    line = json.loads(output.out)
    assert line["total_milliseconds"] >= line["milliseconds"] + 50
    assert " ms (resize, network and charts), " in output.err and " with reading, drawing and writing" in output.err


# ---- one file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "options", "kind"),
    [
        ("result.png", (), "parts"),
        ("deep/er/result.PNG", ("--save", "iuv"), "iuv"),
        ("result.npz", (), "npz"),
        ("result.png", ("--save", "contours"), "contours"),
    ],
)
def test_one_picture_and_one_kind_become_the_file_that_is_named(
    output: str, options: tuple[str, ...], kind: str, fake: FakeEngine
) -> None:
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", output, *options) == 0
    assert Path(output).is_file()
    made = Path(output).read_bytes()
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", "folder", "--save", kind) == 0
    if kind != "npz":  # which holds the time
        assert (Path("folder") / f"a.{kind}.png").read_bytes() == made
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", output, *options) == cli.BAD_OUTPUT, "without --force"


@pytest.mark.parametrize(
    ("pictures", "output", "options", "said"),
    [
        (("a.jpg",), "r.png", ("--save", "parts,u"), "--save makes 2: --save parts makes one; -o r names a folder"),
        (("a.jpg", "b.png"), "r.png", ("--save", "u"), "there are 2 pictures; -o r names a folder"),
        (("",), "r.png", (), "there are 3 pictures; -o r names a folder"),
        (("a.jpg",), "r.jpg", (), "no .jpg is made here, but parts (.png)"),
        (("a.jpg",), "r.json", ("--save", "npz"), "no .json is made here, but npz (.npz); -o r names a folder"),
        (("a.jpg",), "r.npz", ("--save", "parts"), "no .npz is made here, but parts (.png)"),
        (("a.jpg",), "r.mp4", (), "no .mp4 is made here"),
    ],
)
def test_another_file_is_refused_with_the_way_out(
    pictures: tuple[str, ...],
    output: str,
    options: tuple[str, ...],
    said: str,
    fake: FakeEngine,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"pictures/{name}" for name in pictures]
    assert main("infer", "fake.engine", *names, "-o", output, *options) == cli.USAGE
    assert said in capsys.readouterr().err
    assert not Path(output).exists() and not fake.loaded


def test_a_folder_may_be_called_like_a_file(fake: FakeEngine) -> None:
    Path("r.png").mkdir()
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", "r.png") == 0
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", "results.2", "--save", "npz") == 0
    assert files("r.png") == {f"a.{kind}" for kind in ALL} and files("results.2") == {"a.npz"}


def test_of_a_video_another_file_is_refused(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    Path("v.mp4").write_bytes(bytes(100))
    assert main("infer", "fake.engine", "v.mp4", "-o", "out.gif") == cli.USAGE
    said = capsys.readouterr().err
    assert "out.gif looks like a file" in said and "-o out.mp4" in said and "-o out)" in said
    assert not Path("out.gif").exists() and not fake.loaded
    assert main("infer", "fake.engine", "v.mp4", "--skip-existing") == cli.USAGE
    assert "--skip-existing is for pictures" in capsys.readouterr().err


def test_iuv_in_the_order_that_cv2_reads(fake: FakeEngine) -> None:
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", "rgb", "--save", "iuv") == 0
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", "bgr", "--save", "iuv", "--iuv-order", "vui") == 0
    rgb, bgr = (np.asarray(Image.open(f"{folder}/a.iuv.png")) for folder in ("rgb", "bgr"))
    as_cv2 = bgr[..., ::-1]  # cv2.imread gives blue first
    assert (as_cv2[..., 0] == 7).all() and (as_cv2[..., 1:] == 127).all()
    assert np.array_equal(rgb, as_cv2)


# ---- going on --------------------------------------------------------------------------------------------------------


def test_skip_existing_goes_on_where_it_was(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("infer", "fake.engine", "pictures", "--save", "iuv,npz") == 0
    Path("out/b.npz").unlink()
    kept = {name: Path("out", name).stat().st_mtime_ns for name in files("out")}
    capsys.readouterr()
    assert main("infer", "fake.engine", "pictures", "--save", "iuv,npz", "--skip-existing") == 0
    output = capsys.readouterr()
    assert [line.partition(":")[0] for line in output.out.splitlines()] == ["pictures/b.png"]
    assert "1 of 1 pictures" in output.err and "skipped: 2, whose outputs are there" in output.err
    redone = {name for name, was in kept.items() if Path("out", name).stat().st_mtime_ns != was}
    assert redone == {"b.iuv.png"}, "an incomplete set is made again"
    assert main("infer", "fake.engine", "pictures", "--save", "iuv,npz", "--skip-existing") == 0
    assert "0 of 0 pictures" in capsys.readouterr().err
    assert main("infer", "fake.engine", "pictures", "--skip-existing", "--force") == cli.USAGE


# ---- outputs that cannot be written ----------------------------------------------------------------------------------


def test_an_output_in_the_way_costs_its_picture_alone(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    def in_the_way(image: np.ndarray) -> None:
        if image.shape[1] == 25:  # b.png
            Path("out/b.npz").mkdir(parents=True)

    fake.before = in_the_way
    assert main("infer", "fake.engine", "pictures", "--save", "iuv,npz", "--json") == cli.SOME_FAILED
    assert files("out") == {"a.iuv.png", "a.npz", "b.iuv.png", "sub/a.iuv.png", "sub/a.npz"}
    output = capsys.readouterr()
    assert "error: cannot write out/b.npz: Is a directory" in output.err
    assert "3 of 3 pictures" in output.err and "failed: 1" in output.err
    broken = json.loads(output.out.splitlines()[1])
    assert broken["outputs"] == {"iuv": "out/b.iuv.png"} and "cannot write out/b.npz" in broken["error"]


def test_a_place_that_is_gone_ends_the_work(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    def gone(image: np.ndarray) -> None:
        if image.shape[1] == 25:
            shutil.rmtree("out")
            Path("out").write_text("no folder any more")

    fake.before = gone
    assert main("infer", "fake.engine", "pictures", "--save", "npz") == cli.BAD_OUTPUT
    error = capsys.readouterr().err
    assert "2 of 3 pictures" in error and "failed: 1" in error, "the summary is said"
    assert error.splitlines()[-1].startswith("densepose-engine: error: cannot write out/b.npz: ")
    assert len(fake.settings) == 2, "nothing else is tried"


def test_nothing_that_could_be_written_is_an_output_error(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(self: DensePoseResult, path: Path) -> None:
        raise OSError(27, "File too large", str(path))

    monkeypatch.setattr(DensePoseResult, "save", too_large)
    assert main("infer", "fake.engine", "pictures", "--save", "npz") == cli.BAD_OUTPUT
    error = capsys.readouterr().err
    assert error.count("error: cannot write out/") == 3 and "failed: 3" in error


def test_names_that_are_too_long_are_found_before_the_work(
    fake: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = os.pathconf(".", "PC_NAME_MAX")
    name = "n" * (limit - len(".jpg")) + ".jpg"
    shutil.copy("pictures/a.jpg", f"pictures/{name}")
    assert main("infer", "fake.engine", "pictures", "--save", "npz") == 0, "a.jpg -> a.npz: as long as the input's"
    assert main("infer", "fake.engine", "pictures", "-o", "o") == cli.BAD_OUTPUT
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"has {limit + len('.parts.png') - len('.jpg')} bytes, and . takes {limit}" in error
    assert not Path("o").exists() and len(fake.loaded) == 1
    deep = "/".join(["d" * 200] * 21)
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", deep) == cli.BAD_OUTPUT
    assert "its path has " in capsys.readouterr().err and len(fake.loaded) == 1
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", "e" * (limit + 1)) == cli.BAD_OUTPUT
    assert f"has {limit + 1} bytes" in capsys.readouterr().err


def test_devices_are_not_replaced(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe.png")
    assert main("infer", "fake.engine", "pictures/a.jpg", "-o", "pipe.png", "--force") == cli.BAD_OUTPUT
    assert "no regular file" in capsys.readouterr().err


def test_a_pipe_among_pictures_does_not_hang(fake: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pictures/pipe.jpg")
    assert main("infer", "fake.engine", "pictures", "--save", "npz") == cli.SOME_FAILED
    assert "pictures/pipe.jpg is no regular file" in capsys.readouterr().err


# ---- the process -----------------------------------------------------------------------------------------------------

# Runs infer; of the second picture and later ones, writing takes until somebody ends it.
_SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from fake_engine import FakeEngine
from densepose_engine import DensePoseResult, Engine, cli
engine = FakeEngine()
def load(path, **options):
    return engine
def save(self, path):
    path.write_bytes(b"half")
    if len(engine.settings) > 1:
        print("writing", flush=True)
        time.sleep(60)
Engine.load, DensePoseResult.save = load, save
sys.exit(cli.main(["infer", "fake.engine", "pictures", "--save", "npz"]))
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, cli.INTERRUPTED, "interrupted"),
        (signal.SIGTERM, cli.TERMINATED, "ended by SIGTERM"),
        (signal.SIGHUP, cli.HUNG_UP, "ended by SIGHUP"),
    ],
)
def test_signals_leave_whole_files_and_a_summary(number: int, code: int, said: str, fake: FakeEngine) -> None:
    script = _SLOW.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "writing" not in process.stdout.readline():
        assert process.poll() is None
    assert len(files("out")) == 2, "one is finished, one is being written under another name"
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert files("out") == {"a.npz"}
    assert "1 of 3 pictures" in error and error.endswith(f"{said}\n")


def test_nohup_is_respected(fake: FakeEngine) -> None:
    script = (
        "import signal, os; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from densepose_engine.commands.interruption import termination_as_interrupt\n"
        "with termination_as_interrupt():\n    os.kill(os.getpid(), signal.SIGHUP)\nprint('alive')"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "alive\n"


def _limited(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command where no file may grow beyond 4 KiB; Python sees "File too large"."""
    return subprocess.run(
        [sys.executable, "-m", "densepose_engine", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        # Python would leave the first 4 KB of what it compiles beside its sources, and believe them the next time.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )


def test_a_table_and_its_state_that_do_not_fit_are_named(tmp_path: Path) -> None:
    from small_detector import serialize, small_detector

    (tmp_path / "small.onnx").write_bytes(serialize(small_detector()))
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(9):
        Image.fromarray(rng.integers(90, 256, (60, 80, 3), np.uint8)).save(folder / f"{index}.png")
    run = _limited("calibrate", tmp_path / "small.onnx", folder, "-q")
    assert run.returncode == cli.BAD_OUTPUT, run.stderr
    assert f"cannot write {tmp_path}/small.calib.json.partial: File too large" in run.stderr
    assert files(tmp_path) == {"small.onnx", *(f"pictures/{index}.png" for index in range(9))}


def test_an_infer_without_room_says_so(demo_engine: Path, tmp_path: Path) -> None:
    shutil.copy(MODELS / "person.jpg", tmp_path)
    run = _limited("infer", demo_engine, tmp_path / "person.jpg", "-o", tmp_path / "o", "--save", "npz", "--no-cache")
    assert run.returncode == cli.BAD_OUTPUT
    assert f"cannot write {tmp_path}/o/person.npz: File too large" in run.stderr
    assert files(tmp_path) == {"person.jpg"}


@pytest.mark.parametrize("option", ["--json", "--skip-existing"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_an_output_error(unbuffered: str, option: str, fake: FakeEngine) -> None:
    script = _SLOW.format(tests=str(Path(__file__).parent)).replace('"npz"]', f'"npz", {option!r}]')
    script = script.replace("time.sleep(60)", "pass").replace('print("writing", flush=True)', "pass")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", script]
        env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env, check=False)
    assert run.returncode == cli.BAD_OUTPUT
    errors = [line for line in run.stderr.splitlines() if "error" in line]
    assert errors == ["densepose-engine: error: cannot write to standard output: No space left on device"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_hears_the_remarks_and_the_work_goes_on(unbuffered: str, fake: FakeEngine) -> None:
    script = _SLOW.format(tests=str(Path(__file__).parent)).replace("time.sleep(60)", "pass")
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", script]
        run = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=full, env=env, check=False)
    assert run.returncode == 0
    assert files("out") == {"a.npz", "b.npz", "sub/a.npz"}
