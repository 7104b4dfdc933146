"""ClosestVertices against the float64 reference, torch as DensePose uses it, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference

from densepose_engine import _core

pytestmark = pytest.mark.usefixtures("kernels")

LAYOUTS = ["NCHW", "NHWC"]
#: Of squared distances, relative to the largest terms that they are made of: closer ones are ties.
TIE = 1e-5


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def surface(count: int, dimensions: int = 16, seed: int = 0) -> np.ndarray:
    """Vertices as embeddings have them: a smooth closed surface on the unit sphere."""
    rng = np.random.default_rng(seed)
    turn = np.arange(count) * math.pi * (3 - math.sqrt(5))
    z = 1 - (2 * np.arange(count) + 1) / count
    points = np.stack([np.cos(turn) * np.sqrt(1 - z**2), np.sin(turn) * np.sqrt(1 - z**2), z], axis=1)
    waves = [np.sin(points @ rng.normal(0, 2.5, 3) + rng.uniform(0, 6)) for _ in range(dimensions)]
    return unit(np.stack(waves, axis=1))


def scattered(count: int, dimensions: int = 16, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dimensions)))


def tree_of(*meshes: np.ndarray) -> tuple[np.ndarray, ...]:
    """The op's last five inputs."""
    trees = [_core.vertex_tree(mesh) for mesh in meshes]
    sheets = np.cumsum([0, *(len(tree[3]) for tree in trees)]).astype(np.int32)
    return (*(np.concatenate([tree[i] for tree in trees]) for i in range(4)), sheets)


