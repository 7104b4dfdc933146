"""GPS by both definitions.

``evaluation_reference`` is the independent witness for the DensePose definition; the simple one has hand-made cases
here and ``tests/oracle/test_evaluate_oracle.py``.
"""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import annotated_scenes as scenes
import evaluation_reference as reference
import numpy as np
import pytest
from annotated_scenes import found, person, picture, simple_gps

from densepose_engine import DensePoseEngineError
from densepose_engine.evaluation.accuracy import Dataset, Evaluator
from densepose_engine.evaluation.gps import CocoGps
from densepose_engine.evaluation.rle import RunLengths
from densepose_engine.evaluation.surfaces import SmplSurface

# ---- the simple definition -------------------------------------------------------------------------------------------


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


def test_a_box_far_beyond_the_picture_takes_no_more_memory_than_the_picture() -> None:
    masks = (RunLengths.parse(scenes.run_lengths(np.ones((256, 256), bool))),)
    everywhere = scenes.result([found([0, 0, 50, 40])], 40, 50)
    huge = picture(person((-(1 << 23), -(1 << 23), 1 << 24, 1 << 24), [(100.0, 100.0, 1, 0.0, 0.0)], masks=masks))
    tracemalloc.start()
    try:
        assert coco_gps().similarities(huge, everywhere).mask_iou[0, 0] == 1
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_many_masks_take_the_memory_of_one() -> None:
    whole = RunLengths((4000, 4000), np.array([0, 16_000_000]))
    crowd = [person((0, 0, 4000, 4000), [(0.0, 0.0, 1, 0.0, 0.0)], segmentation=whole)] * 20
    annotated = picture(*crowd, height=4000, width=4000)
    tracemalloc.start()
    try:
        similar = coco_gps().similarities(annotated, scenes.result([found([0, 0, 50, 40])], 4000, 4000))
        assert tracemalloc.get_traced_memory()[1] < 5 * 16_000_000
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(similar.mask_iou, 2000 / 16_000_000)


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
    for annotated, people in made:
        for annotation in annotated:
            if rng.random() < 0.3:  # a box without points; what is found there counts neither way
                for key in ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V", "dp_masks"):
                    del annotation[key]
                annotation["iscrowd"] = int(rng.random() < 0.5)
                x, y, w, h = annotation["bbox"]
                box = np.array([x, y, x + w, y + h], np.float32)
                people.append((box, float(np.float32(rng.random())), *scenes.made_up_patch(rng, box)))
            elif rng.random() < 0.3:
                del annotation["dp_masks"]
    scenes.write_annotations(tmp_path, [annotated for annotated, _ in made])
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
