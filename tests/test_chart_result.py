"""ChartResult against the float64 reference, torch as detectron2 uses it, and by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from tolerances import assert_close

from densepose_engine import _core

pytestmark = pytest.mark.usefixtures("kernels")

OP = "ChartResult"
LAYOUTS = ["NCHW", "NHWC"]
DECIDED = 2e-4  # labels are compared where the largest logit leads by as much


class Person(NamedTuple):
    """One person's patch."""

    labels: np.ndarray  # [h, w]
    uv: np.ndarray  # [2, h, w]
    confidences: np.ndarray  # [E, h, w]


def make_maps(
    rng: np.random.Generator, people: int, size: int = 28, coarse: int = 2, parts: int = 25
) -> dict[str, np.ndarray]:
    """Random maps; smooth enough that labels form regions."""
    channels = {"coarse_segm": coarse, "fine_segm": parts, "u": parts, "v": parts}
    return {name: rng.standard_normal((people, c, size, size)).astype(np.float32) for name, c in channels.items()}


def make_boxes(rng: np.random.Generator, people: int, largest: float = 90) -> np.ndarray:
    """Boxes from less than a pixel to larger than the maps."""
    corner = rng.uniform(0, 300, (people, 2))
    side = np.exp(rng.uniform(np.log(0.3), np.log(largest), (people, 2)))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def chart(
    maps: dict[str, np.ndarray],
    boxes: np.ndarray,
    confidences: tuple[np.ndarray, ...] = (),
    *,
    layout: str = "NCHW",
    threads: int = 1,
) -> list[Person]:
    """Runs the op on NCHW maps in either layout, with guarded outputs, and cuts the flat outputs into people."""
    arrays = [*maps.values(), *confidences]
    if layout == "NHWC":
        arrays = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) for x in arrays]
    op = _core.ops.ChartResult(layout=layout)
    labels, uv, offsets, values = op(*arrays[:4], boxes, *arrays[4:], guard=True, threads=threads)
    assert offsets[0] == 0
    assert (len(labels), len(uv), len(values)) == tuple(int(offsets[-1]) * n for n in (1, 2, len(confidences)))
    people = []
    for box, begin, end in zip(boxes, offsets[:-1], offsets[1:], strict=True):
        shape = reference.patch_size(box)
        assert end - begin == shape[0] * shape[1]
        people.append(
            Person(
                labels[begin:end].reshape(shape),
                uv[2 * begin : 2 * end].reshape(2, *shape),
                values[len(confidences) * begin : len(confidences) * end].reshape(-1, *shape),
            )
        )
    return people


def assert_person(person: Person, labels: np.ndarray, uv: np.ndarray, decided: np.ndarray) -> None:
    """Labels exactly, where they are decided; uv where labels agree."""
    same = person.labels == labels
    assert same[decided > DECIDED].all()
    assert_close(np.where(same, person.uv, 0), np.where(same, uv, 0), OP)
    assert (person.uv[:, person.labels == 0] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "coarse", "parts"), [(28, 2, 25), (112, 2, 25), (14, 15, 25), (5, 1, 1), (1, 3, 7), (9, 33, 70)]
)
def test_reference(layout: str, size: int, coarse: int, parts: int) -> None:
    rng = np.random.default_rng(size)
    maps, boxes = make_maps(rng, 12, size, coarse, parts), make_boxes(rng, 12)
    people = chart(maps, boxes, layout=layout)
    for k, person in enumerate(people):
        assert_person(person, *reference.chart_result(*(m[k] for m in maps.values()), boxes[k]))
    if coarse > 1 and parts > 1:
        assert 0.1 < np.mean(np.concatenate([p.labels.ravel() for p in people]) > 0) < 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 200), (200, 3), (112, 112), (56, 224), (113, 57)])
