"""Ring (a): the CUDA kernels' code on the CPU, against the CPU kernels. (tests/test_<op>.py compare both with numpy.)

No kernel is executed on a GPU here: what is proved is the arithmetic, the indices, the size of the workspace, and that
results do not depend on the order in which threads come (orders 1: first to last, 2: last to first, 3 ..: shuffled).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from densepose_engine import _core

ORDERS = (1, 2, 3, 4)
ROI = {"strides": [4, 8, 16, 32], "pooled_size": 7}


def test_the_emulated_ops_are_not_the_core(emulated_ops: ModuleType) -> None:
    assert sorted(emulated_ops.__all__) == sorted(_core.ops.__all__)
    for name in emulated_ops.__all__:
        assert getattr(emulated_ops, name) is not getattr(_core.ops, name)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("quantized_scores", [False, True])
def test_proposals_are_those_of_the_cpu(emulated_ops: ModuleType, order: int, quantized_scores: bool) -> None:
    """Also where many scores are equal and the radix selection has to look at the indices."""
    rng = np.random.default_rng(order)
    maps = [rng.standard_normal((1, 15, side, side + 3), dtype=np.float32) for side in (64, 32, 16, 8, 4)]
    if quantized_scores:
        for level in maps:
            level[:, :3] = np.rint(level[:, :3])
    anchors = [x for s in (32, 64, 128, 256, 512) for a in (0.5, 1, 2) for x in (-s * a, -s / a, s * a, s / a)]
    attributes = {"strides": [4, 8, 16, 32, 64], "anchors": anchors, "pre_nms_topk": 300, "capacity": 200}
    inputs = [*maps, np.array([250, 260, 500, 520], np.int32), np.array([150], np.int32)]
    expected = _core.ops.GenerateProposals(**attributes)(*inputs)
    actual = emulated_ops.GenerateProposals(**attributes)(*inputs, guard=True, threads=order)
    assert 50 < expected[2][0] <= 150
    np.testing.assert_array_equal(actual[2], expected[2])
    np.testing.assert_array_equal(actual[1], expected[1])
    np.testing.assert_array_equal(actual[0], expected[0])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("rows", "classes", "moves"),
    [*((rows, 1, 1) for rows in (0, 1, 63, 64, 65, 500)), (0, 9, 9), (1, 9, 9), (65, 9, 1), (130, 9, 9), (20, 70, 70)],
)
def test_detections_are_those_of_the_cpu(
    emulated_ops: ModuleType, order: int, rows: int, classes: int, moves: int
) -> None:
    rng = np.random.default_rng(rows)
    corners = rng.uniform(0, 300, (rows, 2))
    inputs = [
        np.rint(rng.normal(0, 3, (rows, classes + 1))).astype(np.float32),  # many scores are equal
        rng.normal(0, 0.3, (rows, 4 * moves)).astype(np.float32),
        np.concatenate([corners, corners + rng.uniform(1, 150, (rows, 2))], 1).astype(np.float32),
        np.array([rows], np.int32),
        np.array([300, 400, 30, 800], np.int32),
        np.array([0.1], np.float32),
        np.array([0.4], np.float32),
        np.array([70], np.int32),
    ]
    expected = _core.ops.BoxDetections(capacity=80)(*inputs)
    actual = emulated_ops.BoxDetections(capacity=80)(*inputs, guard=True, threads=order)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


def test_every_half_survives(emulated_ops: ModuleType) -> None:
    """Each of the 65,536 float16 values, read and written by the pooling of a box that lies on one pixel."""
    values = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(1, -1, 1, 1)
    op = emulated_ops.MultilevelRoiAlign(strides=[1], pooled_size=1, sampling_ratio=1)
    with np.errstate(invalid="ignore"):
        (pooled,) = op(values, np.array([[0, 0, 1, 1]], np.float32), np.array([1], np.int32))
    # 1 * x + 0 * x: what is not finite becomes NaN, as in the CPU's kernels.
    finite = np.isfinite(values.ravel())
    np.testing.assert_array_equal(pooled.ravel()[finite], values.ravel()[finite])
    assert not np.isfinite(pooled.ravel()[~finite]).any()


def test_halves_round_half_to_even(emulated_ops: ModuleType) -> None:
    """Means of neighboring halves lie exactly between two: numpy rounds them to even, and so must the kernel."""
    rng = np.random.default_rng(1)
    low = rng.integers(0, 0x7BFE, 4096).astype(np.uint16)
    pair = np.stack([low, low + 1]).view(np.float16)
    levels = np.ascontiguousarray(pair.T.reshape(1, -1, 1, 2))
    op = emulated_ops.MultilevelRoiAlign(strides=[1], pooled_size=1, sampling_ratio=1)
    (pooled,) = op(levels, np.array([[0.5, 0, 1.5, 1]], np.float32), np.array([1], np.int32))
    expected = (pair.astype(np.float32).sum(0) / 2).astype(np.float16)
    np.testing.assert_array_equal(pooled.ravel(), expected)


@pytest.mark.parametrize(
    ("op", "attributes", "shapes", "message"),
    [
        ("MultilevelRoiAlign", {"strides": [2**i for i in range(9)]}, [(1, 1, 2, 2)] * 9, "at most 8 levels"),
        ("GenerateProposals", {"strides": [4], "anchors": [0.0, 0, 1, 1] * 129}, [(1, 645, 2, 2)], "128 anchors"),
    ],
)
def test_what_exceeds_the_kernels_is_refused(
    emulated_ops: ModuleType, op: str, attributes: dict[str, Any], shapes: list[tuple[int, ...]], message: str
) -> None:
    inputs = [np.zeros(shape, np.float32) for shape in shapes]
    if op == "MultilevelRoiAlign":
        inputs += [np.zeros((1, 4), np.float32), np.array([1], np.int32)]
    else:
        inputs += [np.array([8, 8, 8, 8], np.int32), np.array([1], np.int32)]
    with pytest.raises(ValueError, match=message):
        getattr(emulated_ops, op)(**attributes)(*inputs)
    getattr(_core.ops, op)(**attributes)(*inputs)


@pytest.mark.parametrize(
    ("attributes", "shapes"),
    [
        ({}, [(3, c, 28, 28) for c in (2, 25, 25, 25)]),
        ({"channels": [2, 25, 25, 25, 1], "layout": "NHWC"}, [(3, 27, 27, 78)]),
        ({"channels": [2, 25, 25, 25, 25], "layout": "NHWC", "block": 2}, [(3, 14, 14, 408)]),
    ],
)
def test_charts_are_those_of_the_cpu(
    emulated_ops: ModuleType, attributes: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    rng = np.random.default_rng(5)
    maps = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    boxes = np.array([[0, 0, 30.5, 40.2], [5, 5, 5, 5], [-3, 2, 100, 9]], np.float32)
    expected = _core.ops.ChartResult(**attributes)(*maps, boxes)
    for order in ORDERS:
        labels, uv, offsets, values = emulated_ops.ChartResult(**attributes)(*maps, boxes, guard=True, threads=order)
        np.testing.assert_array_equal(offsets, expected[2])
        assert (labels != expected[0]).mean() < 1e-3  # sums that are equal but for float32's rounding
        for got, want in ((uv, expected[1]), (values, expected[3])):
            assert (np.abs(got - want) > 1e-4).sum() <= 1e-3 * want.size
