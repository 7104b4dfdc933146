"""The graph cut into sections of fixed shapes gives what it gives as a whole."""

from __future__ import annotations

import locale
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from densepose_engine import DensePoseResult, Engine
from densepose_engine.backends import openvino, openvino_sections
from densepose_engine.backends.openvino import make_core
from densepose_engine.backends.openvino_compile import Compiler
from densepose_engine.backends.openvino_sections import ANY_ROWS, BOX_ROWS, PEOPLE_ROWS, cut, plan_rows
from densepose_engine.model.engine_file import read_engine_file

SETTINGS = [(1000, 2), (1000, 13), (999, 8), (130, 5), (100, 1), (7, 3), (1, 1), (0, 3), (1000, 0)]


def load(path: Path, whole: bool = False) -> Engine:
    with pytest.MonkeyPatch.context() as patch:
        if whole:
            patch.setattr(openvino, "cut", lambda model: None)
        return Engine.load(path, warm_up=0, cache_dir=None, num_requests=1)


@pytest.fixture(scope="module")
def whole(demo_engine: Path) -> Iterator[Engine]:
    with load(demo_engine, whole=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (120, 160, 3), np.uint8)


def infer(engine: Engine, picture: np.ndarray, proposals: int, people: int) -> DensePoseResult:
    # Every proposal is a person, and none suppresses another.
    return engine.infer(picture, score_threshold=0, nms_threshold=1, max_proposals=proposals, max_people=people)


def assert_same(ours: DensePoseResult, expected: DensePoseResult) -> None:
    assert len(ours) == len(expected)
    np.testing.assert_allclose(ours.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(ours.scores, expected.scores, atol=1e-5)
    for k in range(len(ours)):
        agree = ours.labels[k] == expected.labels[k]
        assert agree.mean() > 0.999
        np.testing.assert_allclose(ours.uv[k][:, agree], expected.uv[k][:, agree], atol=1e-4)


@pytest.mark.parametrize("sizes", [BOX_ROWS, PEOPLE_ROWS, (250, 50), (7,)])
def test_runs_cover_all_rows_once_and_waste_little(sizes: tuple[int, ...]) -> None:
    for rows in range(1101):
        end = 0
        for start, size in plan_rows(rows, sizes):
            assert start == end and start < rows and size in sizes
            end = start + size
        assert end >= rows
        assert end - rows < max(sizes[-1], sizes[0] / 8 + 1)
        assert end <= -(-rows // sizes[0]) * sizes[0]  # what there is memory for


def test_a_head_for_any_number_of_rows_runs_once() -> None:
    assert list(plan_rows(37, (ANY_ROWS,))) == [(0, 37)]
    assert list(plan_rows(0, (ANY_ROWS,))) == []


@pytest.mark.parametrize("light_bytes", [None, 0])
def test_sections_give_what_the_whole_gives(
    light_bytes: int | None, demo_engine: Path, whole: Engine, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    if light_bytes is not None:  # then both heads are heavy, and made for any number of rows
        monkeypatch.setattr(openvino_sections, "_LIGHT_BYTES", light_bytes)
    with load(demo_engine) as engine:
        for proposals, people in SETTINGS:
            expected = infer(whole, picture, proposals, people)
            assert len(expected) == min(proposals, people)
            assert_same(infer(engine, picture, proposals, people), expected)


def test_sizes_of_pictures_may_change(dynamic_engine: Path) -> None:
    rng = np.random.default_rng(4)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((60, 90), (120, 40), (60, 90))]
    with load(dynamic_engine) as engine, load(dynamic_engine, whole=True) as expected:
        for picture in pictures:
            assert_same(infer(engine, picture, 200, 3), infer(expected, picture, 200, 3))


def test_int8_sections_are_the_same_bytes(
    demo_int8_engine: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "_INT8_TRUNK", {})  # the whole is compiled without it
    with load(demo_int8_engine) as engine, load(demo_int8_engine, whole=True) as expected:
        for proposals, people in SETTINGS[:4]:
            ours, theirs = (infer(one, picture, proposals, people) for one in (engine, expected))
            np.testing.assert_array_equal(ours.boxes, theirs.boxes)
            for k in range(people):
                np.testing.assert_array_equal(ours.labels[k], theirs.labels[k])
                np.testing.assert_array_equal(ours.uv[k], theirs.uv[k])


def test_sums_are_made_by_int8_convolutions(demo_int8_engine: Path) -> None:
    """Residuals and the pyramid's largest level are not written as floats, to be added by a kernel of their own."""
    file = read_engine_file(demo_int8_engine)
    core = make_core()
    model = core.read_model(file.payload["model.xml"], file.payload["model.bin"])
    trunk = openvino._compile(Compiler(core), model, "int8", {}).trunk
    info = {op.get_friendly_name(): op.get_rt_info() for op in trunk.get_runtime_model().get_ops()}
    floats = [
        name
        for name, found in info.items()
        if found["layerType"].astype(str) == "Convolution" and found["outputPrecisions"].astype(str) != "u8"
    ]
    assert any(name.startswith("rpn") for name in floats)  # what a custom node reads
    assert not [name for name in floats if name.startswith(("backbone", "neck/l"))]


def test_loading_leaves_the_locale_as_it_was(demo_engine: Path, tmp_path: Path) -> None:
    """OpenVINO sets another one while it writes its cache."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        for cache in ("a", "b"):
            Engine.load(demo_engine, warm_up=0, cache_dir=tmp_path / cache).close()
            assert locale.setlocale(locale.LC_CTYPE) == "C.UTF-8"
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def test_cutting_leaves_the_graph_as_it_was(demo_engine: Path) -> None:
    payload = read_engine_file(demo_engine).payload
    model = make_core().read_model(payload["model.xml"], payload["model.bin"])
    names = [op.get_friendly_name() for op in model.get_ordered_ops()]
    sections = cut(model)
    assert sections is not None
    assert [op.get_friendly_name() for op in model.get_ordered_ops()] == names
    assert all(not port.get_partial_shape().is_dynamic for one in sections.models() for port in one.outputs)
    assert set(sections.box.models) == set(BOX_ROWS) and set(sections.people.models) == set(PEOPLE_ROWS)
    # Every layer with weights is in just one kind of section.
    layers = [name for name in names if name.endswith("WithoutBiases")]
    kinds = [sections.trunk, sections.box.models[BOX_ROWS[0]], sections.people.models[1]]
    found = [op.get_friendly_name() for one in kinds for op in one.get_ops()]
    assert sorted(name for name in found if name in layers) == sorted(layers)


def test_a_graph_without_our_nodes_stays_whole() -> None:
    from openvino import Model, Type, opset13

    image = opset13.parameter([1, 3, 8, 8], Type.f32, name="image")
    assert cut(Model([opset13.relu(image)], [image], "other")) is None


def test_layers_are_counted_once_a_frame(demo_engine: Path, picture: np.ndarray) -> None:
    with Engine.load(demo_engine, warm_up=0, cache_dir=None, num_requests=1, profile=True) as engine:
        assert engine._session is not None
        for _ in range(2):
            infer(engine, picture, 1000, 7)
        with engine._session.request() as request:
            layers = request.profile()
    names = [layer.name for layer in layers]
    assert len(set(names)) == len(names)
    times = {layer.name: layer.milliseconds for layer in layers}
    assert times["box/MultilevelRoiAlign"] > 0 and times["densepose/MultilevelRoiAlign"] > 0
