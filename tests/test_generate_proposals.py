"""GenerateProposals against the float64 reference, a torch and OpenVINO witness, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from tolerances import assert_close

from densepose_engine import _core

pytestmark = pytest.mark.usefixtures("kernels")

OP = "GenerateProposals"
SIZES = np.array([190, 250, 400, 500], np.int32)
STRIDES = [4, 8, 16, 32, 64]
CELLS = [(-23, -11, 23, 11), (-16, -16, 16, 16), (-11, -23, 11, 23)]


def cell_anchors(levels: int) -> list[float]:
    """The anchors of detectron2's FPN configurations, roughly: three shapes, doubling in size with each level."""
    return [float(x) * 2**level for level in range(levels) for cell in CELLS for x in cell]


def make_rpn(rng: np.random.Generator, levels: int = 5, deltas: float = 0.3) -> list[np.ndarray]:
    """Random NCHW predictions; all logits differ."""
    shapes = [(-(-192 // s), -(-256 // s)) for s in STRIDES[:levels]]
    logits = rng.permutation(sum(3 * h * w for h, w in shapes)).astype(np.float32) / 1000 - 20
    predictions = []
    for h, w in shapes:
        here, logits = logits[: 3 * h * w], logits[3 * h * w :]
        moves = rng.normal(0, deltas, (1, 12, h, w)).astype(np.float32)
        predictions.append(np.concatenate([here.reshape(1, 3, h, w), moves], axis=1))
    return predictions


def propose(
    rpn: list[np.ndarray],
    max_proposals: int = 1000,
    *,
    sizes: np.ndarray = SIZES,
    layout: str = "NCHW",
    threads: int = 1,
    **attributes: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs the op with guarded outputs, checks what lies beyond the count, and returns boxes and scores up to it."""
    attributes.setdefault("strides", STRIDES[: len(rpn)])
    attributes.setdefault("anchors", cell_anchors(len(rpn)))
    op = _core.ops.GenerateProposals(layout=layout, **attributes)
    inputs = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if layout == "NHWC" else x for x in rpn]
    boxes, scores, count = op(*inputs, sizes, np.array([max_proposals], np.int32), guard=True, threads=threads)
    assert boxes.shape == (attributes.get("capacity", 1000), 4)
    assert (boxes[count[0] :] == 0).all()
    assert (scores[count[0] :] == -np.inf).all()
    return boxes[: count[0]], scores[: count[0]]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("max_proposals", "attributes"),
    [
        (1000, {}),
        (100, {"anchor_offset": 0.5, "min_size": 5.5}),
        (60, {"pre_nms_topk": 40, "nms_threshold": 0.3}),
        (1000, {"nms_threshold": 0.9, "bbox_weights": [10.0, 10.0, 5.0, 5.0]}),
    ],
)
def test_reference(layout: str, max_proposals: int, attributes: dict[str, Any]) -> None:
    rpn = make_rpn(np.random.default_rng(max_proposals))
    arguments = {"strides": STRIDES, "anchors": cell_anchors(5), "pre_nms_topk": 300} | attributes
    boxes, scores = propose(rpn, max_proposals, layout=layout, **arguments)
    expected_boxes, expected_scores = reference.generate_proposals(rpn, SIZES, max_proposals, **arguments)
    assert scores.tolist() == expected_scores.tolist()
    assert_close(boxes, expected_boxes, OP)


@pytest.mark.parametrize("seed", range(5))
def test_random_levels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = int(rng.integers(1, 6))
    rpn = make_rpn(rng, levels, deltas=float(rng.uniform(0.1, 2)))
    arguments: dict[str, Any] = {
        "strides": STRIDES[:levels],
        "anchors": cell_anchors(levels),
        "pre_nms_topk": int(rng.integers(1, 200)),
        "nms_threshold": float(rng.uniform(0.1, 0.95)),
        "min_size": float(rng.uniform(0, 10)),
        "anchor_offset": float(rng.uniform(0, 1)),
    }
    limit = int(rng.integers(1, 300))
    boxes, scores = propose(rpn, limit, **arguments)
    expected_boxes, expected_scores = reference.generate_proposals(rpn, SIZES, limit, **arguments)
    assert scores.tolist() == expected_scores.tolist()
    assert_close(boxes, expected_boxes, OP)


def test_detectron2_steps_in_torch_and_openvino() -> None:
    """The same steps by torch's operators in float32 and OpenVINO's NonMaxSuppression: bitwise but for exp()."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("openvino")
    rpn = make_rpn(np.random.default_rng(77))
    boxes, scores = propose(rpn, 200, pre_nms_topk=250)
    expected_boxes, expected_scores = [], []
    cells = torch.tensor(cell_anchors(5)).reshape(5, 1, 3, 4)
    for level, stride, cell in zip(rpn, STRIDES, cells, strict=True):
        _, _, h, w = level.shape
        logits = torch.from_numpy(level[:, :3]).permute(0, 2, 3, 1).flatten()
        deltas = torch.from_numpy(level[:, 3:]).view(1, 3, 4, h, w).permute(0, 3, 4, 1, 2).reshape(-1, 4)
        y, x = torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij")
        anchors = (torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4) + cell).reshape(-1, 4)
        top, index = logits.topk(min(250, len(logits)))
        anchors, deltas = anchors[index], deltas[index]
        sides = anchors[:, 2:] - anchors[:, :2]
        center = anchors[:, :2] + 0.5 * sides + deltas[:, :2] * sides
        sides = sides * deltas[:, 2:].clamp(max=reference.SCALE_CLAMP).exp()
        decoded = torch.cat([center - 0.5 * sides, center + 0.5 * sides], dim=1)
        decoded = torch.minimum(decoded.clamp(min=0), torch.tensor([250.0, 190.0, 250.0, 190.0]))
        nonempty = (decoded[:, 2:] > decoded[:, :2]).all(dim=1)
        decoded, top = decoded[nonempty], top[nonempty]
        kept = openvino_nms(decoded.numpy(), top.numpy(), 0.7)
        expected_boxes.append(decoded.numpy()[kept])
        expected_scores.append(top.numpy()[kept])
    order = np.argsort(-np.concatenate(expected_scores), kind="stable")[:200]
    assert scores.tolist() == np.concatenate(expected_scores)[order].tolist()
    assert_close(boxes, np.concatenate(expected_boxes)[order], OP)


def openvino_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices that OpenVINO's operator keeps, in the order of their scores."""
    import openvino
    from openvino import opset9

    inputs = [opset9.parameter([1, len(boxes), 4], np.float32), opset9.parameter([1, 1, len(boxes)], np.float32)]
    limits = [opset9.constant(np.int64(len(boxes))), opset9.constant(np.float32(threshold))]
    nms = opset9.non_max_suppression(*inputs, *limits, opset9.constant(np.float32(-1e30)), box_encoding="corner")
    model = openvino.Model([nms.output(0), nms.output(2)], inputs)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    selected = compiled([boxes[None][..., [1, 0, 3, 2]], scores[None, None]])
    return np.asarray(selected[0][: int(selected[1][0]), 2])


def single(boxes: list[list[float]], scores: list[float]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """One level of one pixel whose anchors are these boxes."""
    rpn = np.zeros((1, 5 * len(boxes), 1, 1), np.float32)
    rpn[0, : len(boxes), 0, 0] = scores
    return [rpn], {"strides": [4], "anchors": [float(x) for box in boxes for x in box]}


def test_by_hand() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [0, 0, 10, 5]]
    rpn, attributes = single(boxes, [1, 3, 2, 0])
    kept, scores = propose(rpn, 10, **attributes)  # IoU with the best, (0, 0, 10, 8), is 0.8 and 0.625
    assert kept.tolist() == [boxes[1], boxes[2], boxes[3]]
    assert scores.tolist() == [3, 2, 0]
    # An IoU of just the threshold suppresses nothing: here it is 0.5 of (0, 0, 10, 10).
    rpn, attributes = single([boxes[0], boxes[3]], [2, 1])
    assert len(propose(rpn, 10, nms_threshold=0.5, **attributes)[0]) == 2
    assert len(propose(rpn, 10, nms_threshold=0.49999997, **attributes)[0]) == 1


def test_deltas_are_clamped() -> None:
    rpn, attributes = single([[100, 100, 100.5, 100.5]], [0])
    rpn[0][0, 1:, 0, 0] = [0, 0, 90, np.log(20)]
    kept, _ = propose(rpn, 10, **attributes)
    assert kept[0] == pytest.approx([100.25 - 15.625, 95.25, 100.25 + 15.625, 105.25])


def test_levels_do_not_suppress_each_other() -> None:
    rpn, attributes = single([[10, 10, 50, 50]], [1])
    attributes["strides"], attributes["anchors"] = [4, 8], attributes["anchors"] * 2
    _, scores = propose(rpn * 2, 10, **attributes)
    assert scores.tolist() == [1, 1]


def test_equal_scores_keep_their_order() -> None:
    """Within a level the lower index comes first, then the lower level; 0 and -0 are equal."""
    boxes = [[100.0 - 10 * i, 10, 105.0 - 10 * i, 15] for i in range(9)]
    rpn, attributes = single(boxes, [0, 1, 0, -0.0, 1, 0, -1, 1, 0])
    kept, scores = propose(rpn, 10, **attributes)
    assert kept.tolist() == [boxes[i] for i in (1, 4, 7, 0, 2, 3, 5, 8, 6)]
    assert scores.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, -1]
    kept, _ = propose(rpn, 10, pre_nms_topk=5, **attributes)
    assert kept.tolist() == [boxes[i] for i in (1, 4, 7, 0, 2)]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_constant_logits(layout: str) -> None:
    """All equal: the first anchors in the order of rows, columns, anchors win, however many there are."""
    rpn = [np.zeros((1, 15, 100, 120), np.float32)]
    kept, _ = propose(rpn, 7, layout=layout, nms_threshold=1.0, sizes=np.array([1000, 1000, 1, 1], np.int32))
    cells = np.array(CELLS, np.float32)
    expected = np.clip(np.concatenate([cells + np.array([4 * i, 0, 4 * i, 0]) for i in range(3)])[:7], 0, 1000)
    assert kept.tolist() == expected.tolist()


def test_not_a_number() -> None:
    """A NaN logit ranks first, is dropped for it, and has cost a place among the best; infinities likewise."""
    boxes = [[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(6)]
    rpn, attributes = single(boxes, [1, np.nan, 2, np.inf, -np.inf, 3])
    assert propose(rpn, 10, **attributes)[1].tolist() == [3, 2, 1]
    assert propose(rpn, 10, pre_nms_topk=4, **attributes)[1].tolist() == [3, 2]
    rpn[0][0, 6 + 4 * 5, 0, 0] = np.nan  # a delta of the best box
    rpn[0][0, 6 + 4 * 2, 0, 0] = np.inf
    assert propose(rpn, 10, **attributes)[1].tolist() == [1]
    everything_lost = [np.full((1, 15, 8, 8), np.nan, np.float32)]
    assert len(propose(everything_lost)[0]) == 0


def test_many_not_a_numbers() -> None:
    """A level so large that its best are found by way of a guessed threshold, which NaNs must not upset."""
    rng = np.random.default_rng(1)
    rpn = [rng.normal(0, 0.1, (1, 15, 120, 120)).astype(np.float32)]
    rpn[0][:, :3][rng.random((1, 3, 120, 120)) < 0.001] = np.nan
    rpn[0][:, :3][rng.random((1, 3, 120, 120)) < 0.4] = -np.inf
    arguments = {"strides": [4], "anchors": cell_anchors(1), "pre_nms_topk": 150}
    boxes, scores = propose(rpn, 100, **arguments)
    expected_boxes, expected_scores = reference.generate_proposals(rpn, SIZES, 100, **arguments)
    assert scores.tolist() == expected_scores.tolist()
    assert_close(boxes, expected_boxes, OP)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_many_anchors_per_pixel(layout: str) -> None:
    """As many scores in a pixel as no vector holds, and more pixels than a thread looks through at a time."""
    rng = np.random.default_rng(4)
    cells = [float(x) for i in range(19) for x in (-8 - i, -20 + i, 8 + i, 20 - i)]
    logits = rng.permutation(19 * 50 * 60).astype(np.float32).reshape(1, 19, 50, 60) / 1000
    rpn = [np.concatenate([logits, rng.normal(0, 0.2, (1, 76, 50, 60)).astype(np.float32)], axis=1)]
    arguments: dict[str, Any] = {"strides": [4], "anchors": cells, "pre_nms_topk": 400}
    boxes, scores = propose(rpn, 300, layout=layout, threads=2, **arguments)
    expected_boxes, expected_scores = reference.generate_proposals(rpn, SIZES, 300, **arguments)
    assert scores.tolist() == expected_scores.tolist()
    assert_close(boxes, expected_boxes, OP)


def test_scores_that_defeat_sampling() -> None:
    """The best scores stand where a regular sample does not look, or only where it does."""
    for hot in (slice(1, None, 37), slice(0, None, 42)):
        logits = np.zeros(3 * 120 * 120, np.float32)
        logits[hot] = np.arange(len(logits[hot])) + 1
        rpn = [np.zeros((1, 15, 120, 120), np.float32)]
        rpn[0][0, :3] = logits.reshape(3, 120, 120)
        arguments = {"strides": [4], "anchors": cell_anchors(1), "pre_nms_topk": 200}
        sizes = np.array([480, 480, 480, 480], np.int32)
        boxes, scores = propose(rpn, 150, sizes=sizes, **arguments)
        expected_boxes, expected_scores = reference.generate_proposals(rpn, sizes, 150, margin=0, **arguments)
        assert scores.tolist() == expected_scores.tolist()
        assert_close(boxes, expected_boxes, OP)


def test_small_and_outside_boxes_are_dropped() -> None:
    boxes = [[10, 10, 10, 20], [10, 10, 14, 14], [10, 10, 15, 30], [-50, 10, -20, 30], [240, 180, 400, 400]]
    rpn, attributes = single([[float(x) for x in b] for b in boxes], [5, 4, 3, 2, 1])
    assert propose(rpn, 10, **attributes)[1].tolist() == [4, 3, 1]
    assert propose(rpn, 10, min_size=4, **attributes)[1].tolist() == [3, 1]
    assert propose(rpn, 10, **attributes)[0][-1].tolist() == [240, 180, 250, 190]


def test_limits() -> None:
    rpn = make_rpn(np.random.default_rng(9))
    _, everything = propose(rpn, 1000)
    assert len(everything) > 50
    for limit in (0, -3, 1, 17, 2**31 - 1):
        _, scores = propose(rpn, limit)
        assert scores.tolist() == everything[: min(max(limit, 0), 1000)].tolist()
    assert propose(rpn, 1000, capacity=5)[1].tolist() == everything[:5].tolist()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_threads_and_calls_agree(layout: str) -> None:
    rpn = make_rpn(np.random.default_rng(10))
    first = propose(rpn, 500)
    for threads in (1, 2, 3):
        again = propose(rpn, 500, layout=layout, threads=threads)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (1, 1), (1, 5)])
def test_small_levels(size: tuple[int, int]) -> None:
    rpn = [np.zeros((1, 15, *size), np.float32)]
    boxes, _ = propose(rpn, nms_threshold=1.0)
    assert len(boxes) == 3 * size[0] * size[1]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"strides": [], "anchors": [0, 0, 1, 1]}, "strides"),
        ({"strides": [0], "anchors": [0, 0, 1, 1]}, "strides"),
        ({"strides": [2**20 + 1], "anchors": [0, 0, 1, 1]}, "strides"),
        ({"strides": [4, 2**62], "anchors": [0, 0, 1, 1] * 2}, "strides"),
        ({"strides": [4], "anchors": []}, "anchors"),
        ({"strides": [4, 8], "anchors": [0, 0, 1, 1]}, "anchors"),
        ({"strides": [4], "anchors": [0, 0, 1, 1], "bbox_weights": [1, 1, 1]}, "bbox_weights"),
        ({"strides": [4], "anchors": [0, 0, 1, 1], "bbox_weights": [1, 0, 1, 1]}, "bbox_weights"),
        ({"strides": [4], "anchors": [0, 0, 1, 1], "pre_nms_topk": 0}, "pre_nms_topk"),
        ({"strides": [4], "anchors": [0, 0, 1, 1], "capacity": 0}, "capacity"),
        ({"strides": [4], "anchors": [0, 0, 1, 1], "capacity": 2**62}, "capacity"),
        ({"strides": [4], "anchors": [0, 0, 1, 1], "layout": "NC"}, "layout"),
    ],
)
def test_wrong_attributes(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.ops.GenerateProposals(**attributes)


def test_wrong_inputs() -> None:
    op = _core.ops.GenerateProposals(strides=[4], anchors=[0, 0, 1, 1])
    rpn, limit = np.zeros((1, 5, 3, 4), np.float32), np.array([5], np.int32)
    op(rpn, SIZES, limit, guard=True)
    wrong: list[tuple[str, tuple[np.ndarray, ...]]] = [
        ("inputs", (rpn, SIZES)),
        ("rpn_0", (rpn.astype(np.float16), SIZES, limit)),
        ("rpn_0", (rpn[:, :4].copy(), SIZES, limit)),
        ("rpn_0", (np.concatenate([rpn, rpn]), SIZES, limit)),
        ("sizes", (rpn, SIZES[:2].copy(), limit)),
        ("sizes", (rpn, np.array([0, 5, 5, 5], np.int32), limit)),
        ("sizes", (rpn, SIZES.astype(np.float32), limit)),
        ("max_proposals", (rpn, SIZES, np.array(5, np.int32))),
    ]
    for message, inputs in wrong:
        with pytest.raises(ValueError, match=message):
            op(*inputs)
