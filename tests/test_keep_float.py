"""``build --keep-float auto``: which layers go back to float, when that ends, and what is said and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_detector import serialize, small_detector

from densepose_engine import DensePoseResult, Engine
from densepose_engine.calibration.collect.activations import collect
from densepose_engine.calibration.judge import sensitivity
from densepose_engine.calibration.judge.keep_float import Step, choose
from densepose_engine.calibration.judge.noise import NoiseMeter
from densepose_engine.calibration.place.quantize import TARGETS
from densepose_engine.calibration.place.quantizer import Quantizer
from densepose_engine.cli import BAD_INPUT, BAD_RUNTIME, OK, USAGE, main
from densepose_engine.compile.layer_precision import KEPT, fell_back, float_layers
from densepose_engine.compile.trials import Trials, ap_drop, grey_level_percent
from densepose_engine.errors import BuildError, DensePoseEngineError
from densepose_engine.evaluation.drift import Drift, DriftMeter, drift_percent
from densepose_engine.model.engine_file import read_manifest
from densepose_engine.pictures.find import find_pictures

MODELS = Path(__file__).resolve().parent.parent / "models"
CALIBRATED = [MODELS / "person.jpg", MODELS / "astronaut.jpg"]  # conftest's table


class Fake:
    """An engine whose drop is 10 less what each float layer buys."""

    def __init__(self, **bought: float) -> None:
        self.bought = bought
        self.measured: list[tuple[str, ...]] = []
        self.ranked = 0

    def drop(self, keep_float: Collection[str]) -> float:
        self.measured.append(tuple(keep_float))
        return 10 - sum(self.bought[name] for name in keep_float)

    def ranking(self) -> list[str]:
        self.ranked += 1
        return list(self.bought)


# ---- the choice ------------------------------------------------------------------------------------------------------


def test_nothing_is_moved_where_the_bound_is_kept() -> None:
    fake = Fake(a=5)
    choice = choose(fake.drop, fake.ranking, 10)
    assert (choice.before, choice.after, choice.steps, choice.rejected) == (10, 10, (), ())
    assert fake.measured == [()] and fake.ranked == 0


def test_layers_are_moved_until_the_bound_is_kept() -> None:
    fake, said = Fake(a=3, b=0, c=-1, d=4, e=2), list[str]()
    choice = choose(fake.drop, fake.ranking, 3.5, notify=said.append)
    assert choice.steps == (Step("a", 7, 3), Step("d", 3, 4))
    assert choice.rejected == ("b", "c")
    assert (choice.before, choice.after, choice.bound) == (10, 3, 3.5)
    # What buys nothing is not carried along, and e is not needed.
    assert fake.measured == [(), ("a",), ("a", "b"), ("a", "c"), ("a", "d")]
    assert [line.split(":")[0] for line in said[1:]] == [f"{name} in float" for name in "abcd"]
    assert "it buys 3.00" in said[1] and "stays INT8" in said[2]
    assert json.loads(json.dumps(choice.to_dict()))["steps"][1] == {"layer": "d", "drop": 3, "bought": 4}


def test_layers_that_the_user_keeps_float_stay_so() -> None:
    fake = Fake(mine=1, a=6)
    choice = choose(fake.drop, lambda: ["a"], 4, keep_float=["mine"])
    assert fake.measured == [("mine",), ("mine", "a")]
    assert choice.before == 9 and [step.layer for step in choice.steps] == ["a"]


def test_a_bound_that_cannot_be_kept_is_an_error_with_the_best() -> None:
    fake = Fake(a=3, b=2)
    with pytest.raises(BuildError, match=r"of 10\.00 .* down to 1\.00 .* best found is 5\.00, with --keep-float a,b"):
        choose(fake.drop, fake.ranking, 1)
    fake = Fake(a=-1)
    with pytest.raises(BuildError, match="no layer in float helps"):
        choose(fake.drop, fake.ranking, 1)
    with pytest.raises(BuildError, match="no layer in float helps"):
        choose(fake.drop, list, 1)


def test_it_ends_with_the_most_layers() -> None:
    fake = Fake(**{f"l{k}": 0.1 for k in range(10)})
    with pytest.raises(BuildError, match="--keep-float l0,l1,l2;"):
        choose(fake.drop, fake.ranking, 1, most=3)
    assert len(fake.measured) == 4


# ---- what is lost ----------------------------------------------------------------------------------------------------


def test_drift_in_percent() -> None:
    moved = Drift(8, 1, 1, box_iou=0.9, part_agreement=0.75, label_agreement=0.95, mask_iou=0.8, uv_error=0.01,
                  score_difference=0.02)  # fmt: skip
    assert drift_percent(moved) == pytest.approx(100 * (1 - 0.8 * 0.75))
    assert drift_percent(replace(moved, matched=8, only_reference=0, only_other=0, part_agreement=1.0)) == 0
    assert drift_percent(replace(moved, matched=0)) == 100
    assert drift_percent(DriftMeter().drift()) == 0


def test_the_worse_of_two_drops_counts() -> None:
    def scores(box: float, gps: float) -> Any:
        return SimpleNamespace(box=SimpleNamespace(ap=box), gps=SimpleNamespace(ap=gps))

    assert ap_drop(scores(50, 20), scores(49.5, 19)) == 1
    assert ap_drop(scores(50, 20), scores(48, 21)) == 2
    assert ap_drop(scores(50, 20), scores(51, 20.5)) == -0.5
    with pytest.raises(DensePoseEngineError, match="nobody annotated"):
        ap_drop(scores(50, np.nan), scores(50, np.nan))


def test_the_layer_that_costs_most_is_found(tmp_path: Path) -> None:
    """A detector whose stem has one weight that leaves the others no levels."""
    model = small_detector()
    weight = model.graph.initializers["deltas/weight"].const_value.numpy().copy()
    weight[:, 0] = 1.0  # each output's scale is that of its largest weight; the others are a thousandth
    import onnx_ir as ir

    model.graph.initializers["deltas/weight"].const_value = ir.tensor(weight, name="deltas/weight")
    path = tmp_path / "g.onnx"
    path.write_bytes(serialize(model))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(90, 256, (64, 96, 3), np.uint8) for _ in range(3)]
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    table = collect(path, find_pictures([tmp_path]), min_people=1)
    quantizer = Quantizer(path.read_bytes(), table, TARGETS["openvino"], "minmax", adapt_weights=False)
    name = next(str(node.name) for node in model.graph if node.outputs[0].name == "box_deltas")
    assert sensitivity.noisiest(quantizer)[0] == name
    done: list[tuple[int, int]] = []
    found = sensitivity.worst_layers(
        quantizer, NoiseMeter(quantizer.graph, "g"), pictures, candidates=3, advance=lambda *now: done.append(now)
    )
    gains = [gain for _, gain in found]
    assert len(found) == 3 and gains == sorted(gains, reverse=True) and gains[0] > 0
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert name not in sensitivity.noisiest(quantizer, [name])


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that the demo's table does not know."""
    path = tmp_path_factory.mktemp("unseen") / "mirrored.png"
    with Image.open(MODELS / "person.jpg") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    return path