def test_patch_shapes(layout: str, shape: tuple[int, int]) -> None:
    maps = make_maps(np.random.default_rng(1), 1, 56)
    boxes = np.array([[7, 9, 7 + shape[1], 9 + shape[0]]], np.float32)
    (person,) = chart(maps, boxes, layout=layout)
    assert person.labels.shape == shape
    assert_person(person, *reference.chart_result(*(m[0] for m in maps.values()), boxes[0]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_detectron2_steps_in_torch(layout: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    maps, boxes = make_maps(rng, 4, 56), make_boxes(rng, 4, 300)
    for k, person in enumerate(chart(maps, boxes, layout=layout)):
        shape = reference.patch_size(boxes[k])
        coarse, fine, u, v = (
            torch.nn.functional.interpolate(
                torch.from_numpy(m[k : k + 1]), shape, mode="bilinear", align_corners=False
            )[0]
            for m in maps.values()
        )
        labels = fine.argmax(dim=0) * (coarse.argmax(dim=0) > 0)
        disagree = person.labels != labels.numpy()
        assert disagree.mean() < 1e-4  # rounding decides a pixel between two parts, once in a while
        foreground = labels > 0
        for values, ours in zip((u, v), person.uv, strict=True):
            expected = torch.where(foreground, values.gather(0, labels[None])[0], 0)
            assert_close(np.where(disagree, 0, ours), np.where(disagree, 0, expected.numpy()), OP)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_confidences(layout: str) -> None:
    """Per part: the label's channel, 0 on background. One for all: every pixel."""
    rng = np.random.default_rng(3)
    maps, boxes = make_maps(rng, 3), make_boxes(rng, 3)
    per_part, shared, other = (rng.standard_normal((3, c, 28, 28)).astype(np.float32) for c in (25, 1, 25))
    for k, person in enumerate(chart(maps, boxes, (per_part, shared, other), layout=layout)):
        expected = reference.select_channel(np.stack([per_part[k], other[k]]), person.labels)
        assert_close(person.confidences[[0, 2]], expected, OP)
        assert_close(person.confidences[1], reference.resample(shared[k], *person.labels.shape)[0], OP)


def test_by_hand() -> None:
    maps = {name: np.zeros((1, c, 2, 2), np.float32) for name, c in zip("cfuv", (2, 3, 3, 3), strict=True)}
    maps["c"][0, 1] = [[1, 1], [1, -1]]  # the last corner is background
    maps["f"][0, 1], maps["f"][0, 2] = 1, [[0, 4], [0, 4]]  # part 1 on the left, 2 on the right
    maps["u"][0, 1], maps["u"][0, 2] = 0.25, [[1, 0], [1, 0]]
    maps["v"][0, 0] = 9  # the background's channel is never read
    (person,) = chart(maps, np.array([[3, 3, 7.9, 7.9]], np.float32))
    # Four by four: along x the maps are read at 0, 0.25, 0.75 and 1; along y too.
    assert person.labels.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert person.uv[0].tolist() == [[0.25, 0.25, 0.25, 0]] * 2 + [[0.25, 0.25, 0, 0]] * 2
    assert (person.uv[1] == 0).all()


def test_logits_are_resampled_before_argmax() -> None:
    """Between a pixel of part 1 and one of part 2 a third part can win, that leads nowhere in the maps."""
    maps = make_maps(np.random.default_rng(0), 1, 2, 2, 4)
    maps["coarse_segm"][:] = [[[[0]], [[1]]]]
    maps["fine_segm"][0, 1], maps["fine_segm"][0, 2], maps["fine_segm"][0, 3] = [9, -9], [-9, 9], 5
    (person,) = chart(maps, np.array([[0, 0, 8, 1]], np.float32))
    assert person.labels.tolist() == [[1, 1, 1, 3, 3, 2, 2, 2]]


def test_ties_go_to_the_first_channel() -> None:
    maps = {name: np.ones((1, c, 3, 3), np.float32) for name, c in zip("cfuv", (3, 5, 5, 5), strict=True)}
    box = np.array([[0, 0, 20, 20]], np.float32)
    assert (chart(maps, box)[0].labels == 0).all()  # coarse: background
    maps["c"][0, 1:] = 2
    assert (chart(maps, box)[0].labels == 0).all()  # fine: background
    maps["f"][0, 2:] = 2
    assert (chart(maps, box)[0].labels == 2).all()


def test_not_a_number() -> None:
    """As torch's argmax: the first NaN is the largest."""
    maps = {name: np.ones((1, c, 1, 1), np.float32) for name, c in zip("cfuv", (3, 5, 5, 5), strict=True)}
    box = np.array([[0, 0, 17, 3]], np.float32)
    maps["c"][0, 1] = 2
    maps["f"][0, [1, 3, 4]] = np.array([7, np.nan, np.nan]).reshape(3, 1, 1)
    maps["u"][0, 3] = np.nan
    (person,) = chart(maps, box)
    assert (person.labels == 3).all()
    assert np.isnan(person.uv[0]).all()
    assert (person.uv[1] == 1).all()
    maps["c"][0, 0] = np.nan
    assert (chart(maps, box)[0].labels == 0).all()
    maps["c"][0, [0, 2]] = np.array([1, np.nan]).reshape(2, 1, 1)
    assert (chart(maps, box)[0].labels == 3).all()
    maps["f"][0, 0] = np.nan
    assert (chart(maps, box)[0].labels == 0).all()


@pytest.mark.parametrize("strange", [[], [np.nan], [np.inf], [-np.inf], [np.nan, np.inf, -np.inf, 3e38]])
def test_ruling_channels_out_changes_nothing(strange: list[float]) -> None:
    """Channels that cannot win are ruled out; but all are tried beside some so low that a sum of them overflows."""
    rng = np.random.default_rng(11)
    maps = make_maps(rng, 4, size=10, coarse=3)
    for name in ("coarse_segm", "fine_segm"):
        winners = rng.integers(0, maps[name].shape[1], (4, 2, 2)).repeat(5, axis=1).repeat(5, axis=2)
        ahead = 6 * (np.arange(maps[name].shape[1])[:, None, None] == winners[:, None])
        maps[name] = (np.round(2 * maps[name]) / 2 + ahead).astype(np.float32)  # with ties: the first channel wins
        for value in strange:
            maps[name][tuple(rng.integers(0, n, 8) for n in maps[name].shape)] = value
    boxes = np.array([[0, 0, 70, 30], [3, 4, 37, 120], [0, 0, 1, 600], [5, 5, 90, 9.5]], np.float32)
    more = {
        name: np.concatenate([x, np.full((4, 40 - x.shape[1], 10, 10), -3e38, np.float32)], 1)
        for name, x in maps.items()
    }
    for few, many in zip(chart(maps, boxes, threads=2), chart(more, boxes), strict=True):
        np.testing.assert_array_equal(few.labels, many.labels)
        np.testing.assert_array_equal(few.uv, many.uv)
        assert len(np.unique(few.labels)) > 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nobody(layout: str) -> None:
    maps = make_maps(np.random.default_rng(4), 0)
    assert chart(maps, np.zeros((0, 4), np.float32), layout=layout) == []
    assert chart(maps, np.zeros((0, 4), np.float32), (maps["u"],), layout=layout) == []


def test_degenerate_boxes_are_one_pixel() -> None:
    boxes = np.array([[5, 5, 5, 5], [9, 9, 2, 3], [0, 0, 0.99, 1.99], [2**24, 0, 2**24, 0]], np.float32)
    people = chart(make_maps(np.random.default_rng(5), 4), boxes)
    assert [p.labels.shape for p in people] == [(1, 1)] * 4


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, np.nan, 5],
        [np.inf, 0, np.inf, 5],
        [0, 0, np.inf, 5],
        [0, -np.inf, 5, -np.inf],
        [0, 0, 1e30, 1],
        [0, 0, 2**31, 1],
        [0, 0, 60_000, 60_000],
    ],
)
def test_hostile_boxes_are_refused_before_memory_is_taken(box: list[float]) -> None:
    maps = make_maps(np.random.default_rng(6), 2, 4)
    with pytest.raises(ValueError, match="box 1 of boxes_original"):
        chart(maps, np.array([[0, 0, 10, 10], box], np.float32))


