"""Drift, and evaluations and comparisons of engines and of saved predictions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import annotated_scenes as scenes
import numpy as np
import pytest
from annotated_scenes import found, picture

from densepose_engine import DensePoseEngineError, DensePoseResult, ImageError
from densepose_engine.evaluation.accuracy import (
    Dataset,
    EnginePredictor,
    SavedPredictions,
    compare,
    drift,
    evaluate,
    evaluate_engine,
    evaluate_pair,
    gps_definition,
    predict,
)
from densepose_engine.evaluation.annotations import AnnotatedPicture
from densepose_engine.evaluation.average_precision import STATISTICS
from densepose_engine.evaluation.results import best_people

# ---- drift -----------------------------------------------------------------------------------------------------------


def test_drift_by_hand() -> None:
    first = scenes.result([found([10, 10, 20, 20], 3, 0.5, 0.5, score=0.9)], 40, 50)
    second = scenes.result(
        [found([12, 10, 22, 20], 3, 0.6, 0.5, score=0.4), found([30, 30, 40, 40], 3, score=0.8)], 40, 50
    )
    moved = drift([first, scenes.result([])], [second, scenes.result([])])
    assert (moved.matched, moved.only_reference, moved.only_other) == (1, 0, 1)
    assert moved.box_iou == pytest.approx(80 / 120)
    assert moved.part_agreement == pytest.approx(0.8)  # of the first's patch, two columns are outside of the second's
    assert moved.label_agreement == pytest.approx(0.8)
    assert moved.mask_iou == pytest.approx(80 / 120)
    assert moved.uv_error == pytest.approx(0.05, rel=1e-5)  # U by 0.1, V by 0
    assert moved.score_difference == pytest.approx(0.5)
    back = drift([second], [first])
    assert (back.matched, back.only_reference, back.only_other) == (1, 1, 0)


def test_background_is_no_agreement_of_parts() -> None:
    """A patch of 100 pixels, 10 of them a part here, 10 there, 5 in both: background agrees on 85."""
    box, score, labels, uv = found([10, 10, 20, 20], 0)
    one, two = labels.copy(), labels.copy()
    one[0], two[0, 5:], two[1, 5:] = 3, 3, 4
    first, second = (scenes.result([(box, score, each, uv)], 40, 50) for each in (one, two))
    moved = drift([first], [second])
    assert moved.part_agreement == pytest.approx(5 / 15)
    assert moved.label_agreement == pytest.approx(0.9)
    assert moved.mask_iou == pytest.approx(5 / 15)
    nobody = scenes.result([(box, score, labels, uv)], 40, 50)
    assert drift([nobody], [nobody]).part_agreement == 1, "where neither has a part they do not differ"
    assert drift([nobody], [first]).part_agreement == 0
    # The mean is over people, however large each is.
    large = found([20, 0, 50, 40], 5)
    pair = [scenes.result([(box, score, each, uv), large], 40, 50) for each in (one, two)]
    assert drift([pair[0]], [pair[1]]).part_agreement == pytest.approx((1 + 5 / 15) / 2)


def test_drift_looks_at_people_of_a_half_or_more_on_either_side() -> None:
    low = scenes.result([found([10, 10, 20, 20], score=0.4)], 40, 50)
    assert drift([low], [low]) == drift([], [])
    high = scenes.result([found([10, 10, 20, 20], score=0.6)], 40, 50)
    assert drift([low], [high]).matched == drift([high], [low]).matched == 1
    many = scenes.result([found([i, 0, i + 9, 9], score=0.9 - i / 100) for i in range(0, 30, 10)], 40, 50)
    assert drift([many], [many]).matched == 3
    assert drift([many], [many], max_people=2).matched == 2
    with pytest.raises(ValueError, match="zip"):
        drift([many], [])


# ---- evaluations -----------------------------------------------------------------------------------------------------


class FakeEngine:
    """Finds what it was told; a picture is known by its first pixel."""

    def __init__(self, results: list[DensePoseResult]) -> None:
        self.model = {"capacity": {"max_people": 7}}
        self.results = results
        self.settings: list[dict[str, Any]] = []

    def infer(self, image: np.ndarray, **settings: Any) -> DensePoseResult:
        self.settings.append(settings)
        return self.results[image[0, 0, 0]]


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, list[DensePoseResult], list[DensePoseResult]]:
    """A folder with data, a surface beside it, and two predictors' results."""
    from PIL import Image

    rng = np.random.default_rng(11)
    made = [scenes.made_up_picture(rng) for _ in range(6)]
    data = tmp_path / "data"
    scenes.write_annotations(data, [annotations for annotations, _ in made])
    for i in range(6):
        Image.new("RGB", (scenes.WIDTH, scenes.HEIGHT), (i, 0, 0)).save(data / f"{i}.png")
    points = rng.random((50, 3)).astype(np.float32)
    distance = (0.3 * np.linalg.norm(points[:, None] - points[None], axis=2)).astype(np.float16)
    np.savez(tmp_path / "surface.npz", grid=rng.integers(0, 50, (24, 8, 8)).astype(np.uint16), distance=distance)
    first = [scenes.result(people) for _, people in made]
    return data, first, [best_people(one, 1) for one in first]


