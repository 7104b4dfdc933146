"""``densepose-engine evaluate``, and the tables that it takes."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import annotated_scenes as scenes
import numpy as np
import pytest
from annotated_scenes import made_up_surface
from PIL import Image

from densepose_engine import DensePoseEngineError, DensePoseResult, Engine, cli
from densepose_engine.evaluation import convert_geodesics, surfaces
from densepose_engine.evaluation.results import best_people
from densepose_engine.evaluation.surfaces import GridSurface, SmplSurface
from densepose_engine.files import npz

STATISTICS = {"AP", "AP50", "AP75", "AR"}


class FakeEngine:
    """Finds one person in every picture, whose box is the picture."""

    model = types.MappingProxyType({"capacity": {"max_people": 100}})

    def __init__(self) -> None:
        self.settings: list[dict[str, Any]] = []

    def infer(self, image: np.ndarray, **settings: Any) -> DensePoseResult:
        self.settings.append(settings)
        height, width = image.shape[:2]
        return scenes.result([scenes.found([0, 0, width, height])], height, width)

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Stands in for every engine."""
    fake = FakeEngine()
    monkeypatch.setattr(Engine, "load", lambda path, **options: fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: ``set`` with five annotated pictures, ``surface.npz`` beside it, ``good`` and ``bad``.

    The bad ones are the best person of the good ones.
    """
    rng = np.random.default_rng(2)
    made = [scenes.made_up_picture(rng) for _ in range(5)]
    scenes.write_annotations(tmp_path / "set", [annotated for annotated, _ in made])
    distance = (0.2 * rng.random((50, 50))).astype(np.float16)
    np.savez(tmp_path / "surface.npz", grid=rng.integers(0, 50, (24, 8, 8)).astype(np.uint16), distance=distance)
    for name, people in (("good", 9), ("bad", 1)):
        (tmp_path / name).mkdir()
        for i, (_, found) in enumerate(made):
            best_people(scenes.result(found), people).save(tmp_path / name / f"{i}.npz")
    for i in range(5):
        Image.new("RGB", (scenes.WIDTH, scenes.HEIGHT)).save(tmp_path / "set" / f"{i}.png")
    (tmp_path / "fake.engine").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def main(*arguments: object) -> int:
    return cli.main(["evaluate", *map(str, arguments)])


def test_one_set_of_predictions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--predictions", "good", "--data", "set", "--json", "scores.json") == 0
    table, remarks = capsys.readouterr()
    content = json.loads(Path("scores.json").read_text())
    assert remarks == ""
    assert set(content) == {
        *("version", "data", "gps", "max_people", "score_threshold", "pictures", "people", "failures", "evaluations"),
        "comparison",
    }
    assert (content["version"], content["gps"], content["pictures"], content["people"]) == (1, "simple", 5, 10)
    assert content["data"] == str(Path("set/annotations.json"))
    assert content["comparison"] is None
    (one,) = content["evaluations"]
    assert one["name"] == "good"
    for metric, name in (("box", "box"), ("gps", "GPS"), ("gpsm", "GPSm")):
        assert set(one[metric]) == STATISTICS
        row = next(line for line in table.splitlines() if line.split()[:1] == [name])
        assert row.split()[1:] == [f"{one[metric][key]:.2f}" for key in ("AP", "AP50", "AP75", "AR")]
    assert one["box"]["AP50"] > one["box"]["AP"] > 0
    assert main("--predictions", "good", "--data", "set", "--json", "scores.json") == cli.BAD_OUTPUT
    assert main("--predictions", "good", "--data", "set", "--json", "scores.json", "--force", "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_two_sets_of_predictions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--predictions", "good", "--predictions", "bad", "--data", "set", "--resamples", 50]
    assert main(*arguments, "--json", "-") == 0
    content = json.loads(capsys.readouterr().out)
    comparison = content["comparison"]
    assert set(comparison) == {"drift", "differences", "yardstick", "interval", "resamples", "seed"}
    assert comparison["yardstick"] is None
    assert (comparison["interval"], comparison["resamples"], comparison["seed"]) == (95, 50, 0)
    assert set(comparison["drift"]) == {
        *("matched", "only_reference", "only_other", "box_iou", "part_agreement", "label_agreement", "mask_iou"),
        "uv_error",
        "score_difference",
        "surface_distance",
    }
    assert comparison["drift"]["only_reference"] > 0
    good, bad = content["evaluations"]
    for metric in ("box", "gps", "gpsm"):
        assert set(comparison["differences"][metric]) == STATISTICS
        for key, difference in comparison["differences"][metric].items():
            assert difference["value"] == pytest.approx(bad[metric][key] - good[metric][key], abs=2e-4)
            assert difference["low"] <= difference["value"] <= difference["high"]
    assert main(*arguments) == 0
    table = capsys.readouterr().out
    assert "paired bootstrap over pictures, 50 resamples" in table
    assert f"{comparison['differences']['box']['AP']['value']:+.2f}" in table
    assert len({len(line) for line in table.splitlines() if " .. " in line}) == 1  # aligned


def test_engines(folder: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--limit", 2, "--score-threshold", 0.2, "--max-people", 3, "--max-proposals", 70]
    assert main("fake.engine", "fake.engine", "--data", "set", *settings, "--json", "-") == 0
    content = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in content["evaluations"]] == ["fake.engine", "fake.engine"]
    assert (content["pictures"], content["max_people"], content["score_threshold"]) == (2, 3, 0.2)
    assert engine.settings == [{"score_threshold": 0.2, "max_people": 3, "max_proposals": 70}] * 4
    assert content["comparison"]["drift"]["matched"] == 2
    assert content["comparison"]["differences"]["gps"]["AP"] == {"value": 0, "low": 0, "high": 0}


def test_the_yardstick(folder: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fake.engine", "fake.engine", "--data", "set", "--limit", 2, "--yardstick"]
    assert main(*arguments) == 0
    assert "part disagreement not known: nothing moved" in capsys.readouterr().out.replace("  ", " ")
    assert len(engine.settings) == 2 * (2 + 5)
    assert main(*arguments, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["yardstick"] == dict.fromkeys(("value", "low", "high"))
    assert main("fake.engine", "--data", "set", "--yardstick") == cli.USAGE
    assert "--yardstick is for two engines" in capsys.readouterr().err


def test_an_engine_beside_predictions_is_the_other(
    folder: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("fake.engine", "--predictions", "good", "--data", "set", "--resamples", 5, "--json", "-") == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["evaluations"]] == ["good", "fake.engine"]


def test_unreadable_pictures_are_named_and_left_out(
    folder: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("set/1.png").write_bytes(b"no picture")
    assert main("fake.engine", "--data", "set", "--json", "-") == cli.SOME_FAILED
    table, remarks = capsys.readouterr()
    content = json.loads(table)
    assert content["pictures"] == 4
    assert [failure["file_name"] for failure in content["failures"]] == ["1.png"]
    assert "1.png is not a picture" in remarks
    assert "1 of 5 pictures failed and are left out of the scores" in remarks
    for i in range(5):
        Path(f"set/{i}.png").unlink(missing_ok=True)
    assert main("fake.engine", "--data", "set") == cli.BAD_INPUT
    assert "none of the 5 pictures" in capsys.readouterr().err


def test_where_the_annotations_are(folder: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    Path("set/annotations.json").rename("other.json")
    assert main("fake.engine", "--data", "set") == cli.BAD_INPUT
    assert "there is no annotation file set/annotations.json; --annotations names another" in capsys.readouterr().err
    assert main("fake.engine", "--data", "set", "--annotations", "other.json", "--quiet") == 0
    arguments = ["--annotations", "other.json", "--images", "set", "--quiet"]
    assert main("fake.engine", "--data", ".", *arguments) == 0
    Path("surface.npz").rename("good/table.npz")
    assert main("fake.engine", "--data", ".", *arguments) == cli.BAD_INPUT
    assert "--gps coco needs" in capsys.readouterr().err  # no surface.npz in this folder nor beside it
    assert main("fake.engine", "--data", ".", *arguments, "--surface", "good/table.npz") == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], cli.USAGE, "name one engine or two"),
        (["fake.engine"] * 3, cli.USAGE, "name one engine or two"),
        (["none.engine"], cli.BAD_INPUT, "there is no engine none.engine"),
        (["--predictions", "none"], cli.BAD_INPUT, "there is no folder none"),
        (["fake.engine", "--limit", "0"], cli.USAGE, "--limit"),
        (["fake.engine", "--surface", "none.npz"], cli.BAD_INPUT, "none.npz"),
        (["fake.engine", "--surface", "fake.engine"], cli.BAD_INPUT, "is no readable surface table"),
        (["fake.engine", "--gps", "coco"], cli.BAD_INPUT, "download SMPL_subdiv.mat"),
        (["fake.engine", "--geodesics", "Pdist_matrix.pkl"], cli.BAD_INPUT, "is a pickle"),
        (["fake.engine", "--geodesics", "none.npz"], cli.BAD_INPUT, "none.npz"),
        (["fake.engine", "--geodesics", "fake.engine"], cli.BAD_INPUT, "fake.engine is no readable .npz file"),
        (["fake.engine", "--geodesics", "surface.npz"], cli.BAD_INPUT, "it has no array u"),
        (["--predictions", "set"], cli.BAD_INPUT, "there is no prediction set/0.npz for 0.png"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path,
    engine: FakeEngine,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    assert main(*arguments, "--data", "set") == code
    assert sentence in capsys.readouterr().err


def test_without_pycocotools(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("coco", "cocoeval", "mask"):
        monkeypatch.setitem(sys.modules, f"pycocotools.{module}", None)
    assert main("--predictions", "good", "--data", "set") == cli.BAD_RUNTIME
    assert "pip install 'densepose-engine[evaluate]'" in capsys.readouterr().err


# ---- tables ----------------------------------------------------------------------------------------------------------


def smpl_arrays(seed: int = 0) -> dict[str, Any]:
    table = made_up_surface(np.random.default_rng(seed))
    arrays = {name: getattr(table, name) for name in ("u", "v", "part", "vertex")}
    return {**arrays, "distance": scenes.condensed(table.distance)}


def test_coco_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("geodesics.npz", **smpl_arrays())
    assert main("--predictions", "good", "--data", "set", "--geodesics", "geodesics.npz", "--json", "-") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["gps"] == "coco"
    assert content["evaluations"][0]["gps"]["AP50"] > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"u": np.zeros(3)}, "not four lists of one length"),
        ({"u": np.zeros(288, int)}, "not floating-point"),
        ({"vertex": np.zeros(288)}, "not integers"),
        ({"part": np.ones(288, int)}, "no vertex of part 2"),
        ({"part": np.arange(288) % 25}, "its part is not 1"),
        ({"vertex": np.arange(288) - 1}, "its vertex negative"),
        ({"vertex": np.arange(288)}, "its vertex names 287"),
        ({"distance": np.zeros(5)}, "its distance is of shape"),
        ({"distance": np.zeros((5, 6))}, "its distance is of shape"),
    ],
)
def test_broken_smpl_tables(tmp_path: Path, change: dict[str, np.ndarray], sentence: str) -> None:
    np.savez(tmp_path / "table.npz", **(smpl_arrays() | change))
    with pytest.raises(DensePoseEngineError, match=sentence):
        SmplSurface.load(tmp_path / "table.npz")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"grid": np.zeros((24, 4, 5), int)}, "its grid is of shape"),
        ({"grid": np.full((24, 4, 4), 7)}, "no distance"),
        ({"distance": np.zeros((3, 4))}, "square"),
        ({"distance": np.full((3, 3), np.nan)}, "no numbers"),
        ({"distance": np.zeros((3, 3), int)}, "dtype"),
    ],
)
def test_broken_surface_tables(tmp_path: Path, change: dict[str, np.ndarray], sentence: str) -> None:
    good: dict[str, Any] = {"grid": np.zeros((24, 4, 4), int), "distance": np.zeros((3, 3))}
    np.savez(tmp_path / "surface.npz", **good)
    GridSurface.load(tmp_path / "surface.npz")
    np.savez(tmp_path / "surface.npz", **(good | change))
    with pytest.raises(DensePoseEngineError, match=sentence):
        GridSurface.load(tmp_path / "surface.npz")


def test_tables_that_inflate_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (npz, surfaces):
        monkeypatch.setattr(module, "_LEAST_LIMIT", 1 << 20)
    path = tmp_path / "table.npz"
    np.savez_compressed(path, **smpl_arrays() | {"distance": np.zeros(2 << 20, np.float32)})
    with pytest.raises(DensePoseEngineError, match=r"at most \d+ are read of such a file"):
        SmplSurface.load(path)
    np.savez_compressed(path, grid=np.zeros((24, 1025, 1025), np.uint8), distance=np.zeros((1, 1)))
    monkeypatch.undo()
    with pytest.raises(DensePoseEngineError, match="1025 cells a side, at most 1024"):
        GridSurface.load(path)


def mat_file(*elements: tuple[int, bytes]) -> bytes:
    """A MATLAB file of version 5: a header, and elements of a type and some bytes."""
    body = b"".join(struct.pack("<II", kind, len(data)) + data for kind, data in elements)
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + body


def test_matlab_files_that_inflate_to_too_much_are_refused(
    densepose_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surfaces, "_LEAST_LIMIT", 1 << 20)
    monkeypatch.setattr(surfaces, "_CHUNK", 1 << 14)
    path, half = densepose_files / "geodesics.mat", zlib.compress(bytes(600_000), 9)
    path.write_bytes(mat_file((14, bytes(64)), (15, half)))
    SmplSurface.load(path)
    path.write_bytes(mat_file((15, half), (14, bytes(64)), (15, half)))
    with pytest.raises(DensePoseEngineError, match=r"geodesics\.mat .* inflates to more than 1048576 bytes"):
        SmplSurface.load(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"):
        SmplSurface.load(path)


@pytest.fixture
def densepose_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the DensePose project's three files, as SciPy (here a stand-in) and pickle give them."""
    arrays = smpl_arrays()
    mats = {
        "SMPL_subdiv.mat": {
            "U_subdiv": arrays["u"][None],
            "V_subdiv": arrays["v"][None],
            "Part_ID_subdiv": arrays["part"][None].astype(np.uint8),
        },
        "SMPL_SUBDIV_TRANSFORM.mat": {"index": arrays["vertex"][:, None].astype(np.uint16) + 1},
        "geodesics.mat": {"__header__": b"MATLAB 5.0"} | {k: a[None].astype(float) for k, a in arrays.items()},
    }
    for name in mats:
        (tmp_path / name).touch()
    with (tmp_path / "Pdist_matrix.pkl").open("wb") as stream:
        pickle.dump({"Pdist_matrix": arrays["distance"][:, None]}, stream, protocol=2)
    module = types.ModuleType("scipy.io")
    module.loadmat = lambda path: mats[Path(path).name]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scipy", types.ModuleType("scipy"))
    monkeypatch.setitem(sys.modules, "scipy.io", module)
    return tmp_path


def test_converting_densepose_files(densepose_files: Path) -> None:
    output = densepose_files / "geodesics.npz"
    convert_geodesics.convert(densepose_files, output)
    with np.load(output) as file:
        for name, expected in smpl_arrays().items():
            np.testing.assert_array_equal(file[name], expected)
    SmplSurface.load(output)
    SmplSurface.load(densepose_files / "geodesics.mat")
    (densepose_files / "SMPL_subdiv.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"SMPL_subdiv\.mat"):
        convert_geodesics.convert(densepose_files, output)


def test_the_converter_runs_nothing_from_a_pickle(densepose_files: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(densepose_files / "harm"),)

    with (densepose_files / "Pdist_matrix.pkl").open("wb") as stream:
        pickle.dump({"Pdist_matrix": Harmful()}, stream)
    with pytest.raises(DensePoseEngineError, match="which arrays have no need of"):
        convert_geodesics.convert(densepose_files, densepose_files / "geodesics.npz")
    assert not (densepose_files / "harm").exists()
    assert not (densepose_files / "geodesics.npz").exists()


@pytest.mark.parametrize(
    "attack",
    [
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7f\x85tR.",  # an array of 2**31 - 1 numbers
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01btR.",
        b"\x80\x02Nr\xff\xff\xff\x3f.",  # kept under an index of a thousand million
    ],
)
def test_the_converter_takes_no_memory_that_a_pickle_asks_for(attack: bytes, densepose_files: Path) -> None:
    (densepose_files / "Pdist_matrix.pkl").write_bytes(attack)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DensePoseEngineError, match="not DensePose's geodesics"):
        convert_geodesics.convert(densepose_files, densepose_files / "geodesics.npz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (1 << 17)  # KiB


def test_array_pickles_of_every_protocol() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for protocol in range(3):  # Python 2 had these
        stream = io.BytesIO(pickle.dumps(array, protocol=protocol))
        np.testing.assert_array_equal(convert_geodesics._ArrayUnpickler(stream, encoding="latin1").load(), array)


def test_without_scipy(densepose_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from densepose_engine import BackendUnavailable

    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(BackendUnavailable, match="pip install scipy"):
        convert_geodesics.convert(densepose_files, densepose_files / "geodesics.npz")
    with pytest.raises(BackendUnavailable, match="pip install scipy"):
        SmplSurface.load(densepose_files / "geodesics.mat")
    assert "convert_geodesics" in surfaces.HOW_TO_GET_GEODESICS
