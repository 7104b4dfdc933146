"""MultilevelRoiAlign against the float64 reference, OpenVINO's own ROIAlign, torch's grid_sample, and by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import reference
from tolerances import TOLERANCES, assert_close

from densepose_engine import _core

pytestmark = pytest.mark.usefixtures("kernels")

OP = "MultilevelRoiAlign"
STRIDES = [4, 8, 16, 32]
PICTURE = (192, 256)  # height, width

FLOAT_TYPES = ["float32", "float16"]
QUANTISED_TYPES = ["uint8", "int8"]
ZERO_POINT = {"float32": 0, "float16": 0, "uint8": 113, "int8": -9}


def make_levels(
    rng: np.random.Generator,
    channels: int,
    dtype: str,
    picture: tuple[int, int] = PICTURE,
    strides: Sequence[int] = STRIDES,
) -> list[np.ndarray]:
    """A random NCHW pyramid."""
    shapes = [(1, channels, -(-picture[0] // s), -(-picture[1] // s)) for s in strides]
    if dtype in FLOAT_TYPES:
        return [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    limits = np.iinfo(dtype)
    return [rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True) for shape in shapes]


def make_boxes(rng: np.random.Generator, count: int, picture: tuple[int, int] = PICTURE) -> np.ndarray:
    """Boxes of all sizes; some reach beyond the picture, some lie outside of it."""
    size = np.exp(rng.uniform(np.log(3), np.log(400), (count, 2)))
    center = rng.uniform(-0.1, 1.1, (count, 2)) * picture[::-1]
    return np.concatenate([center - size / 2, center + size / 2], axis=1).astype(np.float32)


def pool(
    levels: Sequence[np.ndarray],
    boxes: np.ndarray,
    *,
    layout: str = "NCHW",
    count: int | None = None,
    threads: int = 1,
    strides: Sequence[int] = STRIDES,
    pooled_size: int = 7,
    **attributes: Any,
) -> np.ndarray:
    """Runs the op on NCHW levels in either layout, with guarded outputs; the result is NCHW."""
    nhwc = layout == "NHWC"
    op = _core.ops.MultilevelRoiAlign(strides=list(strides), pooled_size=pooled_size, layout=layout, **attributes)
    inputs = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if nhwc else x for x in levels]
    rows = np.array([len(boxes) if count is None else count], np.int32)
    (output,) = op(*inputs, boxes, rows, guard=True, threads=threads)
    return np.asarray(output.transpose(0, 3, 1, 2) if nhwc else output)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", FLOAT_TYPES + QUANTISED_TYPES)
@pytest.mark.parametrize(
    ("aligned", "sampling_ratio", "pooled_size", "channels"),
    [(1, 0, 7, 64), (0, 0, 7, 16), (1, 2, 7, 19), (0, 2, 14, 3), (1, 0, 32, 72), (1, 1, 1, 1), (0, 5, 3, 83)],
)
def test_reference(layout: str, dtype: str, aligned: int, sampling_ratio: int, pooled_size: int, channels: int) -> None:
    rng = np.random.default_rng([aligned, sampling_ratio, pooled_size, channels])
    levels, boxes = make_levels(rng, channels, dtype), make_boxes(rng, 24)
    attributes = {
        "pooled_size": pooled_size,
        "aligned": aligned,
        "sampling_ratio": sampling_ratio,
        "zero_point": ZERO_POINT[dtype],
    }
    actual = pool(levels, boxes, layout=layout, **attributes)
    expected = reference.multilevel_roi_align(levels, boxes, strides=STRIDES, **attributes)
    assert actual.dtype == dtype
    assert_close(actual, expected, OP, dtype)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_level_is_used(layout: str) -> None:
    levels = [np.full((1, 8, 200 // s, 304 // s), i + 1, np.float32) for i, s in enumerate(STRIDES)]
    sides = np.array([20, 111, 113, 223, 225, 447, 449, 2000], np.float32)
    boxes = np.stack([100 - sides / 2, 100 - sides / 2, 100 + sides / 2, 100 + sides / 2], axis=1)
    pooled = pool(levels, boxes, layout=layout, pooled_size=3, sampling_ratio=1)
    assert pooled[:, 0, 1, 1].tolist() == pytest.approx([1, 1, 2, 2, 3, 3, 4, 4])


@pytest.mark.parametrize("seed", range(6))
def test_random_attributes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, count = int(rng.integers(0, 3)), int(rng.integers(1, 5))
    strides = [2**i for i in range(first, first + count)]
    picture = (int(rng.integers(1, 120)), int(rng.integers(1, 120)))
    levels = make_levels(rng, int(rng.integers(1, 40)), "float32", picture, strides)
    boxes = make_boxes(rng, 15, picture)
    attributes = {
        "strides": strides,
        "pooled_size": int(rng.integers(1, 12)),
        "aligned": int(rng.integers(0, 2)),
        "sampling_ratio": int(rng.integers(0, 4)),
        "canonical_box_size": int(rng.integers(20, 300)),
        "canonical_level": int(rng.integers(0, 6)),
    }
    expected = reference.multilevel_roi_align(levels, boxes, **attributes)
    for layout in ("NCHW", "NHWC"):
        assert_close(pool(levels, boxes, layout=layout, **attributes), expected, OP)


@pytest.mark.parametrize(("aligned", "mode"), [(1, "half_pixel_for_nn"), (0, "asymmetric")])
def test_openvino_agrees(aligned: int, mode: str, openvino_roi_align: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(5)
    features = rng.standard_normal((1, 24, 30, 41)).astype(np.float32)
    boxes = make_boxes(rng, 40, (240, 328))
    inside = ((boxes[:, :2] > -8) & (boxes[:, 2:] < [340, 250])).all(axis=1)
    boxes = boxes[inside]
    for ratio in (0, 2):
        theirs = openvino_roi_align(features, boxes, 7, ratio, 1 / 8, mode)
        for layout in ("NCHW", "NHWC"):
            ours = pool([features], boxes, strides=[8], layout=layout, aligned=aligned, sampling_ratio=ratio)
            assert_close(ours, theirs, OP)


@pytest.fixture
def openvino_roi_align() -> Callable[..., np.ndarray]:
    """OpenVINO's own operator, in float32, as a function."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset9

    def run(features: np.ndarray, boxes: np.ndarray, pooled: int, ratio: int, scale: float, mode: str) -> np.ndarray:
        data = opset9.parameter(features.shape, np.float32)
        rois = opset9.parameter(boxes.shape, np.float32)
        batch = opset9.constant(np.zeros(len(boxes), np.int32))
        node = opset9.roi_align(data, rois, batch, pooled, pooled, ratio, scale, "avg", mode)
        model = openvino.Model([node], [data, rois])
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.asarray(compiled([features, boxes])[0])

    return run