def make_maps(people: int, vertices: np.ndarray, size: int = 14, coarse: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Coarse logits, and embeddings that wander over the surface, with some noise, as a network's do."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, len(vertices), (people, 3, 3))
    grid = reference.resample
    wander = np.stack([grid(vertices[s].transpose(2, 0, 1), size, size) for s in start])
    noisy = wander * rng.uniform(0.4, 1.3, (people, 1, 1, 1)) + rng.normal(0, 0.05, wander.shape)
    return [rng.standard_normal((people, coarse, size, size)).astype(np.float32), noisy.astype(np.float32)]


def run(
    maps: list[np.ndarray],
    boxes: np.ndarray,
    *meshes: np.ndarray,
    which: np.ndarray | None = None,
    layout: str = "NCHW",
    threads: int = 1,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(closest, mask) of every person, at box size, from guarded outputs."""
    which = np.zeros(len(boxes), np.int32) if which is None else which
    if layout == "NHWC":
        maps = [np.ascontiguousarray(m.transpose(0, 2, 3, 1)) for m in maps]
    op = _core.ops.ClosestVertices(layout=layout)
    closest, mask, offsets = op(*maps, boxes, which, *tree_of(*meshes), guard=True, threads=threads)
    assert offsets[0] == 0 and len(closest) == len(mask) == offsets[-1]
    people = []
    for box, begin, end in zip(boxes, offsets[:-1], offsets[1:], strict=True):
        shape = reference.patch_size(box)
        assert end - begin == shape[0] * shape[1]
        people.append((closest[begin:end].reshape(shape), mask[begin:end].reshape(shape)))
    return people


def assert_closest(closest: np.ndarray, mask: np.ndarray, distances: np.ndarray, scale: float = 1) -> None:
    """Nowhere is another vertex closer than the one that was found, by more than rounding; 0 outside the mask."""
    assert (closest[mask == 0] == 0).all()
    found = np.take_along_axis(distances, closest[..., None].astype(np.intp), axis=-1)[..., 0]
    excess = (found - distances.min(axis=-1))[mask == 1]
    assert (excess <= TIE * scale).all(), excess.max()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("count", "dimensions", "coarse", "size"),
    [
        (1, 16, 2, 14),
        (15, 16, 2, 14),
        (16, 3, 15, 7),
        (17, 1, 2, 5),
        (300, 16, 2, 28),
        (4097, 20, 3, 14),
        (700, 33, 2, 1),
    ],
)
def test_reference(layout: str, count: int, dimensions: int, coarse: int, size: int) -> None:
    vertices = surface(count, dimensions)
    maps = make_maps(4, vertices, size, coarse, count)
    boxes = np.array([[5, 6, 35.5, 30], [0, 0, 0.3, 0.2], [7, 7, 8, 40], [-3, 2, 20, 3.9]], np.float32)
    for k, (closest, mask) in enumerate(run(maps, boxes, vertices, layout=layout)):
        expected, decided, distances = reference.closest_vertices(maps[0][k], maps[1][k], vertices, boxes[k])
        assert np.array_equal(mask == 1, expected) or (decided[(mask == 1) != expected] < 1e-5).all()
        assert_closest(closest, mask, distances)


def test_steps_in_torch() -> None:
    """As DensePose does it: interpolate, matrix product, first minimum of the squared distance."""
    torch = pytest.importorskip("torch")
    vertices = surface(5001)
    maps = make_maps(2, vertices, 64)
    boxes = np.array([[0, 0, 61, 96], [3, 4, 203, 154]], np.float32)
    for k, (closest, mask) in enumerate(run(maps, boxes, vertices, threads=2)):
        height, width = mask.shape
        coarse, pixels = (
            torch.nn.functional.interpolate(torch.from_numpy(m[k : k + 1]), (height, width), mode="bilinear")[0]
            for m in maps
        )
        points, mesh = pixels.flatten(1).T, torch.from_numpy(vertices)
        distances = (points**2).sum(1, keepdim=True) + (mesh**2).sum(1) - 2 * points @ mesh.T
        expected = distances.argmin(dim=1).numpy().reshape(height, width)
        assert np.array_equal(mask, coarse.argmax(dim=0).numpy() > 0)
        assert 0.3 < mask.mean() < 0.7
        same = (closest == expected)[mask == 1]
        assert same.mean() > 0.999
        double = torch.cdist(points.double(), mesh.double()).numpy().reshape(height, width, -1) ** 2
        assert_closest(closest, mask, double)


@pytest.mark.parametrize("make", [surface, scattered])
def test_pruning_changes_nothing(make: object) -> None:
    """Every vertex is compared with in the smallest meshes; in larger ones most are passed over."""
    vertices = make(3000)  # type: ignore[operator]
    maps = make_maps(1, vertices, 28)
    boxes = np.array([[0, 0, 60, 70]], np.float32)
    ((closest, mask),) = run(maps, boxes, vertices)
    _, _, distances = reference.closest_vertices(maps[0][0], maps[1][0], vertices, boxes[0])
    assert mask.any() and len(np.unique(closest)) > 20
    assert_closest(closest, mask, distances)


def test_of_equal_ones_the_lowest_number() -> None:
    once = surface(200, 4)
    vertices = np.concatenate([once, once[::-1], once])  # number v stands at v, 399 - v and 400 + v
    maps = make_maps(1, once, 14)
    ((closest, mask),) = run(maps, np.array([[0, 0, 40, 40]], np.float32), vertices)
    assert mask.any() and (closest < 200).all()


def test_two_meshes_in_one_picture() -> None:
    first, second = surface(5000, seed=1), surface(90, seed=2)
    maps = make_maps(3, first)
    boxes = np.tile(np.array([[0, 0, 25, 31]], np.float32), (3, 1))
    which = np.array([1, 0, 1], np.int32)
    for k, (closest, mask) in enumerate(run(maps, boxes, first, second, which=which)):
        vertices = second if which[k] else first
        _, _, distances = reference.closest_vertices(maps[0][k], maps[1][k], vertices, boxes[k])
        assert_closest(closest, mask, distances)
    # A mesh that is not there is the nearest one that is: nothing outside is read.
    beyond = run(maps, boxes, first, second, which=np.array([7, -7, 1], np.int32))
    assert np.array_equal(beyond[0][0], run(maps, boxes, first, second, which=which)[0][0])


def test_nobody() -> None:
    vertices = surface(40)
    maps = [m[:0] for m in make_maps(1, vertices)]
    assert run(maps, np.zeros((0, 4), np.float32), vertices) == []


def test_all_background() -> None:
    vertices = surface(40)
    maps = make_maps(1, vertices)
    maps[0][:, 0] = 9
    ((closest, mask),) = run(maps, np.array([[0, 0, 9, 9]], np.float32), vertices)
    assert not mask.any() and not closest.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -2e19])
def test_values_without_a_closest_vertex(value: float) -> None:
    """The squared distance to every vertex is the same there: not a number, or infinite."""
    vertices = surface(500)
    maps = make_maps(1, vertices, 8)
    maps[0][:, 1] = 9
    maps[1][:, 3] = value
    ((closest, mask),) = run(maps, np.array([[0, 0, 8, 8]], np.float32), vertices)
    assert mask.all() and not closest.any()


def test_logits_that_are_not_numbers_count_as_the_largest() -> None:
    vertices = surface(50)
    maps = make_maps(1, vertices, 4)
    maps[0][0, 0], maps[0][0, 1] = 0, -1
    maps[0][0, 1, :2] = np.nan  # the foreground's
    maps[0][0, 0, 3] = np.nan  # the background's
    ((_, mask),) = run(maps, np.array([[0, 0, 4, 4]], np.float32), vertices)
    assert mask[:2].all() and not mask[3].any()


def test_vertices_of_other_lengths() -> None:
    """Embeddings of length 1 are the rule, not a condition: distance decides, not direction."""
    rng = np.random.default_rng(3)
    vertices = (surface(600, 5) * rng.uniform(0.1, 3, (600, 1))).astype(np.float32)
    vertices[17] = 0
    maps = make_maps(2, vertices, 14)
    boxes = np.array([[0, 0, 30, 30], [0, 0, 14, 50]], np.float32)
    for k, (closest, mask) in enumerate(run(maps, boxes, vertices)):
        _, _, distances = reference.closest_vertices(maps[0][k], maps[1][k], vertices, boxes[k])
        assert_closest(closest, mask, distances, scale=10)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(threads: int) -> None:
    vertices = surface(2000)
    maps = make_maps(3, vertices, 28)
    boxes = np.array([[0, 0, 90, 120], [3, 3, 5, 200], [0, 0, 77, 50]], np.float32)
    once, again = run(maps, boxes, vertices), run(maps, boxes, vertices, threads=threads)
    assert all(np.array_equal(x, y) for a, b in zip(once, again, strict=True) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [1, 2, 4])
def test_maps_in_one_tensor(layout: str, block: int) -> None:
    """As the predictor's convolution makes them, before the pixel shuffle."""
    vertices = surface(300)
    coarse, embedding = make_maps(2, vertices, 16, 3)
    boxes = np.array([[0, 0, 30, 40], [1, 1, 9, 9]], np.float32)
    expected = run([coarse, embedding], boxes, vertices)
    both = np.concatenate([coarse, embedding], axis=1)
    people, channels, size = both.shape[:3]
    cells = both.reshape(people, channels, size // block, block, size // block, block)
    packed = cells.transpose(0, 1, 3, 5, 2, 4).reshape(people, -1, size // block, size // block)
    if layout == "NHWC":
        packed = packed.transpose(0, 2, 3, 1)
    op = _core.ops.ClosestVertices(layout=layout, channels=[3, 16], block=block)
    which = np.zeros(2, np.int32)
    closest, mask, _ = op(np.ascontiguousarray(packed), boxes, which, *tree_of(vertices), guard=True)
    assert np.array_equal(closest, np.concatenate([c.ravel() for c, _ in expected]))
    assert np.array_equal(mask, np.concatenate([m.ravel() for _, m in expected]))


# ---- what is refused


def test_the_tree_holds_every_vertex_once() -> None:
    vertices = scattered(5001, 7)
    blocks, numbers, _, _ = _core.vertex_tree(vertices)
    there = numbers < len(vertices)
    assert np.array_equal(np.sort(numbers[there]), np.arange(5001)) and (numbers[~there] == 2**31 - 1).all()
    lanes = blocks.transpose(0, 2, 1)
    assert np.array_equal(lanes[there][:, :-1], vertices[numbers[there]])
    assert np.isneginf(lanes[~there][:, -1]).all()


@pytest.mark.parametrize(
    ("embeddings", "words"),
    [
        (np.zeros((0, 16), np.float32), "without vertices"),
        (np.zeros((4, 0), np.float32), "no dimension"),
        (np.array([[0, 1], [np.nan, 0]], np.float32), "vertex 1 is not a finite number"),
        (np.array([[0, 1e9]], np.float32), "vertex 0 is not a finite number of ordinary size"),
        (np.zeros(5, np.float32), "shape"),
    ],
)
def test_embeddings_that_make_no_tree(embeddings: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _core.vertex_tree(embeddings)


def call(op: object, change: dict[int, np.ndarray]) -> None:
    vertices = surface(40, 4)
    arrays = [*make_maps(2, vertices, 6), np.zeros((2, 4), np.float32), np.zeros(2, np.int32), *tree_of(vertices)]
    for index, array in change.items():
        arrays[index] = array
    op(*arrays)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({1: np.zeros((2, 5, 6, 6), np.float32)}, "groups"),
        ({1: np.zeros((2, 4, 7, 7), np.float32)}, "embedding"),
        ({2: np.zeros((3, 4), np.float32)}, "boxes_original"),
        ({2: np.full((2, 4), np.nan, np.float32)}, "not finite"),
        ({3: np.zeros(2, np.int64)}, "meshes"),
        ({5: np.zeros((256, 15), np.int32)}, "numbers"),
        ({8: np.array([0, 2], np.int32)}, "sheets must rise"),
        ({8: np.array([0, 0], np.int32)}, "sheets must rise"),
        ({8: np.array([0], np.int32)}, "no mesh"),
    ],
)
def test_wrong_inputs_are_named(change: dict[int, np.ndarray], words: str) -> None:
    with pytest.raises(ValueError, match=f"ClosestVertices: .*{words}"):
        call(_core.ops.ClosestVertices(), change)


@pytest.mark.parametrize("attributes", [{"layout": "CHWN"}, {"channels": [2]}, {"block": 2}, {"channels": [0, 16]}])
def test_wrong_attributes_are_named(attributes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"ClosestVertices: (layout|channels|block)"):
        _core.ops.ClosestVertices(**attributes)
