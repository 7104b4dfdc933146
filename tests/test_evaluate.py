"""Evaluation: annotations, GPS by both definitions, average precision, the bootstrap and drift.

``evaluation_reference`` is the independent witness for the DensePose definition; the simple one has hand-made cases here and
``tests/oracle/test_evaluate_oracle.py``.
"""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import annotated_scenes as scenes
import evaluation_reference as reference
import numpy as np
import pytest

from densepose_engine import DensePoseEngineError, DensePoseResult, ImageError
from densepose_engine.evaluate import (
    Dataset,
    EnginePredictor,
    Evaluator,
    SavedPredictions,
    compare,
    drift,
    evaluate,
    evaluate_engine,
    evaluate_pair,
    gps_definition,
    predict,
)
from densepose_engine.evaluation.annotations import AnnotatedPicture, Annotation, Points
from densepose_engine.evaluation.average_precision import (
    STATISTICS,
    Match,
    Ranking,
    match_best,
    match_densepose,
    paired_bootstrap,
)
from densepose_engine.evaluation.boxes import box_iou, boxes_xywh, score_boxes
from densepose_engine.evaluation.gps import CocoGps, SimpleGps
from densepose_engine.evaluation.results import best_people
from densepose_engine.evaluation.rle import Polygons, RunLengths
from densepose_engine.evaluation.surfaces import GridSurface, SmplSurface


def person(
    box: tuple[float, float, float, float],
    points: list[tuple[float, float, int, float, float]] | None = None,
    mask: np.ndarray | None = None,
    **changes: Any,
) -> Annotation:
    """Points are x, y, part, u, v."""
    values: dict[str, Any] = {"id": 1, "area": box[2] * box[3], "crowd": False, "masks": None}
    if points is not None:
        x, y, part, u, v = (np.array(column, np.float64) for column in zip(*points, strict=True))
        values["points"] = Points(x, y, part.astype(np.int64), u, v)
    else:
        values["points"] = None
    values["segmentation"] = None if mask is None else RunLengths.parse(scenes.run_lengths(mask))
    return Annotation(box=box, **(values | changes))


def picture(*annotations: Annotation, height: int = 40, width: int = 50, id: int = 0) -> AnnotatedPicture:
    return AnnotatedPicture(id, f"{id}.png", Path(f"{id}.png"), height, width, annotations)


def found(box: list[float], part: int = 1, u: float = 0.0, v: float = 0.0, score: float = 0.9) -> reference.Found:
    """A person of one part, with the same U and V everywhere."""
    corners = np.array(box, np.float32)
    h, w = max(int(corners[3] - corners[1]), 1), max(int(corners[2] - corners[0]), 1)
    uv = np.broadcast_to(np.array([u, v], np.float32)[:, None, None], (2, h, w)).copy()
    return corners, score, np.full((h, w), part, np.uint8), uv


# ---- masks -----------------------------------------------------------------------------------------------------------


def test_run_lengths_are_column_major_and_begin_with_background() -> None:
    mask = RunLengths.parse({"size": [2, 3], "counts": [1, 2, 3]}).decode()
    np.testing.assert_array_equal(mask, [[False, True, False], [True, False, False]])


def test_compressed_run_lengths_are_those_of_the_coco_tools() -> None:
    tools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for n in range(60):
        height, width = rng.integers(1, 300, 2)
        mask = rng.random((height, width)) < (0.5, 0.001, 0.999)[n % 3]
        encoded = tools.encode(np.asfortranarray(mask, np.uint8))
        assert isinstance(encoded["counts"], bytes)
        text = {"size": [int(height), int(width)], "counts": encoded["counts"].decode()}
        np.testing.assert_array_equal(RunLengths.parse(text).decode(), mask)


@pytest.mark.parametrize(
    "rle",
    [
        [],
        {"size": [2, 2]},
        {"size": [2], "counts": [4]},
        {"size": [2, -2], "counts": [4]},
        {"size": [2, 2], "counts": [3]},
        {"size": [2, 2], "counts": [5]},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 2], "counts": [1 << 40]},
        {"size": [2, 2], "counts": [True, 3]},
        {"size": [2, 2], "counts": 4},
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "\x7f"},
        {"size": [2, 2], "counts": "€"},
        {"size": [2, 2], "counts": "P"},  # says that more follows
        {"size": [2, 2], "counts": "oooooooooooo0"},
    ],
)
def test_broken_run_lengths(rle: Any) -> None:
    with pytest.raises(ValueError, match=r"^its? "):
        RunLengths.parse(rle)