@pytest.mark.parametrize("aligned", [0, 1])
def test_grid_sample_agrees(aligned: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(11)
    features = rng.standard_normal((1, 5, 21, 17)).astype(np.float32)
    pooled, ratio = 4, 3
    boxes = make_boxes(rng, 30, (84, 68))
    for box, ours in zip(
        boxes,
        pool([features], boxes, strides=[4], pooled_size=pooled, aligned=aligned, sampling_ratio=ratio),
        strict=True,
    ):
        x0, y0, x1, y1 = box.astype(np.float64) / 4 - (0.5 if aligned else 0)
        sides = [max(x1 - x0, 0 if aligned else 1), max(y1 - y0, 0 if aligned else 1)]
        parts = (np.arange(pooled * ratio) + 0.5) / (pooled * ratio)
        y, x = np.meshgrid(y0 + parts * sides[1], x0 + parts * sides[0], indexing="ij")
        inside = torch.from_numpy((y >= -1) & (y <= 21) & (x >= -1) & (x <= 17))
        grid = torch.from_numpy(np.stack([(2 * x + 1) / 17 - 1, (2 * y + 1) / 21 - 1], axis=-1))
        samples = torch.nn.functional.grid_sample(
            torch.from_numpy(features).double(), grid[None], padding_mode="border", align_corners=False
        )
        expected = torch.nn.functional.avg_pool2d(samples * inside, ratio)[0].numpy()
        assert_close(ours, expected, OP)


def test_by_hand() -> None:
    # A level that counts 0, 1, 2, ... along x: bilinear samples of it are their own coordinates.
    ramp = np.tile(np.arange(16, dtype=np.float32), (1, 1, 16, 1))
    box = np.array([[4, 4, 12, 12]], np.float32)
    # Bins of 4 pixels; their samples average to the bins' centers, 6 and 10, less half a pixel if aligned.
    assert pool([ramp], box, strides=[1], pooled_size=2, aligned=1)[0, 0].tolist() == [[5.5, 9.5], [5.5, 9.5]]
    assert pool([ramp], box, strides=[1], pooled_size=2, aligned=0)[0, 0].tolist() == [[6, 10], [6, 10]]
    # aligned=False grows boxes to one pixel: its only sample lies half a pixel from the corner.
    point = np.array([[3, 3, 3, 3]], np.float32)
    assert pool([ramp], point, strides=[1], pooled_size=1, aligned=0)[0, 0, 0, 0] == 3.5
    assert pool([ramp], point, strides=[1], pooled_size=1, aligned=1)[0, 0, 0, 0] == 0  # no samples at all


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", QUANTISED_TYPES)
def test_quantized_rounding(layout: str, dtype: str) -> None:
    """Halves go to the even neighbor, and zero_point stands for what lies outside."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    pairs = [(low, low + 1), (low + 1, low + 2), (high - 1, high), (high - 2, high - 1), (high, high), (low, low)]
    level = np.array([[p] for p in pairs], dtype).reshape(1, len(pairs), 1, 2)
    between = np.array([[0.5, 0, 1.5, 1]], np.float32)  # its one sample lies between the two pixels
    pooled = pool([level], between, strides=[1], pooled_size=1, layout=layout)[0, :, 0, 0]
    assert pooled.tolist() == np.rint([(a + b) / 2 for a, b in pairs]).tolist()
    outside = np.array([[-40, -40, -30, -30], [-3, 0, 1, 1]], np.float32)
    pooled = pool([level], outside, strides=[1], pooled_size=1, layout=layout, zero_point=7)
    assert (pooled[0] == 7).all()
    # Samples at x = -3, -2, -1 and 0 of one row: two read zero_point, two the first pixel.
    assert pooled[1, :, 0, 0].tolist() == np.rint([(2 * 7 + 2 * a) / 4 for a, _ in pairs]).tolist()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", FLOAT_TYPES + QUANTISED_TYPES)
def test_count(layout: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    levels, boxes = make_levels(rng, 20, dtype), make_boxes(rng, 5)
    everything = pool(levels, boxes, layout=layout, zero_point=ZERO_POINT[dtype])
    for count, valid in [(5, 5), (9, 5), (3, 3), (0, 0), (-4, 0)]:
        some = pool(levels, boxes, layout=layout, zero_point=ZERO_POINT[dtype], count=count)
        assert np.array_equal(some[:valid], everything[:valid])
        assert (some[valid:] == ZERO_POINT[dtype]).all()
    assert pool(levels, boxes[:0], layout=layout, zero_point=ZERO_POINT[dtype]).shape == (0, 20, 7, 7)


HOSTILE_BOXES = {
    "NaN": [np.nan, 0, 50, 50],
    "all NaN": [np.nan] * 4,
    "infinite": [-np.inf, -np.inf, np.inf, np.inf],
    "half infinite": [10, 10, np.inf, 60],
    "huge": [-1e30, -1e30, 1e30, 1e30],
    "overflowing": [-3e38, -3e38, 3e38, 3e38],
    "wide": [0, 10, 1e30, 20],
    "far off": [1e9, 1e9, 1e9 + 200, 1e9 + 200],
    "one side inverted": [50, 10, 20, 60],
}


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("box", HOSTILE_BOXES.values(), ids=HOSTILE_BOXES.keys())
def test_hostile_boxes_read_nothing(layout: str, aligned: int, sampling_ratio: int, box: list[float]) -> None:
    levels = [np.ones((1, 3, 192 // s, 256 // s), np.float32) for s in STRIDES]
    boxes = np.array([box, [10, 10, 100, 100]], np.float32)
    pooled = pool(levels, boxes, layout=layout, aligned=aligned, sampling_ratio=sampling_ratio)
    assert (pooled[0] == 0).all()
    assert pooled[1] == pytest.approx(1)  # and harm nobody


def test_larger_than_the_picture() -> None:
    """A box 10,000 times the picture is pooled in no time, to what the definition says."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((1, 3, 12, 9)).astype(np.float32)
    boxes = np.array([[-700, -500.3, 900.7, 800], [-40_000.25, -30_000, 50_000, 60_000.5]], np.float32)
    pooled = pool([features], boxes, strides=[1], pooled_size=3)
    assert_close(pooled, reference.multilevel_roi_align([features], boxes, strides=[1], pooled_size=3), OP)
    assert np.abs(pooled[0]).max() > 0
    enormous = np.array([[-2e9, -2e9, 2e9, 2e9]], np.float32)
    assert np.abs(pool([features], enormous, strides=[1], pooled_size=3)).max() < 1e-9


def test_inverted_boxes() -> None:
    """With fixed sampling an inverted box mirrors its samples; adaptive sampling finds no samples in it."""
    rng = np.random.default_rng(4)
    features = rng.standard_normal((1, 6, 7, 5)).astype(np.float32)
    upright = np.array([[0.5, 1.25, 4.5, 6.5]], np.float32)
    inverted = upright[:, [2, 3, 0, 1]]
    for ratio in (1, 3, 16):
        attributes = {"strides": [1], "pooled_size": 3, "sampling_ratio": ratio}
        mirrored = pool([features], upright, **attributes)[:, :, ::-1, ::-1]
        assert_close(pool([features], inverted, **attributes), mirrored.astype(np.float64), OP)
    assert (pool([features], inverted, strides=[1], pooled_size=3) == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_small_levels(size: tuple[int, int], layout: str) -> None:
    rng = np.random.default_rng(8)
    features = rng.standard_normal((1, 17, *size)).astype(np.float32)
    boxes = make_boxes(rng, 20, (4 * size[0], 4 * size[1]))
    for aligned in (0, 1):
        attributes = {"strides": [4], "pooled_size": 5, "aligned": aligned}
        expected = reference.multilevel_roi_align([features], boxes, **attributes)
        assert_close(pool([features], boxes, layout=layout, **attributes), expected, OP)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_threads_and_calls_agree(layout: str, dtype: str) -> None:
    rng = np.random.default_rng(6)
    levels, boxes = make_levels(rng, 33, dtype), make_boxes(rng, 150)
    first = pool(levels, boxes, layout=layout)
    for threads in (1, 2, 3):
        assert np.array_equal(first, pool(levels, boxes, layout=layout, threads=threads))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"strides": []}, "strides"),
        ({"strides": [4, 16]}, "twice"),
        ({"strides": [3]}, "powers of two"),
        ({"strides": [4], "pooled_size": 0}, "pooled_size"),
        ({"strides": [4], "sampling_ratio": -1}, "sampling_ratio"),
        ({"strides": [4], "aligned": 2}, "aligned"),
        ({"strides": [4], "canonical_box_size": 0}, "canonical_box_size"),
        ({"strides": [4], "zero_point": 300}, "zero_point"),
        ({"strides": [4], "layout": "CHWN"}, "layout"),
    ],
)
def test_wrong_attributes(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.ops.MultilevelRoiAlign(**attributes)


def test_wrong_inputs() -> None:
    op = _core.ops.MultilevelRoiAlign(strides=[4, 8], zero_point=0)
    level_0, level_1 = np.zeros((1, 8, 16, 16), np.float32), np.zeros((1, 8, 8, 8), np.float32)
    boxes, count = np.zeros((3, 4), np.float32), np.array([3], np.int32)
    op(level_0, level_1, boxes, count, guard=True)
    wrong: list[tuple[str, tuple[np.ndarray, ...]]] = [
        ("inputs", (level_0, level_1, boxes)),
        ("level_1", (level_0, level_1.astype(np.float16), boxes, count)),
        ("level_1", (level_0, level_1[:, :4].copy(), boxes, count)),
        ("level_0", (level_0[0], level_1, boxes, count)),
        ("level_0", (level_0.astype(np.int32), level_1, boxes, count)),
        ("level_0", (np.zeros((1, 8, 0, 16), np.float32), level_1, boxes, count)),
        ("boxes", (level_0, level_1, boxes.astype(np.float16), count)),
        ("boxes", (level_0, level_1, boxes[:, :3].copy(), count)),
        ("count", (level_0, level_1, boxes, count.astype(np.int64))),
    ]
    for message, inputs in wrong:
        with pytest.raises(ValueError, match=message):
            op(*inputs)
    quantized = _core.ops.MultilevelRoiAlign(strides=[4, 8], zero_point=200)
    with pytest.raises(ValueError, match="zero_point"):
        quantized(level_0.astype(np.int8), level_1.astype(np.int8), boxes, count)


def test_table_has_every_type() -> None:
    assert {dtype for op, dtype, _ in TOLERANCES if op == OP} == set(FLOAT_TYPES + QUANTISED_TYPES)