def test_too_many_pixels_in_total() -> None:
    maps = make_maps(np.random.default_rng(6), 3, 4)
    with pytest.raises(ValueError, match="in total"):
        chart(maps, np.array([[0, 0, 30_000, 30_000]] * 3, np.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_and_calls_agree(layout: str) -> None:
    rng = np.random.default_rng(7)
    maps, boxes = make_maps(rng, 5, 56), make_boxes(rng, 5, 400)
    boxes[0] = [0, 0, 500, 700]  # large enough to be cut into bands
    extra = (rng.standard_normal((5, 1, 56, 56)).astype(np.float32),)
    first = chart(maps, boxes, extra)
    assert_person(first[0], *reference.chart_result(*(m[0] for m in maps.values()), boxes[0]))
    for threads in (1, 2, 3):
        for person, again in zip(first, chart(maps, boxes, extra, layout=layout, threads=threads), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(person, again, strict=True))


def test_wrong_inputs() -> None:
    with pytest.raises(ValueError, match="layout"):
        _core.ops.ChartResult(layout="HWC")
    op = _core.ops.ChartResult()
    coarse, fine, u, v = make_maps(np.random.default_rng(8), 2, 4).values()
    boxes = np.array([[0, 0, 5, 5]] * 2, np.float32)
    op(coarse, fine, u, v, boxes, u, guard=True)
    wrong: list[tuple[str, tuple[np.ndarray, ...]]] = [
        ("inputs", (coarse, fine, u, v)),
        ("coarse_segm", (coarse[:1].copy(), fine, u, v, boxes)),
        ("coarse_segm", (coarse[:, :0].copy(), fine, u, v, boxes)),
        ("coarse_segm", (coarse[:, :, :2, :2].copy(), fine, u, v, boxes)),
        ("fine_segm", (coarse, fine.astype(np.float16), u, v, boxes)),
        ("fine_segm", (coarse, fine[..., :3].copy(), u, v, boxes)),
        ("fine_segm", (coarse, np.zeros((2, 257, 4, 4), np.float32), u, v, boxes)),
        ("input u", (coarse, fine, u[:, 1:].copy(), v, boxes)),
        ("input v", (coarse, fine, u, v[..., None].copy(), boxes)),
        ("boxes_original", (coarse, fine, u, v, boxes[:1].copy())),
        ("confidence_0", (coarse, fine, u, v, boxes, u[:, :5].copy())),
    ]
    for message, inputs in wrong:
        with pytest.raises(ValueError, match=message):
            op(*inputs)


def pack(maps: list[np.ndarray], block: int, layout: str) -> np.ndarray:
    """Maps as one tensor of cells, as the predictor's convolution makes them: what pixel_shuffle undoes."""
    merged = np.concatenate(maps, axis=1)
    people, channels, size, _ = merged.shape
    cells = merged.reshape(people, channels, size // block, block, size // block, block).transpose(0, 1, 3, 5, 2, 4)
    cells = cells.reshape(people, channels * block**2, size // block, size // block)
    return np.ascontiguousarray(cells if layout == "NCHW" else cells.transpose(0, 2, 3, 1))


def test_packing_is_what_pixel_shuffle_undoes() -> None:
    torch = pytest.importorskip("torch")
    maps = list(make_maps(np.random.default_rng(4), 2).values())
    shuffled = torch.nn.functional.pixel_shuffle(torch.from_numpy(pack(maps, 2, "NCHW")), 2)
    np.testing.assert_array_equal(shuffled.numpy(), np.concatenate(maps, axis=1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("confidences", [(), (25, 1)])
@pytest.mark.parametrize("people", [0, 3])
def test_one_tensor_of_all_maps_is_the_same(layout: str, block: int, confidences: tuple[int, ...], people: int) -> None:
    rng = np.random.default_rng(3)
    maps = list(make_maps(rng, people, coarse=15).values())
    extra = [rng.standard_normal((people, c, 28, 28)).astype(np.float32) for c in confidences]
    boxes = make_boxes(rng, people)
    expected = _core.ops.ChartResult()(*maps, boxes, *extra)
    channels = [x.shape[1] for x in [*maps, *extra]]
    op = _core.ops.ChartResult(layout=layout, channels=channels, block=block)
    actual = op(pack([*maps, *extra], block, layout), boxes, guard=True, threads=2)
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize(("cells", "coarse", "parts"), [(1, 2, 25), (3, 1, 2), (7, 2, 3), (13, 15, 25), (33, 2, 25)])
def test_packed_maps_of_any_size(layout: str, block: int, cells: int, coarse: int, parts: int) -> None:
    """Fewer cells or channels than a vector has, and counts that no vector divides, for people of all sizes."""
    rng = np.random.default_rng(cells)
    sides = [(0.5, 0.5), (1, 9), (9, 1), (2, 3), (17, 5), (33, 16), (300, 90), (130, 300)]
    boxes = np.array([[3.25, 4.5, 3.25 + width, 4.5 + height] for height, width in sides], np.float32)
    maps = list(make_maps(rng, len(boxes), cells * block, coarse, parts).values())
    extra = [rng.standard_normal((len(boxes), c, cells * block, cells * block)).astype(np.float32) for c in (1, parts)]
    expected = _core.ops.ChartResult()(*maps, boxes, *extra)
    op = _core.ops.ChartResult(layout=layout, channels=[x.shape[1] for x in [*maps, *extra]], block=block)
    for threads in (1, 2, 3):
        actual = op(pack([*maps, *extra], block, layout), boxes, guard=True, threads=threads)
        for got, want in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(got, want)
    assert coarse == 1 or len(np.unique(expected[0])) > 2


@pytest.mark.parametrize(
    ("attributes", "shape", "message"),
    [
        ({"channels": [2, 25, 25]}, None, "channels lists"),
        ({"channels": [2, 25, 25, 24]}, None, "as many channels"),
        ({"channels": [2, 25, 25, 25, 2]}, None, "as many or 1"),
        ({"channels": [2, 25, 25, 0]}, None, "from 1 to 256"),
        ({"block": 2}, None, "block"),
        ({"channels": [2, 25, 25, 25], "block": 0}, None, "block"),
        ({"channels": [2, 25, 25, 25]}, (1, 76, 8, 8), "maps"),
        ({"channels": [2, 25, 25, 25], "block": 2}, (1, 77, 8, 8), "maps"),
        ({"channels": [2, 25, 25, 25]}, (1, 77, 8, 9), "maps"),
        ({"channels": [2, 25, 25, 25]}, (2, 77, 8, 8), "boxes_original"),
        ({"channels": [2, 25, 25, 25]}, (1, 77, 0, 0), "no pixels"),
    ],
)
def test_wrong_packing_is_named(attributes: dict[str, Any], shape: tuple[int, ...] | None, message: str) -> None:
    boxes = np.array([[0, 0, 4, 4]], np.float32)
    with pytest.raises(ValueError, match=message):
        _core.ops.ChartResult(**attributes)(np.zeros(shape or (1,), np.float32), boxes)