def test_polygons() -> None:
    mask = Polygons.parse([[1, 1, 4, 1, 4, 3, 1, 3]], (5, 6)).decode()
    np.testing.assert_array_equal(np.argwhere(mask), [[y, x] for y in (1, 2) for x in (1, 2, 3)])
    assert not Polygons.parse([], (5, 6)).decode().any()
    for bad in ([[1, 2, 3]], [[1, 2, 3, 4, 5, math.nan]], ["123456"], [[1, 2, 3, 4, 5, "6"]]):
        with pytest.raises(ValueError, match="polygons"):
            Polygons.parse(bad, (5, 6))


# ---- annotation files ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    annotations = [scenes.made_up_picture(np.random.default_rng(seed))[0] for seed in range(2)]
    return scenes.write_annotations(tmp_path_factory.mktemp("content"), annotations)


def load(folder: Path, content: Any) -> Dataset:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "annotations.json").write_text(text)
    return Dataset.load(folder)


def test_what_a_dataset_has(tmp_path: Path, content: dict[str, Any]) -> None:
    dataset = load(tmp_path, content)
    assert [p.file_name for p in dataset.pictures] == ["0.png", "1.png"]
    assert dataset.pictures[1].path == tmp_path / "1.png"
    assert dataset.people == 4
    assert len(dataset.first(1).pictures) == 1
    one = dataset.pictures[0].annotations[0]
    assert one.points is not None
    assert len(one.points) == 12
    assert one.masks is not None
    assert len(one.masks) == 2  # empty ones say nothing
    other = Dataset.load("nowhere", annotations=tmp_path / "annotations.json", images="pictures")
    assert other.pictures[0].path == Path("pictures/0.png")


def test_only_people_count_and_points_of_no_part_are_dropped(tmp_path: Path, content: dict[str, Any]) -> None:
    content = copy.deepcopy(content)
    content["categories"] = [{"id": 7, "name": "dog"}, {"id": 1, "name": "person"}]
    content["annotations"][0]["category_id"] = 7
    content["annotations"][1]["dp_I"][:5] = [0] * 5
    dataset = load(tmp_path, content)
    assert [a.id for a in dataset.pictures[0].annotations] == [1]
    points = dataset.pictures[0].annotations[0].points
    assert points is not None
    assert len(points) == 7


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("image_id", 9, "annotation 1: its image_id 9 is none of the images"),
        ("image_id", "0", "annotation 1: its image_id is '0', it must be an integer"),
        ("bbox", None, "annotation 1: its bbox is not a list of numbers"),
        ("bbox", [1, 2, 3], "annotation 1: its bbox has 3 entries, it must have 4"),
        ("bbox", [1, 2, -3, 4], "annotation 1: its bbox has a negative width or height"),
        ("bbox", [1, 2, math.inf, 4], "annotation 1: its bbox has values that are not finite"),
        ("bbox", [1, 2, 10**400, 4], "annotation 1: its bbox has values that are not finite"),
        ("area", "large", "annotation 1: its area is 'large', it must be a number of at least 0"),
        ("dp_y", None, "annotation 1: its dp_y is not a list of numbers"),
        ("dp_U", [0.5], "annotation 1: its dp_U has 1 entries, dp_x has 12"),
        ("dp_V", [math.nan] * 12, "annotation 1: its dp_V has values that are not finite"),
        ("dp_I", [25] * 12, "annotation 1: its dp_I has values other than 1 .. 24"),
        ("dp_I", [1.5] * 12, "annotation 1: its dp_I has values other than 1 .. 24"),
        ("dp_masks", {}, "annotation 1: its dp_masks are not a list of up to 14 masks"),
        ("dp_masks", [[]] * 15, "annotation 1: its dp_masks are not a list of up to 14 masks"),
        ("dp_masks", [{"size": [256, 256], "counts": [7]}], "annotation 1: one of its dp_masks cannot be read: its run"),
        ("dp_masks", [{"size": [2, 2], "counts": [4]}], "its size is 2 x 2, it must be 256 x 256"),
        ("segmentation", {"size": [2, 2], "counts": [4]}, "annotation 1: its segmentation cannot be read: its size"),
        ("segmentation", [[1, 2]], "annotation 1: its segmentation cannot be read"),
        ("id", "x", "annotation number 1 of the list: its id is 'x', it must be an integer"),
    ],
)
def test_broken_annotations(tmp_path: Path, content: dict[str, Any], key: str, value: Any, sentence: str) -> None:
    content = copy.deepcopy(content)
    content["annotations"][1][key] = value
    with pytest.raises(DensePoseEngineError) as error:
        load(tmp_path, content)
    assert str(error.value).startswith(f"{tmp_path / 'annotations.json'}: ")
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ([], "it is no COCO annotation file"),
        ("{", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ({"images": []}, "it has no list annotations"),
        ({"images": [3], "annotations": []}, "image number 0 of the list is no object"),
        ({"images": [{"id": 1, "width": 3}], "annotations": []}, "image 1: its height is None"),
        ({"images": [{"id": 1, "width": 0, "height": 3}], "annotations": []}, "an integer of at least 1"),
        ({"images": [{"id": 1, "width": 10**9, "height": 3}], "annotations": []}, "that is no picture"),
        ({"images": [{"id": 1, "width": 3, "height": 3}] * 2, "annotations": []}, "its id is taken"),
        ({"images": [], "annotations": []}, "it is no DensePose annotation file"),
        ({"images": [], "annotations": [], "categories": 3}, "its categories are not a list"),
        ({"images": [], "annotations": [], "categories": [{}, {}]}, "none of its categories is named person"),
    ],
)
def test_broken_files(tmp_path: Path, change: Any, sentence: str) -> None:
    with pytest.raises(DensePoseEngineError, match=sentence):
        load(tmp_path, change)


