"""Overlays: right colours in the right places, nothing elsewhere, and lines where the levels are."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import visualize_reference
from PIL import Image

from densepose_engine import DensePoseResult
from densepose_engine.decoders.charts import PART_COLORS
from densepose_engine.outputs import blending
from densepose_engine.visualize import draw, people_above

GREY = np.full((120, 160, 3), 128, np.uint8)

LAYERS = ("parts", "u", "v", "contours", "boxes")


def square(scores: tuple[float, ...] = (0.9,), parts: tuple[int, ...] = (2,)) -> DensePoseResult:
    """People whose patches are 80 x 80, at rows and columns 20, 40, ...; U grows to the right and V downwards."""
    count = len(scores)
    corners = 20 + 20 * np.arange(count, dtype=np.float32)
    boxes = np.stack([corners, corners, corners + 80, corners + 80], axis=1)
    ramp = np.broadcast_to(np.linspace(0, 1, 80, dtype=np.float32), (80, 80))
    labels = [np.full((80, 80), part, np.uint8) for part in parts]
    uv = [np.stack([ramp, ramp.T])] * count
    return DensePoseResult(boxes, np.array(scores, np.float32), labels, uv, (120, 160))


def changed(image: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return (image != drawn).any(axis=-1)


@pytest.mark.parametrize("what", LAYERS)
def test_a_new_picture_that_is_drawn_on_where_people_are(what: str) -> None:
    before = GREY.copy()
    drawn = draw(GREY, square(), what)
    assert drawn.dtype == np.uint8 and drawn.shape == GREY.shape and drawn is not GREY
    assert np.array_equal(GREY, before)
    touched = changed(GREY, drawn)
    assert touched[20:100, 20:100].any()
    touched[20:100, 20:100] = False
    if what == "boxes":
        touched[:20, 20:60] = False  # the score above the box
    assert not touched.any()


@pytest.mark.parametrize("what", LAYERS)
def test_nobody_and_no_opacity_change_nothing(what: str) -> None:
    nobody = DensePoseResult(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (), (), (120, 160))
    assert np.array_equal(draw(GREY, nobody, what), GREY)
    assert np.array_equal(draw(GREY, square(), what, alpha=0), GREY)


def test_parts_have_their_colours() -> None:
    assert len(np.unique(PART_COLORS, axis=0)) == len(PART_COLORS) == 24
    for part in (1, 13, 24):
        drawn = draw(GREY, square(parts=(part,)), "parts", alpha=1)
        assert (drawn[20:100, 20:100] == PART_COLORS[part - 1]).all()
    half = draw(GREY, square(parts=(2,)), "parts", alpha=0.5)
    assert np.abs(half[50, 50] - (PART_COLORS[1] / 2 + 64)).max() <= 0.5


def test_the_higher_score_is_on_top_and_opacity_does_not_add_up() -> None:
    for scores, part in (((0.9, 0.6), 5), ((0.6, 0.9), 9)):
        drawn = draw(GREY, square(scores, (5, 9)), "parts", alpha=0.5)
        alone = draw(GREY, square((0.9,), (part,)), "parts", alpha=0.5)[50, 50]
        assert (drawn[40:100, 40:100] == alone).all()


@pytest.mark.parametrize(("what", "axis"), [("u", 1), ("v", 0)])
def test_coordinates_run_from_dark_blue_to_yellow(what: str, axis: int) -> None:
    drawn = draw(GREY, square(), what, alpha=1)[20:100, 20:100].astype(int)
    first, last = drawn.take(0, axis), drawn.take(-1, axis)
    assert (first == (0x44, 0x01, 0x54)).all() and (last == (0xFD, 0xE7, 0x25)).all()
    across = drawn.take(40, 1 - axis)
    assert (np.diff(across.sum(axis=-1)) >= -6).all(), "lightness grows along the axis"
    assert (drawn == (across[None] if axis == 1 else across[:, None])).all(), "and does not change across it"


def test_contours_lie_on_the_levels() -> None:
    """On a black picture, where darkening does not show: lines of U are columns, and a flat V has none."""
    result = square()
    for flat in (0, 0.5, 1):
        result.uv[0][1] = flat
        brightness = draw(np.zeros_like(GREY), result, "contours").sum(axis=-1)[24:96, 24:96]
        check_columns(brightness)


def check_columns(brightness: np.ndarray) -> None:
    columns = np.flatnonzero(brightness.min(axis=0) > 60)
    lines = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    centres = [float(line.mean()) for line in lines]
    assert len(centres) >= 2 and all(len(line) <= 3 for line in lines), "thin lines"
    assert np.ptp(np.diff(centres)) <= 1, "evenly spaced"
    between = np.setdiff1d(np.arange(brightness.shape[1]), [c + d for c in columns for d in (-2, -1, 0, 1, 2)])
    assert brightness[:, between].max() == 0, "and nothing in between"


def test_contours_bear_noise_specks_and_nan() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 25, (80, 80)).astype(np.uint8)
    uv = rng.random((2, 80, 80), np.float32)
    uv[:, ::9] = np.nan
    result = DensePoseResult(square().boxes, np.ones(1, np.float32), [labels], [uv], (120, 160))
    for what in LAYERS:
        with np.errstate(invalid="ignore"):
            assert draw(GREY, result, what).shape == GREY.shape


def test_boxes_are_outlines_with_a_label() -> None:
    touched = changed(GREY, draw(GREY, square(), "boxes"))
    assert touched[20, 20:100].all() and touched[99, 20:100].all()
    assert touched[20:100, 20].all() and touched[20:100, 99].all()
    assert not touched[40:90, 40:90].any(), "empty inside"
    assert touched[:20].any(), "the label is above"


def test_lines_grow_with_the_picture() -> None:
    def width(scale: int) -> int:
        box = np.array([[20, 20, 100, 100]], np.float32) * scale
        side = 80 * scale
        people = DensePoseResult(
            box,
            np.ones(1, np.float32),
            [np.zeros((side, side), np.uint8)],
            [np.zeros((2, side, side), np.float32)],
            (120 * scale, 120 * scale),
        )
        image = np.zeros((120 * scale, 120 * scale, 3), np.uint8)
        return int(changed(image, draw(image, people, "boxes"))[60 * scale, : 60 * scale].sum())

    assert width(20) > width(10) > width(1) >= 1


def test_patches_at_and_beyond_the_edges() -> None:
    for x, y in ((-30, -30), (100, 60), (159, 119), (300, 300), (-200, 10)):
        box = np.array([[x, y, x + 80, y + 80]], np.float32)
        one = square()
        result = DensePoseResult(box, one.scores, one.labels, one.uv, (120, 160))
        for what in LAYERS:
            assert draw(GREY, result, what).shape == GREY.shape


def test_layers_are_drawn_in_the_order_given() -> None:
    both = draw(GREY, square(), ["parts", "boxes"])
    assert np.array_equal(both, draw(draw(GREY, square(), "parts"), square(), "boxes"))
    assert not np.array_equal(both, draw(GREY, square(), ["boxes", "parts"]))


def test_what_to_rgb_array_takes_can_be_drawn_on() -> None:
    expected = draw(GREY, square())
    assert np.array_equal(draw(Image.fromarray(GREY), square()), expected)
    assert np.array_equal(draw(np.asfortranarray(GREY)[::-1][::-1], square()), expected)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of parts, u, v, contours, boxes .* not 'part'"):
        draw(GREY, square(), "part")
    with pytest.raises(ValueError, match=r"120 x 100 pixels .* 120 x 160"):
        draw(GREY[:, :100], square())
    with pytest.raises(ValueError, match="alpha"):
        draw(GREY, square(), alpha=1.5)
    with pytest.raises(TypeError, match="uint8"):
        draw(GREY / 255, square())


# ---- who is drawn ----------------------------------------------------------------------------------------------------


def test_people_with_a_score_above_one_half_are_drawn() -> None:
    result = square((0.9, 0.5, 0.3), (5, 9, 14))
    assert np.array_equal(draw(GREY, result), draw(GREY, square((0.9,), (5,))))
    lower = draw(GREY, result, score_threshold=0.4)
    assert np.array_equal(lower, draw(GREY, square((0.9, 0.5), (5, 9)), score_threshold=0))
    everybody = draw(GREY, square((0.9, 0.0), (5, 9)), score_threshold=0)
    assert changed(everybody, draw(GREY, square((0.9,), (5,)))).any(), "0 draws whoever was found"
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="score_threshold must be from 0 to 1"):
            draw(GREY, result, score_threshold=wrong)


def test_people_above_keeps_what_belongs_to_them() -> None:
    one = square((0.9, 0.2, 0.6), (5, 9, 14))
    sigma = tuple(np.full((80, 80), k, np.float32) for k in range(3))
    result = DensePoseResult(one.boxes, one.scores, one.labels, one.uv, one.image_size, {"sigma_2": sigma})
    kept = people_above(result)
    assert kept.scores.tolist() == result.scores[[0, 2]].tolist()
    assert [int(labels[0, 0]) for labels in kept.labels] == [5, 14]
    assert [float(values[0, 0]) for values in kept.confidences["sigma_2"]] == [0, 2]
    assert np.array_equal(kept.boxes, result.boxes[[0, 2]]) and kept.image_size == result.image_size
    assert people_above(result, 0) is result
    assert len(people_above(result, 1)) == 0


# ---- against the plain way -------------------------------------------------------------------------------------------


def crowd(seed: int, size: tuple[int, int]) -> DensePoseResult:
    """People over each other and over the edges, in blocks of parts with smooth, noisy and missing charts."""
    rng = np.random.default_rng(seed)
    height, width = size
    boxes, labels, uv = [], [], []
    for k in range(5):
        h, w = rng.integers(1, height), rng.integers(1, width)
        x, y = rng.uniform(-w / 2, width - w / 2), rng.uniform(-h / 2, height - h / 2)
        if k < 3:  # inside, at fractions of a pixel
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        boxes.append(np.array([x, y, x + w + 0.25, y + h + 0.25], np.float32))
        h, w = (max(int(side), 1) for side in (boxes[-1][3] - boxes[-1][1], boxes[-1][2] - boxes[-1][0]))
        blocks = np.kron(rng.integers(0, 25, (4, 4)), np.ones((h // 4 + 1, w // 4 + 1)))[:h, :w].astype(np.uint8)
        planes = np.stack(np.meshgrid(np.linspace(-0.1, 1.1, w), np.linspace(0, 1, h))).astype(np.float32)
        planes += rng.normal(0, 0.02 * (k % 2), planes.shape).astype(np.float32)
        planes[:, rng.integers(0, h), : w // 2] = np.nan if k == 4 else 0.5
        labels.append(blocks)
        uv.append(planes)
    scores = np.array([0.9, 0.8, 0.8, 0.7, 0.6], np.float32)
    return DensePoseResult(np.stack(boxes), scores, labels, uv, size)


@pytest.mark.parametrize(
    ("size", "seed"), [((120, 160), 0), ((120, 160), 1), ((40, 900), 0), ((40, 900), 2), ((577, 801), 0)]
)
def test_overlays_are_those_of_the_plain_way(size: tuple[int, int], seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blending, "BAND", 20_000)  # many bands, and none that ends with a person
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    result = crowd(seed, size)
    for what in (*LAYERS, ("parts", "boxes"), ("contours", "u")):
        for alpha in (None, 0.4) if size[0] < 500 else (None,):
            with np.errstate(invalid="ignore"):
                drawn, expected = draw(image, result, what, alpha), visualize_reference.draw(image, result, what, alpha)
            worst = np.abs(drawn.astype(int) - expected).max()
            assert worst <= 1, (what, alpha, worst)


def test_a_large_picture_needs_few_canvases() -> None:
    size = (1600, 2400)
    rows, columns = 1200, 1000
    boxes = np.array([[100, 100, 100 + columns, 100 + rows], [900, 300, 900 + columns, 300 + rows]], np.float32)
    labels = [np.kron(np.arange(1, 25, dtype=np.uint8).reshape(6, 4), np.ones((200, 250), np.uint8))[:rows]] * 2
    uv = [np.stack(np.meshgrid(np.linspace(0, 9, columns) % 1, np.linspace(0, 9, rows) % 1)).astype(np.float32)] * 2
    result = DensePoseResult(boxes, np.array([0.9, 0.8], np.float32), labels, uv, size)
    image = np.zeros((*size, 3), np.uint8)
    for what in LAYERS:
        tracemalloc.start()
        draw(image, result, what)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3 * image.nbytes, f"{what}: {peak / image.nbytes:.1f} canvases"
