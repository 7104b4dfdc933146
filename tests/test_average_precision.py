"""Who is matched to whom, average precision of it, the bootstrap, and boxes through the COCO evaluator."""

from __future__ import annotations

import annotated_scenes as scenes
import evaluation_reference as reference
import numpy as np
import pytest
from annotated_scenes import person, picture

from densepose_engine.evaluation.average_precision import (
    Match,
    Ranking,
    match_best,
    match_densepose,
    paired_bootstrap,
)
from densepose_engine.evaluation.boxes import box_iou, boxes_xywh, score_boxes

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
    assert score_boxes([crowd], [inside], [np.array([0.9, 0.8, 0.7])], 20)[0].tolist() == pytest.approx([1] * 4)
    assert score_boxes([crowd], [inside[:0]], [np.zeros(0)], 20)[0].tolist() == [0, 0, 0, 0]
    assert np.isnan(score_boxes([picture()], [inside[:0]], [np.zeros(0)], 20)[0]).all()