def test_no_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--annotations"):
        Dataset.load(tmp_path)


# ---- the simple definition -------------------------------------------------------------------------------------------


def simple_gps(distance: float = 0.255) -> SimpleGps:
    """Part 1 is point 0 where U < 0.5 and point 1 beyond; all other parts are point 2."""
    grid = np.full((24, 4, 4), 2, np.uint16)
    grid[0, :, :2], grid[0, :, 2:] = 0, 1
    table = np.full((3, 3), np.inf, np.float32)
    np.fill_diagonal(table, 0)
    table[0, 1] = table[1, 0] = distance
    return SimpleGps(GridSurface(grid, table))


def test_simple_gps_by_hand() -> None:
    mask = np.zeros((40, 50), bool)
    mask[10:30, 10:30] = True
    # Four points in the box 10, 10, 20, 20: the first at U 0.2 is right; the second is 0.255 m off, so exp(-1/2); the
    # third is of an unreachable part; the fourth is outside of what was found.
    points = [(64, 64, 1, 0.2, 0), (64, 64, 1, 0.7, 0), (64, 64, 5, 0, 0), (250, 64, 1, 0.2, 0)]
    annotated = picture(person((10, 10, 20, 20), points, mask))
    people = scenes.result([found([10.9, 10.2, 20.9, 30.3], u=0.1)], 40, 50)
    similar = simple_gps().similarities(annotated, people)
    assert similar.gps[0, 0] == pytest.approx((1 + math.exp(-0.5)) / 4, rel=1e-6)
    assert similar.mask_iou[0, 0] == pytest.approx(10 * 20 / 400)
    assert similar.gpsm[0, 0] == pytest.approx(math.sqrt(similar.gps[0, 0] / 2))


def test_simple_gps_counts_from_the_patch_and_in_256ths() -> None:
    # The point is at 10 + 128 / 256 * 21 = 20.5, pixel 20; the patch begins at pixel 20, though its box does at 20.9.
    mask = np.ones((40, 50), bool)
    annotated = picture(person((10, 10, 21, 21), [(128, 128, 1, 0, 0)], mask))
    similar = simple_gps().similarities(annotated, scenes.result([found([20.9, 20.9, 30, 30])], 40, 50))
    assert similar.gps[0, 0] == 1
    similar = simple_gps().similarities(annotated, scenes.result([found([21, 20.9, 30, 30])], 40, 50))
    assert similar.gps[0, 0] == 0


def test_simple_gps_asks_for_points_and_segmentation_of_everybody() -> None:
    for annotation, key in ((person((0, 0, 9, 9)), "dp_x"), (person((0, 0, 9, 9), [(1, 1, 1, 0, 0)]), "segmentation")):
        with pytest.raises(DensePoseEngineError, match=f"annotation 1 has no {key}"):
            simple_gps().check(picture(annotation))


