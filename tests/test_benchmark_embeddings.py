"""What ``benchmarks/embeddings.py`` counts, on people made by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import annotated_scenes as scenes
import numpy as np
import pytest

from densepose_engine.decoders.embeddings import Surface, VertexResult
from densepose_engine.decoders.mesh import Geodesics

ROOT = Path(__file__).resolve().parent.parent
COUNT = 6


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("embeddings_benchmark", ROOT / "benchmarks" / "embeddings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def result(*people: tuple[list[float], int, int]) -> VertexResult:
    """Of each: box, the vertex everywhere, and how many columns are background."""
    sizes = [(int(b[3] - b[1]), int(b[2] - b[0])) for b, *_ in people]
    masks = tuple(np.arange(w)[None].repeat(h, axis=0) >= off for (h, w), (*_, off) in zip(sizes, people, strict=True))
    return VertexResult(
        np.array([box for box, *_ in people], np.float32).reshape(-1, 4),
        np.full(len(people), 0.9, np.float32),
        np.zeros(len(people), np.int32),
        tuple(np.where(m, vertex, 0).astype(np.uint16) for m, (_, vertex, _) in zip(masks, people, strict=True)),
        masks,
        ("line_6",) * len(people),
        (40, 50),
        {"line_6": Surface("line_6", np.zeros((COUNT, 3), np.uint8))} if people else {},
    )


def surface(benchmark: ModuleType) -> object:
    """Vertices 0.1 m apart on a line; on part 1, U is the number of the vertex in sixths."""
    place = 0.1 * np.arange(COUNT)
    grid = np.zeros((24, 1, COUNT), np.int64)
    grid[0, 0] = np.arange(COUNT)
    return benchmark.Surface(Geodesics("line_6", np.abs(place[:, None] - place[None]).astype(np.float32)), grid)


def test_errors_are_along_the_surface_and_of_points_in_the_mask(benchmark: ModuleType) -> None:
    # In the box 10, 10, 20, 20: vertices 1 and 4 at pixel (20, 20), vertex 2 at pixel (10, 20), off the mask.
    points = [(128, 128, 1, 1.5 / 6, 0), (128, 128, 1, 4.5 / 6, 0), (0, 128, 1, 2.5 / 6, 0)]
    picture = scenes.picture(scenes.person((10, 10, 20, 20), points), scenes.person((30, 30, 9, 9), points))
    found = result(([9, 10, 30, 30], 2, 5), ([11, 12, 30, 30], 3, 0))
    errors = benchmark.errors_of(picture, found, surface(benchmark))
    assert list(errors) == [0]  # nobody is where the second one is, and the better box is taken
    np.testing.assert_allclose(errors[0], [0.1, 0.2, np.nan], rtol=1e-6)


def test_a_side_s_figures(benchmark: ModuleType) -> None:
    points = [(128, 128, 1, 1.5 / 6, 0), (10, 128, 1, 2.5 / 6, 0)]
    picture = scenes.picture(
        scenes.person((10, 10, 20, 20), points, id=1), scenes.person((30, 10, 20, 20), points, id=2)
    )
    reference = result(([10, 10, 30, 30], 2, 0))
    # Of the same person: another vertex, and a column of background; and somebody whom the reference does not have.
    other = result(([10, 10, 30, 30], 3, 1), ([30, 10, 50, 30], 1, 0))
    side = benchmark.Side("other", lambda rgb, seed: other)
    side.add(picture, np.zeros((40, 50, 3), np.uint8), reference, surface(benchmark))
    row = side.report()
    assert row["annotated_people_of_both"] == 1 and row["annotated_people_of_other_only"] == 1
    assert row["annotated_people_of_reference_only"] == row["people_of_reference_only"] == 0
    assert row["people_of_both"] == row["people_of_other_only"] == 1
    assert row["points_in_both_masks"] == 1 and row["own_points"] == [2, 1]
    assert row["reference_error_cm"] == pytest.approx(10) and row["error_cm"] == pytest.approx(20)
    np.testing.assert_allclose(row["change"], [1, 1, 1], rtol=1e-6)
    assert row["own_reference_error_cm"] == pytest.approx(5) and row["own_change"][0] == pytest.approx(3)
    assert row["mask_iou"] == pytest.approx(19 / 20) and row["equal_vertices"] == 0
    assert row["distance_cm"] == pytest.approx(10)


def test_the_interval_draws_people_with_all_their_seeds(benchmark: ModuleType) -> None:
    rng = np.random.default_rng(0)
    who, points, error = np.arange(200) % 100, np.full(200, 10.0), rng.uniform(1, 2, 200)
    assert benchmark.change(who, points, error, points, error) == [0, 0, 0]
    noise = rng.normal(0, 0.3, 100)[who]
    value, low, high = benchmark.change(who, points, error, points, error + noise)
    assert value == pytest.approx(noise.sum() / error.sum()) and low < value < high
    # Both seeds of a person are the same here: as many people as there are are drawn, not twice as many.
    assert (high - low) / 4 == pytest.approx(0.3 / np.sqrt(100) / error.mean(), rel=0.25)