def build(graph: Path, table: Path, output: Path, *options: object) -> int:
    fixed = ["--precision", "int8", "--calib", str(table), "--observer", "minmax", "-o", str(output)]
    return main(["build", str(graph), *fixed, "--keep-float", "auto", *map(str, options)])


def test_a_bound_that_is_kept_at_once(
    demo_onnx: Path, demo_table: Path, unseen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.engine"
    assert build(demo_onnx, demo_table, path, "--pictures", unseen, *CALIBRATED, "--max-drift", 100) == OK
    record = read_manifest(path).model.int8.record["auto"]
    assert record["steps"] == [] and 0 <= record["before"] == record["after"] < 100
    assert record["bound"] == 100 and record["pictures"] == 1  # the others were calibrated on
    assert "percent with all in INT8, 100.00 allowed" in capsys.readouterr().out


def test_the_bound_is_a_multiple_of_the_yardstick(
    demo_onnx: Path,
    demo_table: Path,
    unseen: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where nobody says how much drift is allowed; of one picture, the real figures could be anything."""
    from densepose_engine.commands import auto_float

    noise: list[float] = []

    def measured(trials: Trials, pictures: list[np.ndarray], advance: Callable[[int], None]) -> float:
        noise.append(grey_level_percent(trials, pictures, advance))
        return 100.0

    monkeypatch.setattr("densepose_engine.compile.trials.grey_level_percent", measured)
    path = tmp_path / "x.engine"
    assert build(demo_onnx, demo_table, path, "--pictures", unseen) == OK
    int8 = read_manifest(path).model.int8
    assert int8 is not None
    record = int8.record["auto"]
    assert record["yardstick"] == 100 and record["bound"] == 100 * auto_float.DEFAULT_MAX_RATIO
    assert 0 < noise[0] < 100, "the real one was measured too"
    out = capsys.readouterr().out
    assert "one grey level of noise moves FP32 by 100.00 percent" in out and "1 pictures" in out


def test_layers_are_moved_and_listed(
    demo_onnx: Path,
    demo_table: Path,
    unseen: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The real search, over two layers; drops are made up, so that the way does not hang on noise."""
    monkeypatch.setattr(sensitivity, "CANDIDATES", 2)
    drops = iter([5.0, 2.0])
    monkeypatch.setattr("densepose_engine.compile.trials.drift_percent", lambda moved: next(drops))
    path = tmp_path / "x.engine"
    assert build(demo_onnx, demo_table, path, "--pictures", unseen, "--max-drift", 3) == OK
    model = read_manifest(path).model
    (step,) = model.int8.record["auto"]["steps"]
    assert step["drop"] == 2.0 and step["bought"] == 3.0
    assert model.int8.keep_float == (step["layer"],)
    assert {one.name: one.reason for one in float_layers(model.layers)} == {step["layer"]: KEPT}
    assert fell_back(model.layers) == []
    output = capsys.readouterr()
    assert f"in float   {step['layer']}: 2.00, bought 3.00" in output.out
    assert "it buys 3.00" in output.err
    assert main(["inspect", str(path)]) == OK
    assert step["layer"] in capsys.readouterr().out


def test_a_bound_that_is_not_kept_writes_nothing(
    demo_onnx: Path,
    demo_table: Path,
    unseen: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sensitivity, "CANDIDATES", 0)
    path = tmp_path / "x.engine"
    assert build(demo_onnx, demo_table, path, "--pictures", unseen, "--max-drift", 0) == BAD_RUNTIME
    assert "cannot be brought down to 0.00" in capsys.readouterr().err
    assert not path.exists()


def annotate(engine: Path, folder: Path) -> None:
    """A data set of one picture, whose people are those that the fp32 engine finds."""
    with Engine.load(engine, cache_dir=None, warm_up=0) as loaded:
        result: DensePoseResult = loaded.infer(MODELS / "person.jpg")
    people = []
    for k in range(len(result)):
        one = result.person(k)
        rows, columns = np.nonzero(one.labels)
        some = np.linspace(0, len(rows) - 1, 40).astype(int)
        rows, columns = rows[some], columns[some]
        height, width = one.labels.shape
        x0, y0, x1, y1 = one.box.tolist()
        people.append(
            {
                "id": k + 1, "image_id": 1, "category_id": 1, "iscrowd": 0,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                "dp_x": ((columns + 0.5) / width * 255).tolist(), "dp_y": ((rows + 0.5) / height * 255).tolist(),
                "dp_I": one.labels[rows, columns].astype(float).tolist(),
                "dp_U": one.uv[0, rows, columns].clip(0, 1).tolist(),
                "dp_V": one.uv[1, rows, columns].clip(0, 1).tolist(),
            }
        )  # fmt: skip
    (folder / "set").mkdir()
    (folder / "set" / "person.jpg").write_bytes((MODELS / "person.jpg").read_bytes())
    height, width = result.image_size
    images = [{"id": 1, "file_name": "person.jpg", "height": height, "width": width}]
    categories = [{"id": 1, "name": "person"}]
    content = {"images": images, "categories": categories, "annotations": people}
    (folder / "set" / "annotations.json").write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    places = rng.random((300, 2)).astype(np.float32)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.savez(folder / "surface.npz", grid=rng.integers(0, 300, (24, 8, 8)).astype(np.uint16), distance=distance)


def test_labels_decide_where_there_are_some(
    demo_onnx: Path, demo_table: Path, demo_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(demo_engine, tmp_path)
    path = tmp_path / "x.engine"
    assert build(demo_onnx, demo_table, path, "--data", tmp_path / "set", "--max-drop", 100) == OK
    record = read_manifest(path).model.int8.record["auto"]
    assert record["unit"] == "points of AP" and record["pictures"] == 1
    assert 0 < record["before"] < 100  # FP32 has all, its own people
    assert "points of AP with all in INT8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "needs --data DIR (annotated pictures) or --pictures"),
        (["--data", "x", "--pictures", "y"], "and not both"),
        (["--pictures", "y", "--max-drop", "0.3"], "--max-drop is in points of AP, which needs --data"),
        (["--data", "y", "--max-drift", "3"], "--max-drift is for --keep-float auto with --pictures"),
        (["--data", "y", "--max-drop", "-1"], "not a number of at least 0"),
        (["--data", "y", "--max-drop", "nan"], "not a number of at least 0"),
    ],
)
def test_wrong_usage(options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(tmp_path / "g.onnx", tmp_path / "t.json", tmp_path / "x.engine", *options) == USAGE
    assert said in capsys.readouterr().err


def test_auto_is_for_int8_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = str(tmp_path / "g.onnx")
    assert main(["build", graph, "--keep-float", "auto", "--pictures", "x"]) == USAGE
    assert "it needs --precision int8" in capsys.readouterr().err
    calib = ["--calib", "t.json", "--pictures", "x"]
    assert main(["build", graph, "--target", "tensorrt", "--keep-float", "auto", *calib]) == USAGE
    assert "and no --target" in capsys.readouterr().err
    options = ["--precision", "int8", "--backend", "tensorrt", "--keep-float", "auto"]
    assert main(["build", graph, *options, *calib]) == USAGE
    assert "the openvino backend" in capsys.readouterr().err
    assert main(["build", graph, "--precision", "int8", *calib]) == USAGE
    assert "--pictures is for --keep-float auto" in capsys.readouterr().err
    assert main(["report", graph, "--calib", "t.json", "--keep-float", "auto"]) == USAGE
    assert "name them here" in capsys.readouterr().err


def test_pictures_that_cannot_judge(
    demo_onnx: Path, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.engine"
    assert build(demo_onnx, demo_table, path, "--pictures", *CALIBRATED) == BAD_INPUT
    assert "was made with all of the 2 pictures of --pictures" in capsys.readouterr().err
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    assert build(demo_onnx, demo_table, path, "--pictures", broken) == BAD_INPUT
    error = capsys.readouterr().err
    assert "left out" in error and "none of the pictures that were not calibrated on can be read" in error
    assert build(demo_onnx, demo_table, path, "--data", tmp_path) == BAD_INPUT
    assert "annotations.json" in capsys.readouterr().err
    assert not path.exists()