def test_people_beyond_the_picture_and_empty_pictures() -> None:
    mask = np.ones((40, 50), bool)
    annotated = picture(person((0, 0, 50, 40), [(128, 128, 1, 0, 0)], mask))
    people = scenes.result([found([-20, -20, 5, 5]), found([45, 35, 90, 90]), found([60, 60, 61, 61])], 40, 50)
    similar = simple_gps().similarities(annotated, people)
    np.testing.assert_allclose(similar.mask_iou[:, 0], [25 / 2000, 25 / 2000, 0])
    nobody = scenes.result([], 40, 50)
    assert simple_gps().similarities(annotated, nobody).gpsm.shape == (0, 1)
    assert simple_gps().similarities(picture(), people).gpsm.shape == (3, 0)
    assert simple_gps().similarities(picture(), nobody).gpsm.shape == (0, 0)


# ---- the DensePose definition ----------------------------------------------------------------------------------------


def coco_gps() -> CocoGps:
    """Every part has a vertex at U, V = 0, 0 and one at 1, 1; both of a part are 0.351 m apart, parts are 9 m apart."""
    part = np.repeat(np.arange(1, 25), 2)
    place = np.tile([0.0, 1.0], 24)
    distance = np.where(part[:, None] == part, 0.351, 9.0).astype(np.float32)
    np.fill_diagonal(distance, 0)
    return CocoGps(SmplSurface(place, place, part, np.arange(48), scenes.condensed(distance)))


@pytest.mark.parametrize(("part", "k"), sorted(reference.K.items()))
def test_coco_gps_has_a_k_per_part(part: int, k: float) -> None:
    annotated = picture(person((10, 10, 20, 20), [(100, 100, part, 0, 0), (100, 100, part, 1, 1)]))
    similar = coco_gps().similarities(annotated, scenes.result([found([10, 10, 30, 30], part, 0.4, 0.4)], 40, 50))
    assert similar.gps[0, 0] == pytest.approx((1 + math.exp(-(0.351**2) / (2 * k**2))) / 2, rel=1e-6)


def test_coco_gps_counts_from_the_box_and_in_255ths() -> None:
    # The point is at 10 + 153 / 255 * 20 = 22.
    annotated = picture(person((10, 10, 20, 20), [(153, 153, 1, 0, 0)]))
    for left, right, expected in (
        (22.9, 30, 1.0),  # less than a pixel outside is truncated into the box
        (23.0, 30, 0.0),
        (15.5, 22.6, 1.0),  # pixel 6 of 7
        (15.5, 22.4, 0.0),  # pixel 6 of 6
    ):
        similar = coco_gps().similarities(annotated, scenes.result([found([left, 10, right, 30])], 40, 50))
        assert similar.gps[0, 0] == expected, (left, right)


def test_coco_gps_sees_bytes() -> None:
    part = np.repeat(np.arange(1, 25), 2)
    place = np.tile([100.4 / 255, 101 / 255], 24)
    distance = np.full((48, 48), 9, np.float32)
    gps = CocoGps(SmplSurface(place, place, part, np.arange(48), scenes.condensed(distance)))
    annotated = picture(person((10, 10, 20, 20), [(100, 100, 1, 100.4 / 255, 100.4 / 255)]))
    value = 100.9 / 255  # nearer to the second vertex; as a byte, 100, nearer to the first
    similar = gps.similarities(annotated, scenes.result([found([10, 10, 30, 30], 1, value, value)], 40, 50))
    assert similar.gps[0, 0] == 1
    similar = gps.similarities(annotated, scenes.result([found([10, 10, 30, 30], 1, 7.0, -3.0)], 40, 50))
    assert similar.gps[0, 0] < 1e-9  # beyond the chart is its edge, and there the other vertex is nearer