class NoisyEngine(FakeEngine):
    """In a picture with noise it finds everybody with one pixel of four wrong."""

    def __init__(self, results: list[DensePoseResult]) -> None:
        super().__init__(results)
        self.runs = 0

    def infer(self, image: np.ndarray, **settings: Any) -> DensePoseResult:
        self.runs += 1
        plain = (image[..., 1:] == 0).all()
        picture = self.results[round(float(image[..., 0].mean()))]  # noise moves the first pixel, but not the mean
        return picture if plain else turned(picture, 4)


def turned(result: DensePoseResult, every: int) -> DensePoseResult:
    """One pixel of so many with another part."""
    labels = []
    for one in result.labels:
        changed = one.copy()
        changed.reshape(-1)[::every] = np.where(changed.reshape(-1)[::every] > 0, 24, 0)
        labels.append(changed)
    return DensePoseResult(result.boxes, result.scores, tuple(labels), result.uv, result.image_size)


def test_the_yardstick_of_two_engines(scene: Any) -> None:
    data, results, _ = scene
    dataset = Dataset.load(data)
    gps = gps_definition("simple", surface=data.parent / "surface.npz")
    reference: Any = NoisyEngine(results)
    other: Any = FakeEngine([turned(one, 2) for one in results])
    pair = EnginePredictor(reference, "a"), EnginePredictor(other, "b")
    plain = evaluate_pair(*pair, dataset, gps, resamples=50)
    assert plain.yardstick is None and reference.runs == 6
    found = evaluate_pair(*pair, dataset, gps, resamples=50, yardstick=True)
    assert reference.runs == 6 + 6 * 6
    assert found.yardstick is not None and found.drift == plain.drift
    assert found.yardstick.low <= found.yardstick.value <= found.yardstick.high
    assert 1 < found.yardstick.value < 4
    with pytest.raises(ValueError, match="must be an engine"):
        evaluate_pair(SavedPredictions(data), pair[1], dataset, gps, yardstick=True)


def test_evaluate_engine(scene: Any) -> None:
    data, results, _ = scene
    dataset = Dataset.load(data)
    gps = gps_definition("simple", surface=data.parent / "surface.npz")
    engine: Any = FakeEngine(results)
    steps: list[int] = []
    evaluation = evaluate_engine(engine, dataset, gps, score_threshold=0.1, advance=lambda: steps.append(1))
    # As many people as the graph has room for.
    assert engine.settings[0] == {"score_threshold": 0.1, "max_people": 7, "max_proposals": None}
    assert (len(steps), evaluation.pictures, evaluation.annotated) == (6, 6, 12)
    assert 0 < evaluation.gps.ap < evaluation.gps.ap50 < 100
    assert 0 < evaluation.box.ap < 100
    assert evaluate_engine(engine, dataset, gps) == evaluation
    assert predict(engine, [np.full((2, 2, 3), 4, np.uint8)]) == [results[4]]
    with pytest.raises(ValueError, match="max_people"):
        evaluate_engine(engine, dataset, gps, max_people=0)


