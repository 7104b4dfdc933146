"""BoxDetections against the float64 reference, a torch witness, and by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from tolerances import assert_close

from densepose_engine import _core

pytestmark = pytest.mark.usefixtures("kernels")

OP = "BoxDetections"
SIZES = (300, 400, 617, 811)  # resized height and width, original height and width


class Detections(NamedTuple):
    """The op's outputs up to the count."""

    network: np.ndarray
    original: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def make_head(
    rng: np.random.Generator, rows: int, classes: int = 1, *, agnostic: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random logits, deltas and proposals; the proposals stand in crowds, so that NMS has work."""
    logits = rng.normal(0, 2, (rows, classes + 1)).astype(np.float32)
    deltas = rng.normal(0, 1, (rows, 4 if agnostic else 4 * classes)).astype(np.float32)
    people = rng.uniform([0, 0, 40, 60], [350, 250, 120, 200], (8, 4))
    boxes = people[rng.integers(0, 8, rows)] + rng.normal(0, 12, (rows, 4))
    boxes[:, 2:] = boxes[:, :2] + np.maximum(boxes[:, 2:], 1)
    return logits, deltas, boxes.astype(np.float32)


def detect(
    logits: np.ndarray,
    deltas: np.ndarray,
    boxes: np.ndarray,
    *,
    count: int | None = None,
    sizes: tuple[int, ...] = SIZES,
    score_threshold: float = 0.5,
    nms_threshold: float = 0.5,
    max_detections: int = 100,
    **attributes: Any,
) -> Detections:
    """Runs the op with guarded outputs and checks what lies beyond the count."""
    outputs = _core.ops.BoxDetections(**attributes)(
        logits,
        deltas,
        boxes,
        np.array([len(boxes) if count is None else count], np.int32),
        np.array(sizes, np.int32),
        np.array([score_threshold], np.float32),
        np.array([nms_threshold], np.float32),
        np.array([max_detections], np.int32),
        guard=True,
    )
    *values, found, classes = outputs
    assert found.dtype == classes.dtype == np.int32
    values.append(classes)
    assert all(len(v) == attributes.get("capacity", 100) and (v[found[0] :] == 0).all() for v in values)
    return Detections(*(v[: found[0]] for v in values))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("head", [(1, False), (2, True), (9, False), (9, True)], ids=str)
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"score_threshold": 0.05, "nms_threshold": 0.7, "max_detections": 20},
        {"score_threshold": 0.8, "nms_threshold": 0.3, "sizes": (300, 400, 150, 97)},
        {"score_threshold": 0.3, "bbox_weights": [4.0, 5.0, 2.0, 3.0]},
    ],
)
def test_reference(seed: int, head: tuple[int, bool], attributes: dict[str, Any]) -> None:
    rows = 200 if head[0] == 1 else 40  # with more there are scores that differ by less than float32's rounding
    arrays = make_head(np.random.default_rng(seed), rows, head[0], agnostic=head[1])
    found = detect(*arrays, **attributes)
    arguments = {"sizes": SIZES, "score_threshold": 0.5, "nms_threshold": 0.5, "max_detections": 100} | attributes
    arguments["score_threshold"] = float(np.float32(arguments["score_threshold"]))
    arguments["nms_threshold"] = float(np.float32(arguments["nms_threshold"]))
    *expected, classes = reference.box_detections(*arrays, **arguments)
    assert len(found.scores) > 0
    assert found.classes.tolist() == classes.tolist()
    for actual, wanted in zip(found[:3], expected, strict=True):
        assert_close(actual, wanted, OP)


def test_detectron2_steps_in_torch() -> None:
    """Softmax, decoding and scaling by torch's operators in float32."""
    torch = pytest.importorskip("torch")
    logits, deltas, boxes = make_head(np.random.default_rng(1), 50)
    found = detect(logits, deltas, boxes, score_threshold=0.2, nms_threshold=1.0)  # nothing is suppressed
    scores = torch.softmax(torch.from_numpy(logits), dim=1)[:, 0]
    anchors, moves = torch.from_numpy(boxes), torch.from_numpy(deltas)
    sides = anchors[:, 2:] - anchors[:, :2]
    center = anchors[:, :2] + 0.5 * sides + moves[:, :2] / 10 * sides
    sides = sides * (moves[:, 2:] / 5).clamp(max=reference.SCALE_CLAMP).exp()
    decoded = torch.cat([center - 0.5 * sides, center + 0.5 * sides], dim=1)
    decoded = torch.minimum(decoded.clamp(min=0), torch.tensor([400.0, 300.0, 400.0, 300.0]))
    order = scores.argsort(descending=True)
    order = order[scores[order] > 0.2]
    assert_close(found.scores, scores[order].numpy(), OP)
    assert_close(found.network, decoded[order].numpy(), OP)
    original = decoded[order].clone()
    original[:, 0::2] *= 811 / 400
    original[:, 1::2] *= 617 / 300
    assert_close(found.original, original.numpy(), OP)


def in_torch(
    head: tuple[np.ndarray, ...], score_threshold: float, nms_threshold: float, limit: int
) -> tuple[list[tuple[int, int]], Any]:
    """(row, class) and boxes as detectron2's ``fast_rcnn_inference_single_image`` finds them, best first.

    NMS by its definition, class by class, with boxes as detectron2's Box2BoxTransform decodes them in float32.
    """
    torch = pytest.importorskip("torch")
    logits, deltas, proposals = (torch.from_numpy(array) for array in head)
    probabilities = torch.softmax(logits, dim=1)
    count = deltas.shape[1] // 4
    sides = (proposals[:, 2:] - proposals[:, :2]).repeat(1, count).reshape(-1, 2)
    moves = deltas.reshape(-1, 4)
    center = (proposals[:, :2] + 0.5 * (proposals[:, 2:] - proposals[:, :2])).repeat(1, count).reshape(-1, 2)
    center = moves[:, :2] / 10 * sides + center
    sides = (moves[:, 2:] / 5).clamp(max=reference.SCALE_CLAMP).exp() * sides
    boxes = torch.cat([center - 0.5 * sides, center + 0.5 * sides], dim=1).reshape(len(logits), count, 4)
    valid = boxes.isfinite().all(dim=2).all(dim=1) & probabilities.isfinite().all(dim=1)
    rows = valid.nonzero()[:, 0]
    corner = torch.tensor([SIZES[1], SIZES[0], SIZES[1], SIZES[0]], dtype=torch.float32)
    boxes, scores = torch.minimum(boxes[valid].clamp(min=0), corner), probabilities[valid, :-1]
    index = (scores > score_threshold).nonzero()
    flat = boxes[index[:, 0], index[:, 1] if count > 1 else torch.zeros_like(index[:, 1])]
    order = scores[index[:, 0], index[:, 1]].sort(descending=True, stable=True).indices
    kept: list[int] = []
    for i in order.tolist():
        rivals = [k for k in kept if index[k, 1] == index[i, 1]]
        if all(reference.iou(flat[k].numpy(), flat[i].numpy()) <= nms_threshold for k in rivals):
            kept.append(i)
    kept = kept[:limit]
    return [(int(rows[index[i, 0]]), int(index[i, 1])) for i in kept], flat[kept].numpy()


@pytest.mark.parametrize(("classes", "agnostic"), [(1, False), (3, False), (9, False), (9, True), (80, False)])
def test_several_classes_as_torch_finds_them(classes: int, agnostic: bool) -> None:
    head = make_head(np.random.default_rng(classes), 150, classes, agnostic=agnostic)
    head[0][3, classes] = np.nan
    head[1][5, -3] = np.inf  # of the last class, and the whole row is gone
    head[2][7] = [0, 0, np.inf, 10]
    threshold = 0.3 if classes < 80 else 0.1
    expected, boxes = in_torch(head, threshold, 0.4, 60)
    found = detect(*head, score_threshold=threshold, nms_threshold=0.4, max_detections=60)
    assert len(expected) > 20
    assert not {row for row, _ in expected} & {3, 5, 7}
    assert found.classes.tolist() == [c for _, c in expected]
    assert_close(found.network, boxes, OP)


def test_one_class_suppresses_no_other() -> None:
    """Four equal boxes, two of each class: one of each is left, the lower class first where scores are equal."""
    logits = np.log(np.array([[0.4, 0.4, 0.2], [0.6, 0.3, 0.1], [0.35, 0.45, 0.2]], np.float32))
    boxes = np.tile(np.array([10, 10, 50, 60], np.float32), (3, 1))
    found = detect(logits, np.zeros((3, 8), np.float32), boxes, score_threshold=0.25)
    assert found.classes.tolist() == [0, 1]
    assert found.scores == pytest.approx([0.6, 0.45])
    everything = detect(logits, np.zeros((3, 8), np.float32), boxes, score_threshold=0.25, nms_threshold=1.0)
    assert everything.classes.tolist() == [0, 1, 0, 1, 0, 1]
    assert everything.scores == pytest.approx([0.6, 0.45, 0.4, 0.4, 0.35, 0.3])


def test_the_box_of_a_detection_is_that_of_its_class() -> None:
    logits = np.array([[3, 2.5, 0]], np.float32)
    deltas = np.array([[0, 0, 0, 0, 10, 5, 0, 0]], np.float32)  # the second class is moved by 10/10 and 5/10 of a side
    boxes = np.array([[100, 100, 110, 120]], np.float32)
    found = detect(logits, deltas, boxes, score_threshold=0.1)
    assert found.classes.tolist() == [0, 1]
    assert found.network.tolist() == [[100, 100, 110, 120], [110, 110, 120, 130]]
    agnostic = detect(logits, deltas[:, 4:].copy(), boxes, score_threshold=0.1)
    assert agnostic.network.tolist() == [[110, 110, 120, 130]] * 2


def test_the_best_of_all_classes_fill_the_places() -> None:
    head = make_head(np.random.default_rng(3), 1000, 9)
    head[1][:] = 0  # no box is moved out of the picture
    everything = detect(*head, score_threshold=0.0, nms_threshold=1.0, max_detections=9000, capacity=9000)
    assert len(everything.scores) == 9000
    assert (np.diff(everything.scores) <= 0).all()
    assert sorted(set(everything.classes.tolist())) == list(range(9))
    for limit, capacity in [(50, 100), (500, 70), (1, 1)]:
        some = detect(*head, score_threshold=0.0, nms_threshold=1.0, max_detections=limit, capacity=capacity)
        assert len(some.scores) == min(limit, capacity)
        for few, all_of_them in zip(some, everything, strict=True):
            assert np.array_equal(few, all_of_them[: len(few)])


def plain(boxes: list[list[float]], margins: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Proposals that are not moved, with the given differences between the two logits."""
    logits = np.stack([np.array(margins, np.float32), np.zeros(len(boxes), np.float32)], axis=1)
    return logits, np.zeros((len(boxes), 4), np.float32), np.array(boxes, np.float32).reshape(-1, 4)


def test_by_hand() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [0, 0, 10, 5]]
    found = detect(*plain(boxes, [1, 3, 2, 0.5]), sizes=(100, 200, 300, 400))
    # IoU of the second with the first is 0.8, with the last 0.625: both are suppressed.
    assert found.network.tolist() == [boxes[1], boxes[2]]
    assert found.original.tolist() == [[0, 0, 20, 24], [40, 60, 60, 90]]
    assert found.scores == pytest.approx([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-2))])


def test_thresholds_are_exclusive() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]]
    head = plain(boxes, [2, 1, 0])  # the last score is 0.5, the IoU of the first two too
    assert len(detect(*head, score_threshold=0.5, nms_threshold=0.5).scores) == 2
    assert len(detect(*head, score_threshold=0.49999997, nms_threshold=0.5).scores) == 3
    assert len(detect(*head, score_threshold=0.5, nms_threshold=0.49999997).scores) == 1


def test_equal_scores_keep_their_order() -> None:
    boxes = [[100.0 - 10 * i, 10, 105.0 - 10 * i, 15] for i in range(9)]
    found = detect(*plain(boxes, [1, 2, 1, 2, 1, 1, 2, 1, 1]))
    assert found.network.tolist() == [boxes[i] for i in (1, 3, 6, 0, 2, 4, 5, 7, 8)]


def test_not_a_number() -> None:
    logits, deltas, boxes = plain([[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(9)], [9, 8, 7, 6, 5, 4, 3, 2, 1])
    logits[0, 0] = logits[1, 1] = np.nan
    logits[2, 0] = np.inf  # inf - inf
    logits[3] = -np.inf
    logits[4, 1] = -np.inf  # certainly a person
    deltas[5, 0] = np.nan
    deltas[6, 1] = np.inf
    boxes[7, 2] = np.inf
    found = detect(logits, deltas, boxes)
    assert found.network[:, 0].tolist() == [80, 160]
    assert found.scores[0] == 1
    assert len(detect(logits, deltas, boxes, score_threshold=np.nan).scores) == 0
    assert len(detect(logits, deltas, boxes, nms_threshold=np.nan).scores) == 2  # suppresses nothing


def test_empty_boxes_take_places_and_are_dropped() -> None:
    """As in detectron2: the limit counts boxes that turn out to be empty in the original picture."""
    boxes = [[10, 10, 10, 20], [-30, 5, -10, 20], [40, 40, 60, 60], [70, 70, 90, 90]]
    head = plain(boxes, [4, 3, 2, 1])
    assert detect(*head).network[:, 0].tolist() == [40, 70]
    assert detect(*head, max_detections=3).network[:, 0].tolist() == [40]
    assert detect(*head, max_detections=2).network.shape == (0, 4)


def test_limits_and_counts() -> None:
    head = make_head(np.random.default_rng(5), 120)
    everything = detect(*head, score_threshold=0.1)
    assert len(everything.scores) > 4
    for limit, valid in [(0, 0), (-1, 0), (1, 1), (3, 3), (2**31 - 1, len(everything.scores))]:
        assert np.array_equal(
            detect(*head, score_threshold=0.1, max_detections=limit).scores, everything.scores[:valid]
        )
    assert np.array_equal(detect(*head, score_threshold=0.1, capacity=2).scores, everything.scores[:2])
    for count, rows in [(120, 120), (500, 120), (40, 40), (0, 0), (-7, 0)]:
        some = detect(*head, score_threshold=0.1, count=count)
        expected = detect(*(x[:rows] for x in head), score_threshold=0.1)
        assert all(np.array_equal(a, b) for a, b in zip(some, expected, strict=True))
    assert len(detect(*head, score_threshold=2).scores) == 0


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({"bbox_weights": [1, 1]}, "bbox_weights"), ({"bbox_weights": [1, 1, np.inf, 1]}, "bbox_weights"),
     ({"capacity": -1}, "capacity")],
)  # fmt: skip
def test_wrong_attributes(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.ops.BoxDetections(**attributes)


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, np.zeros((3, 1), np.float32), "class_logits"),
        (0, np.zeros((3, 1026), np.float32), "at most 1024"),
        (0, np.zeros(3, np.float32), "class_logits"),
        (1, np.zeros((2, 4), np.float32), "deltas"),
        (1, np.zeros((3, 8), np.float32), "deltas"),
        (1, np.zeros((3, 0), np.float32), "deltas"),
        (2, np.zeros((3, 4), np.float64), "dtype"),
        (2, np.zeros((3, 5), np.float32), "boxes"),
        (3, np.zeros(1, np.int64), "count"),
        (4, np.zeros(3, np.int32), "sizes"),
        (4, np.array([100, 0, 100, 100], np.int32), "sizes"),
        (5, np.zeros(2, np.float32), "score_threshold"),
        (6, np.zeros(1, np.int32), "nms_threshold"),
        (7, np.zeros((), np.int32), "max_detections"),
    ],
)
def test_wrong_inputs(index: int, value: np.ndarray, message: str) -> None:
    inputs: list[np.ndarray] = [
        np.zeros((3, 2), np.float32),
        np.zeros((3, 4), np.float32),
        np.zeros((3, 4), np.float32),
        np.array([3], np.int32),
        np.array([100, 100, 100, 100], np.int32),
        np.array([0.5], np.float32),
        np.array([0.5], np.float32),
        np.array([10], np.int32),
    ]
    op = _core.ops.BoxDetections()
    op(*inputs, guard=True)
    with pytest.raises(ValueError, match="inputs"):
        op(*inputs[:-1])
    inputs[index] = value
    with pytest.raises(ValueError, match=message):
        op(*inputs)