def test_coco_masks() -> None:
    half = np.zeros((256, 256), bool)
    half[:, :128] = True
    masks = (RunLengths.parse(scenes.run_lengths(half)),)
    everywhere = scenes.result([found([0, 0, 50, 40])], 40, 50)
    points = [(100.0, 100.0, 1, 0.0, 0.0)]
    segmentation = np.zeros((40, 50), bool)
    segmentation[:10, :10] = True
    for annotation, area in (
        (person((10, 10, 20, 20), points, segmentation, masks=masks), 10 * 20),
        (person((40, 30, 20, 20), points, segmentation, masks=masks), 10 * 10),  # cut by the picture
        (person((10, 10, 20, 20), points, segmentation), 100),
        (person((10, 10, 20, 20), points), 0),
    ):
        similar = coco_gps().similarities(picture(annotation), everywhere)
        assert similar.mask_iou[0, 0] == pytest.approx(area / 2000)
    crowd = picture(person((10, 10, 20, 20), None, segmentation, crowd=True))
    small = scenes.result([found([5, 5, 15, 15])], 40, 50)
    assert coco_gps().similarities(crowd, small).mask_iou[0, 0] == 25 / 100


def test_distances_are_condensed_as_densepose_has_them() -> None:
    rng = np.random.default_rng(1)
    table = scenes.made_up_surface(rng)
    square = SmplSurface(table.u, table.v, table.part, table.vertex, table.distance)
    lower = SmplSurface(table.u, table.v, table.part, table.vertex, scenes.condensed(table.distance))
    a, b = rng.integers(0, len(table.distance), (2, 500))
    b[:20] = a[:20]
    np.testing.assert_array_equal(square.distance(a, b), lower.distance(a, b))