def test_pictures_that_cannot_be_read_are_left_out(scene: Any) -> None:
    from PIL import Image

    data, results, worse = scene
    gps = gps_definition("simple", surface=data.parent / "surface.npz")
    (data / "0.png").unlink()
    (data / "1.png").write_bytes(b"no picture")
    Image.new("RGB", (9, 9)).save(data / "2.png")
    first: Any = FakeEngine(results)
    second: Any = FakeEngine(worse)
    dataset = Dataset.load(data)
    pair = evaluate_pair(EnginePredictor(first), EnginePredictor(second), dataset, gps, resamples=20)
    assert pair.reference.pictures == pair.other.pictures == 3
    assert pair.reference.annotated == 6
    assert [failure.file_name for failure in pair.other.failures] == ["0.png", "1.png", "2.png"]
    assert "0.png" in pair.reference.failures[0].reason
    assert "9 x 9 pixels, its annotations are of 64 x 48" in pair.reference.failures[2].reason
    with pytest.raises(DensePoseEngineError, match=r"none of the 3 pictures .* can be read, the first: "):
        evaluate_engine(first, dataset.first(3), gps)
    with pytest.raises(ImageError):
        EnginePredictor(first)(dataset.pictures[1])


def test_compare(scene: Any) -> None:
    data, results, worse = scene
    gps = gps_definition("simple", surface=data.parent / "surface.npz")
    dataset = Dataset.load(data)
    first: Any = FakeEngine(results)
    second: Any = FakeEngine(worse)
    one, two = evaluate_engine(first, dataset, gps), evaluate_engine(second, dataset, gps)
    comparison = compare(one, two, drift(results, worse), resamples=300)
    assert set(comparison.differences) == {"box", "gps", "gpsm"}
    for metric in comparison.differences:
        mine, theirs = getattr(one, metric).numbers, getattr(two, metric).numbers
        assert list(comparison.differences[metric]) == list(STATISTICS)
        for name, difference in comparison.differences[metric].items():
            assert difference.value == theirs[name] - mine[name]
            assert difference.low <= difference.value <= difference.high
    assert comparison.differences["box"]["AR"].high < 0
    pair = evaluate_pair(EnginePredictor(first), EnginePredictor(second), dataset, gps, resamples=300)
    assert pair == comparison
    with pytest.raises(ValueError, match="the same pictures"):
        compare(one, evaluate_engine(second, dataset.first(4), gps), comparison.drift)
    with pytest.raises(ValueError, match="resamples"):
        compare(one, two, comparison.drift, resamples=0)


def test_saved_predictions(tmp_path: Path) -> None:
    one = scenes.result([found([0, 0, 9, 9], score=0.9), found([9, 9, 20, 20], score=0.3)])
    for path in ("a/b.npz", "c.jpg.npz", "d.npz"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        one.save(tmp_path / path)
    saved = SavedPredictions(tmp_path)
    for name in ("a/b.jpg", "c.jpg", "elsewhere/d.jpg"):
        assert saved(AnnotatedPicture(0, name, Path(name), 48, 64, ())) == one
    some = SavedPredictions(tmp_path, score_threshold=0.3)(AnnotatedPicture(0, "d.png", Path("d.png"), 48, 64, ()))
    assert some.scores.tolist() == [np.float32(0.9)]
    gps, dataset = scenes.simple_gps(), Dataset(Path("x.json"), (picture(),))
    with pytest.raises(DensePoseEngineError, match=r"no prediction .*0.npz for 0.png"):
        evaluate(saved, dataset, gps)


def test_best_people_are_sorted() -> None:
    one = scenes.result([found([0, 0, 9, 9], score=0.3), found([9, 9, 20, 20], score=0.9)])
    assert best_people(one, 5).scores.tolist() == [np.float32(0.9), np.float32(0.3)]
    assert best_people(one, 1).boxes.tolist() == [[9, 9, 20, 20]]
    assert best_people(scenes.result([]), 5) == scenes.result([])


def test_importing_the_package_or_its_command_does_not_import_pycocotools() -> None:
    code = (
        "import sys, densepose_engine.cli, densepose_engine.evaluation.accuracy; sys.exit('pycocotools' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
