"""The graph's ends as the engine reads and writes them: the same numbers, with less to convert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from densepose_engine import Engine
from densepose_engine.backends import openvino
from densepose_engine.build import build_engine
from densepose_engine.engine_file import write_engine_file
from densepose_engine.export.layout import PACKED, pack_maps, take_bytes

MAPS = ["coarse_segm", "fine_segm", "u", "v"]
CHANNELS = [15, 25, 25, 25]


@pytest.fixture
def demo(demo_onnx: Path) -> ir.Model:
    return ir.from_proto(onnx.load(demo_onnx))


def test_maps_leave_in_one_tensor(demo: ir.Model) -> None:
    assert pack_maps(demo, MAPS) == {"channels": CHANNELS, "block": 2}
    names = [value.name for value in demo.graph.outputs]
    assert names == ["boxes", "scores", "count", PACKED]
    assert not [node.op_type for node in demo.graph if node.op_type in ("Split", "DepthToSpace")]
    assert demo.graph.outputs[-1].producer().op_type == "Conv"
    onnx.checker.check_model(ir.to_proto(demo))


def test_maps_that_something_follows_stay_as_they_are(demo: ir.Model) -> None:
    """As where confidences scale the logits."""
    fine = next(value for value in demo.graph.outputs if value.name == "fine_segm")
    relu = ir.node("Relu", [fine])
    demo.graph.append(relu)
    fine.name, relu.outputs[0].name = "raw", "fine_segm"
    index = demo.graph.outputs.index(fine)
    demo.graph.outputs[index] = relu.outputs[0]
    nodes = [node.name for node in demo.graph]
    assert pack_maps(demo, MAPS) is None
    assert [node.name for node in demo.graph] == nodes
    assert [value.name for value in demo.graph.outputs][3:] == MAPS


def test_a_float_graph_takes_floats(demo: ir.Model) -> None:
    assert take_bytes(demo) is None
    assert demo.graph.inputs[0].dtype == ir.DataType.FLOAT


def test_packed_maps_are_the_same_to_the_last_bit(
    demo_onnx: Path, demo_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "FUSES_ENDS", False)
    write_engine_file(tmp_path / "plain.engine", build_engine(demo_onnx))
    picture = np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)
    results = []
    for path in (demo_engine, tmp_path / "plain.engine"):
        with Engine.load(path, warm_up=0, cache_dir=None) as engine:
            assert bool(engine.model.get("packed_maps")) == (path == demo_engine)
            results.append(engine.infer(picture, score_threshold=0, max_people=3))
    ours, plain = results
    assert len(ours) == 3
    np.testing.assert_array_equal(ours.boxes, plain.boxes)
    for k in range(3):
        np.testing.assert_array_equal(ours.labels[k], plain.labels[k])
        np.testing.assert_array_equal(ours.uv[k], plain.uv[k])


@pytest.mark.parametrize("packed", [{"channels": [1, 2]}, {"channels": CHANNELS, "block": 0}, {"size": 3}, [1]])
def test_a_manifest_with_nonsense_is_an_error(packed: object, demo_engine: Path, tmp_path: Path) -> None:
    from densepose_engine import EngineFileError
    from densepose_engine.engine_file import read_engine_file

    file = read_engine_file(demo_engine)
    file.model["packed_maps"] = packed
    write_engine_file(tmp_path / "bad.engine", file)
    with pytest.raises(EngineFileError, match="manifest"):
        Engine.load(tmp_path / "bad.engine", warm_up=0, cache_dir=None)