@pytest.mark.parametrize("seed", range(4))
def test_the_densepose_evaluation_against_the_reference(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = scenes.made_up_surface(rng)
    made = [scenes.made_up_picture(rng, people) for people in (1, 2, 3, 0, 2, 1)]
    for annotations, people in made:
        for annotation in annotations:
            if rng.random() < 0.3:  # a box without points; what is found there counts neither way
                for key in ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V", "dp_masks"):
                    del annotation[key]
                annotation["iscrowd"] = int(rng.random() < 0.5)
                x, y, w, h = annotation["bbox"]
                box = np.array([x, y, x + w, y + h], np.float32)
                people.append((box, float(np.float32(rng.random())), *scenes.made_up_patch(rng, box)))
            elif rng.random() < 0.3:
                del annotation["dp_masks"]
    scenes.write_annotations(tmp_path, [annotations for annotations, _ in made])
    dataset = Dataset.load(tmp_path)
    gps = CocoGps(SmplSurface(table.u, table.v, table.part, table.vertex, scenes.condensed(table.distance)))
    evaluator = Evaluator(gps)
    for one, (_, people) in zip(dataset.pictures, made, strict=True):
        evaluator.add(one, scenes.result(people))
    evaluation = evaluator.evaluation()
    expected = reference.evaluate([(scenes.HEIGHT, scenes.WIDTH, *one) for one in made], table)
    for metric in ("gps", "gpsm"):
        numbers = list(getattr(evaluation, metric).numbers.values())
        np.testing.assert_allclose(numbers, 100 * np.array(expected[metric]), atol=1e-9)
    assert evaluation.gps.ap50 > 5  # the scenes are neither trivial nor hopeless
    assert evaluation.gps.ap < 95


# ---- matching --------------------------------------------------------------------------------------------------------


def test_the_better_one_takes_the_best_that_is_left() -> None:
    match = match_best(np.array([[0.9, 0.8], [0.95, 0.0], [0.9, 0.7]]))
    # At 0.50 the first takes the first, so the second, though nearer, has nobody, and the third the second.
    assert match.right[0].tolist() == [True, False, True]
    # At 0.75 the third is too far from whom is left.
    assert match.right[5].tolist() == [True, False, False]
    # At 0.95 the first is too far, and the second gets its own.
    assert match.right[9].tolist() == [False, True, False]
    assert match.truths == 2
    assert match_best(np.zeros((2, 0))).right.tolist() == [[False] * 2] * 10


def test_people_without_points_are_ignored() -> None:
    ignored, crowd = np.array([True, False]), np.array([False, False])
    similarity = np.array([[0, 0.7], [0, 0.6], [0, 0.1]])
    overlap = np.array([[0.9, 0.85], [0.3, 0.9], [0.85, 0.1]])
    match = match_densepose(similarity, ignored, crowd, overlap)
    assert match.truths == 1
    # The first is right at 0.50, but not at 0.95, and there overlaps the person without points: it counts nowhere.
    assert match.right[0].tolist() == [True, False, False]
    assert match.ignored.all(axis=0).tolist() == [True, False, False]
    # That person can be overlapped once, a crowd often.
    match = match_densepose(similarity, ignored, np.array([True, False]), overlap)
    assert match.ignored.all(axis=0).tolist() == [True, False, True]
    assert (match.ignored == match.ignored[0]).all()


def test_where_nobody_has_points_everybody_found_is_ignored() -> None:
    for truths in (0, 2):
        match = match_densepose(
            np.zeros((3, truths)), np.ones(truths, bool), np.zeros(truths, bool), np.zeros((3, truths))
        )
        assert match.ignored.all()
        assert match.truths == 0


# ---- average precision -----------------------------------------------------------------------------------------------


def made_up_ranking(rng: np.random.Generator, pictures: int = 12) -> tuple[list[np.ndarray], list[Match]]:
    scores, matches = [], []
    for _ in range(pictures):
        people, truths = rng.integers(0, 6), int(rng.integers(0, 5))
        scores.append(np.sort(rng.random(people).astype(np.float32))[::-1])
        match = match_best(rng.random((people, truths)) ** 0.4)
        ignored = np.repeat(rng.random((1, people)) < 0.2, 10, axis=0)
        if rng.random() < 0.2:  # COCO's own evaluator ignores some at some thresholds
            ignored[5:] = False
        matches.append(Match(match.right, ignored, truths))
    return scores, matches


def plain_statistics(scores: list[np.ndarray], matches: list[Match]) -> list[float]:
    """With the reference's loops."""
    total = sum(match.truths for match in matches)
    curves = []
    for t in range(10):
        rows = [
            (float(score), bool(match.right[t, n]))
            for each, match in zip(scores, matches, strict=True)
            for n, score in enumerate(each)
            if not match.ignored[t, n]
        ]
        curves.append(reference._precision_and_recall(rows, total))
    return [sum(p for p, _ in curves) / 10, curves[0][0], curves[5][0], sum(r for _, r in curves) / 10]


def test_average_precision_against_the_reference() -> None:
    for seed in range(20):
        scores, matches = made_up_ranking(np.random.default_rng(seed))
        numbers = Ranking.of(scores, matches).statistics()
        np.testing.assert_allclose(numbers, [plain_statistics(scores, matches)], atol=1e-12)


def test_a_weight_is_as_good_as_a_copy() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores, matches = made_up_ranking(rng)
        weights = rng.multinomial(12, np.full(12, 1 / 12), size=3)
        numbers = Ranking.of(scores, matches).statistics(weights)
        for row, weight in zip(numbers, weights, strict=True):
            copies = np.repeat(np.arange(12), weight)
            expected = plain_statistics([scores[i] for i in copies], [matches[i] for i in copies])
            np.testing.assert_allclose(row, expected, atol=1e-12)


def test_nobody_to_be_found_is_no_number() -> None:
    nobody = Match(np.zeros((10, 1), bool), np.zeros((10, 1), bool), 0)
    assert np.isnan(Ranking.of([np.ones(1)], [nobody]).statistics()).all()
    missed = Match(np.zeros((10, 0), bool), np.zeros((10, 0), bool), 3)
    assert Ranking.of([np.zeros(0)], [missed]).statistics().tolist() == [[0, 0, 0, 0]]


def test_the_bootstrap_is_paired_and_seeded() -> None:
    rng = np.random.default_rng(3)
    scores, matches = made_up_ranking(rng, 40)
    ranking = Ranking.of(scores, matches)
    spread = paired_bootstrap({"box": ranking}, {"box": ranking}, 50)
    assert not spread["box"].any()  # the same engine on the same draw
    worse = Ranking(ranking.picture, ranking.right & (ranking.picture != 0), ranking.ignored, ranking.truths)
    first, second = (paired_bootstrap({"box": ranking}, {"box": worse}, 200, seed)["box"] for seed in (0, 0))
    np.testing.assert_array_equal(first, second)
    assert first[:, 0].max() <= 0
    undrawn = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=200)[:, 0] == 0
    assert not first[undrawn].any()  # without the picture that differs, nothing does
    with pytest.raises(ValueError, match="not of the same pictures"):
        paired_bootstrap({"box": ranking}, {"box": Ranking.of(scores[1:], matches[1:])})


