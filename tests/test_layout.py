"""The graph's ends as the engine reads and writes them: the same numbers, with less to convert."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from engine_files import rewrite
from onnx.reference import ReferenceEvaluator
from small_graphs import Sketch

from densepose_engine import Engine
from densepose_engine.backends import openvino
from densepose_engine.compile.build import build_engine
from densepose_engine.compile.layout import PACKED, flatten_nhwc, pack_maps, take_bytes
from densepose_engine.model.description import PackedMaps
from densepose_engine.model.engine_file import write_engine_file

MAPS = ["coarse_segm", "fine_segm", "u", "v"]
CHANNELS = [15, 25, 25, 25]


@pytest.fixture
def demo(demo_onnx: Path) -> ir.Model:
    return ir.from_proto(onnx.load(demo_onnx))


def test_maps_leave_in_one_tensor(demo: ir.Model) -> None:
    assert pack_maps(demo, MAPS) == PackedMaps(tuple(CHANNELS), 2, "NHWC")
    names = [value.name for value in demo.graph.outputs]
    assert names == ["boxes", "scores", "count", PACKED]
    assert not [node.op_type for node in demo.graph if node.op_type in ("Split", "DepthToSpace")]
    transpose = demo.graph.outputs[-1].producer()
    assert transpose.op_type == "Transpose" and transpose.inputs[0].producer().op_type == "Conv"
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


def fully_connected(readers: int, quantized: bool = False) -> Sketch:
    """A 4x5x6 map, flattened, and ``readers`` layers on it that do not share their weights."""
    sketch = Sketch()
    image = sketch.input("image", ["boxes", 4, 5, 6])
    flat = sketch.node("Flatten", [image], "flat", ["boxes", 120])
    for number in range(readers):
        if quantized:
            weight = sketch.constant(f"w{number}", np.zeros((3, 120)))
            weight.const_value = ir.tensor(sketch.rng.integers(-128, 128, (3, 120)).astype(np.int8), name=weight.name)
            weight.dtype = ir.DataType.INT8
            scale = sketch.constant(f"s{number}", sketch.rng.uniform(0.01, 1, 3))
            weight = sketch.node("DequantizeLinear", [weight, scale], f"dq{number}", [3, 120], axis=0)
        else:
            weight = sketch.constant(f"w{number}", sketch.rng.standard_normal((3, 120)))
        output = sketch.node("Gemm", [flat, weight], f"y{number}", ["boxes", 3], transB=1)
        sketch.graph.outputs.append(output)
    return sketch


def evaluate(sketch: Sketch) -> list[np.ndarray]:
    image = np.random.default_rng(5).standard_normal((2, 4, 5, 6)).astype(np.float32)
    outputs: list[np.ndarray] = ReferenceEvaluator(ir.to_proto(sketch.model)).run(None, {"image": image})
    return outputs


@pytest.mark.parametrize("quantized", [False, True])
def test_fully_connected_layers_read_a_map_pixel_by_pixel(quantized: bool) -> None:
    sketch = fully_connected(2, quantized)
    before = evaluate(sketch)
    flatten_nhwc(sketch.model)
    flat = next(node for node in sketch.graph if node.op_type == "Flatten")
    assert [use.op_type for use in sketch.graph if use.op_type == "Transpose"] == ["Transpose"]
    transpose = flat.inputs[0].producer()
    assert list(transpose.attributes["perm"].as_ints()) == [0, 2, 3, 1]
    for ours, expected in zip(evaluate(sketch), before, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("why", ["another reads the weights", "another reads the values", "not of a map"])
def test_what_cannot_follow_stays_as_it_is(why: str) -> None:
    sketch = fully_connected(1)
    flat, weight = (next(node for node in sketch.graph if node.op_type == "Gemm").inputs)[:2]
    if why == "another reads the weights":
        sketch.node("Relu", [weight], "other")
    elif why == "another reads the values":
        sketch.node("Relu", [flat], "other")
    else:
        sketch.graph.inputs[0].shape = None
    nodes, values = [node.name for node in sketch.graph], weight.const_value.numpy().copy()
    flatten_nhwc(sketch.model)
    assert [node.name for node in sketch.graph] == nodes
    np.testing.assert_array_equal(weight.const_value.numpy(), values)


def test_a_float_graph_takes_floats(demo: ir.Model) -> None:
    assert take_bytes(demo) is None
    assert demo.graph.inputs[0].dtype == ir.DataType.FLOAT


def test_packed_maps_are_the_same_to_the_last_bit(
    demo_onnx: Path, demo_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(openvino.OPENVINO, device=replace(openvino.OPENVINO.device, fuses_ends=False))
    monkeypatch.setattr(openvino, "OPENVINO", plain)
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

    bad = rewrite(demo_engine, tmp_path / "bad.engine", lambda manifest: manifest["model"].update(packed_maps=packed))
    with pytest.raises(EngineFileError, match="manifest"):
        Engine.load(bad, warm_up=0, cache_dir=None)
