"""The graph cut into sections of fixed shapes gives what it gives as a whole."""

from __future__ import annotations

import locale
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from densepose_engine import DensePoseResult, Engine
from densepose_engine.backends import openvino
from densepose_engine.backends.openvino import make_core
from densepose_engine.backends.openvino import sections as openvino_sections
from densepose_engine.backends.openvino.compile import Compiler
from densepose_engine.backends.openvino.sections import ANY_ROWS, BOX_ROWS, PEOPLE_ROWS, cut, plan_rows
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


def test_no_thread_sees_another_locale_while_several_load(demo_engine: Path, tmp_path: Path) -> None:
    """OpenVINO's own cache sets another one for the whole process."""
    before = locale.setlocale(locale.LC_CTYPE)
    seen: set[str] = set()
    loaded = threading.Event()

    def watch() -> None:
        while not loaded.is_set():
            seen.add(locale.setlocale(locale.LC_CTYPE))

    def load_twice(cache: Path) -> None:
        for _ in range(2):
            Engine.load(demo_engine, warm_up=0, cache_dir=cache, num_requests=1).close()

    watcher = threading.Thread(target=watch)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        watcher.start()
        loaders = [threading.Thread(target=load_twice, args=(tmp_path / name,)) for name in ("a", "b")]
        for loader in loaders:
            loader.start()
        for loader in loaders:
            loader.join()
        assert all(len(list((tmp_path / name).iterdir())) == 7 for name in ("a", "b"))
        assert locale.setlocale(locale.LC_CTYPE) == "C.UTF-8"
    finally:
        loaded.set()
        watcher.join()
        locale.setlocale(locale.LC_CTYPE, before)
    assert seen == {"C.UTF-8"}


_DECIMAL_COMMA = """
import locale, sys
from pathlib import Path
import numpy as np
from densepose_engine import Engine
from densepose_engine.backends import openvino
from densepose_engine.model.compiled import NominalLoad
from densepose_engine.model.engine_file import read_engine_file
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
assert locale.localeconv()["decimal_point"] == ","
picture = np.random.default_rng(3).integers(0, 256, (120, 160, 3), np.uint8)
results = []
for cache in (None, sys.argv[3], sys.argv[3]):
    with Engine.load(sys.argv[1], cache_dir=cache, warm_up=0, num_requests=1) as engine:
        results.append(engine.infer(picture, score_threshold=0, nms_threshold=1, max_people=7))
assert len(results[0]) == 7 and results[0] == results[1] == results[2]
graph = Path(sys.argv[2]).read_bytes()
payload, _, _ = openvino.build(graph, "fp32", NominalLoad((320, 448), {"box": 100, "densepose": 1}))
assert b'cube_coeff="-0.75"' in payload["model.xml"]
assert locale.setlocale(locale.LC_NUMERIC) == "de_DE.UTF-8"
"""


def test_a_decimal_comma_changes_no_graph(demo_int8_engine: Path, demo_onnx: Path, tmp_path: Path) -> None:
    """Neither one that is built, nor one that is kept: OpenVINO writes numbers as the locale has them."""
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")], capture_output=True, check=False
    )
    if not made or not (tmp_path / "de_DE.UTF-8").is_dir():
        pytest.skip("this system cannot make a locale with a decimal comma")
    done = subprocess.run(
        [sys.executable, "-c", _DECIMAL_COMMA, str(demo_int8_engine), str(demo_onnx), str(tmp_path / "cache")],
        env={**os.environ, "LOCPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


_MANY_SIZES = """
import sys
import numpy as np
from densepose_engine import Engine

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

with Engine.load(sys.argv[1], cache_dir=None, warm_up=0, num_requests=1, num_threads=2) as engine:
    # Once the largest, whose maps are what the engine needs anyway; then sizes that it has not seen.
    engine.infer(np.zeros((640, 640, 3), np.uint8), max_proposals=10)
    sizes = [(64 + 9 * i, 640 - 9 * i) for i in range(60)]
    before = None
    for number, size in enumerate(sizes):
        engine.infer(np.zeros((*size, 3), np.uint8), max_proposals=10)
        if number == 11:
            before = resident()
    print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell what is resident")
def test_a_dynamic_engine_keeps_no_kernels_of_every_size(dynamic_engine: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MANY_SIZES, str(dynamic_engine)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 60, "megabytes, for 48 sizes more"


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