def test_boxes_go_through_the_coco_evaluator() -> None:
    rng = np.random.default_rng(5)
    made = [scenes.made_up_picture(rng, people) for people in (2, 1, 0, 3, 2, 2)]
    pictures = [
        picture(*(person(tuple(a["bbox"]), id=n) for n, a in enumerate(annotations)), id=i)
        for i, (annotations, _) in enumerate(made)
    ]
    people = [scenes.result(found) for _, found in made]
    boxes, scores = [boxes_xywh(one) for one in people], [one.scores for one in people]
    numbers, matches = score_boxes(pictures, boxes, scores, 20)
    ours = [
        match_best(box_iou(box, np.array([a.box for a in one.annotations]).reshape(-1, 4)))
        for box, one in zip(boxes, pictures, strict=True)
    ]
    np.testing.assert_allclose(numbers, plain_statistics(scores, ours), atol=1e-12)
    np.testing.assert_allclose(numbers, Ranking.of(scores, matches).statistics()[0], atol=1e-12)
    assert 0.05 < numbers[0] < 0.95
    # A crowd is ignored, and so is who is found in it; nobody found is 0, nobody annotated no number.
    crowd = picture(person((10, 10, 20, 20)), person((0, 0, 8, 8), crowd=True))
    inside = np.array([[0, 0, 4, 4], [10, 10, 20, 20], [1, 1, 4, 4]], np.float64)
    assert score_boxes([crowd], [inside], [np.array([0.9, 0.8, 0.7])], 20)[0].tolist() == [1, 1, 1, 1]
    assert score_boxes([crowd], [inside[:0]], [np.zeros(0)], 20)[0].tolist() == [0, 0, 0, 0]
    assert np.isnan(score_boxes([picture()], [inside[:0]], [np.zeros(0)], 20)[0]).all()


# ---- drift -----------------------------------------------------------------------------------------------------------


def test_drift_by_hand() -> None:
    first = scenes.result([found([10, 10, 20, 20], 3, 0.5, 0.5, score=0.9)], 40, 50)
    second = scenes.result(
        [found([12, 10, 22, 20], 3, 0.6, 0.5, score=0.4), found([30, 30, 40, 40], 3, score=0.8)], 40, 50
    )
    moved = drift([first, scenes.result([])], [second, scenes.result([])])
    assert (moved.matched, moved.only_reference, moved.only_other) == (1, 0, 1)
    assert moved.box_iou == pytest.approx(80 / 120)
    assert moved.label_agreement == pytest.approx(0.8)  # of the first's patch, two columns are outside of the second's
    assert moved.mask_iou == pytest.approx(80 / 120)
    assert moved.uv_error == pytest.approx(0.05, rel=1e-5)  # U by 0.1, V by 0
    assert moved.score_difference == pytest.approx(0.5)
    back = drift([second], [first])
    assert (back.matched, back.only_reference, back.only_other) == (1, 1, 0)


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
    distance = np.linalg.norm(points[:, None] - points[None], axis=2).astype(np.float16)
    np.savez(tmp_path / "surface.npz", grid=rng.integers(0, 50, (24, 8, 8)).astype(np.uint16), distance=distance)
    first = [scenes.result(people) for _, people in made]
    return data, first, [best_people(one, 1) for one in first]


def test_evaluate_engine(scene: Any) -> None:
    data, results, _ = scene
    dataset = Dataset.load(data)
    gps = gps_definition("simple", surface=data.parent / "surface.npz")
    engine: Any = FakeEngine(results)
    steps: list[int] = []
    evaluation = evaluate_engine(engine, dataset, gps, score_threshold=0.1, advance=lambda: steps.append(1))
    assert engine.settings[0] == {"score_threshold": 0.1, "max_people": 7}  # what the graph has room for
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
    gps, dataset = simple_gps(), Dataset(Path("x.json"), (picture(),))
    with pytest.raises(DensePoseEngineError, match=r"no prediction .*0.npz for 0.png"):
        evaluate(saved, dataset, gps)


def test_best_people_are_sorted() -> None:
    one = scenes.result([found([0, 0, 9, 9], score=0.3), found([9, 9, 20, 20], score=0.9)])
    assert best_people(one, 5).scores.tolist() == [np.float32(0.9), np.float32(0.3)]
    assert best_people(one, 1).boxes.tolist() == [[9, 9, 20, 20]]
    assert best_people(scenes.result([]), 5) == scenes.result([])


def test_importing_the_package_or_its_command_does_not_import_pycocotools() -> None:
    code = "import sys, densepose_engine.cli, densepose_engine.evaluate; sys.exit('pycocotools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
