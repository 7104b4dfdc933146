"""Where Q/DQ pairs go, with which scales, for every target: on graphs of a few nodes, and a lint of the demo's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_runner import run_cut
from onnx import numpy_helper
from small_detector import small_detector
from small_graphs import Sketch

from densepose_engine.calibration.place.points import layers, source
from densepose_engine.calibration.place.quantize import TARGETS, Placement, Target, activation_scale, quantize
from densepose_engine.calibration.place.ranges import layer_inputs, ranges
from densepose_engine.calibration.place.scales import SMALLEST_SCALE, scale_zero_point
from densepose_engine.calibration.table import CalibrationTable
from densepose_engine.compile.build import Int8Options, quantized_graph
from densepose_engine.errors import CalibrationError

OPENVINO, TENSORRT = TARGETS["openvino"], TARGETS["tensorrt"]


def spread(model: ir.Model, low: float = -1.0, high: float = 1.0) -> dict[str, tuple[float, float]]:
    """Ranges for every tensor, each a little wider than the one before, so that no two agree by accident."""
    names = [str(value.name) for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs))]
    return {name: (low * (1 + 0.1 * k), high * (1 + 0.1 * k)) for k, name in enumerate(names)}


def pair_of(model: ir.Model, node: str, index: int = 0) -> tuple[float, int] | None:
    """Scale and zero point of the DequantizeLinear that ``node`` reads, looking through what only moves values."""
    value = source(next(one for one in model.graph if one.name == node).inputs[index])
    producer = value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    return float(producer.inputs[1].const_value.numpy()), int(producer.inputs[2].const_value.numpy())


# ---- scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 6.0, (6 / 255, 0, "uint8")),
        (0.5, 6.0, (6 / 255, 0, "uint8")),
        (-1.0, 3.0, (4 / 255, 64, "uint8")),
        (-2.0, 0.0, (2 / 255, 255, "uint8")),
        (0.0, 0.0, (1.0, 0, "uint8")),
    ],
)
def test_openvino_takes_unsigned_integers(low: float, high: float, expected: tuple[float, int, str]) -> None:
    scale = activation_scale(low, high, OPENVINO)
    assert (scale.scale, scale.zero_point, scale.dtype) == (pytest.approx(expected[0], rel=1e-6), *expected[1:])


@pytest.mark.parametrize(("low", "high", "bound"), [(0.0, 6.0, 6), (-1.0, 3.0, 3), (-5.0, 3.0, 5), (0.0, 0.0, 127)])
def test_tensorrt_takes_signed_integers_around_zero(low: float, high: float, bound: float) -> None:
    scale = activation_scale(low, high, TENSORRT)
    assert (scale.scale, scale.zero_point, scale.dtype) == (pytest.approx(bound / 127, rel=1e-6), 0, "int8")


@pytest.mark.parametrize("target", [OPENVINO, TENSORRT], ids=lambda target: target.name)
@pytest.mark.parametrize("range_", [(0.0, 0.0), (0.0, 1e-30), (-1e-30, 1e-30), (0.0, 6.0), (-0.27, 11.3), (-1e6, 3.0)])
def test_graphs_get_the_scales_that_observers_judge_by(target: Target, range_: tuple[float, float]) -> None:
    """One function makes both; below the smallest scale there were two answers once."""
    scale = activation_scale(*range_, target)
    expected = scale_zero_point(*range_, unsigned=target.unsigned, symmetric=not target.unsigned)
    assert (np.float32(scale.scale), scale.zero_point) == expected
    assert scale.scale >= SMALLEST_SCALE


# ---- placement -------------------------------------------------------------------------------------------------------


def test_every_layer_reads_integers_and_what_nobody_needs_stays_float() -> None:
    sketch = Sketch()
    first = sketch.relu(sketch.conv(sketch.input("image"), "a"), "r")
    model = sketch.output(sketch.conv(first, "b"))
    placement = quantize(model, spread(model), OPENVINO)
    assert placement.layers == ["a", "b"] and set(placement.scales) == {"image", "r"}
    assert pair_of(model, "a") and pair_of(model, "b")
    assert model.graph.outputs[0].producer().op_type == "Conv"


def test_a_pair_stands_before_what_only_moves_values() -> None:
    for target, before_layer in ((OPENVINO, "MaxPool"), (TENSORRT, "DequantizeLinear")):
        sketch = Sketch()
        first = sketch.relu(sketch.conv(sketch.input("image"), "a"), "r")
        pooled = sketch.node("MaxPool", [first], "pooled", kernel_shape=[3, 3], pads=[1] * 4)
        model = sketch.output(sketch.conv(pooled, "b"))
        placement = quantize(model, spread(model), target)
        assert set(placement.scales) == {"image", "r"}
        reader = next(node for node in model.graph if node.name == "b")
        assert reader.inputs[0].producer().op_type == before_layer
        pooling = next(node for node in model.graph if node.op_type == "MaxPool")
        assert pooling.inputs[0].producer().op_type == "DequantizeLinear"
        if target.repeat:  # the very same scale: a second rounding changes nothing
            assert pair_of(model, "b") == pair_of(model, "pooled")


def residual(join: str = "Add") -> Sketch:
    """x -> a -> r -> b; r joined with b; the sum read by c."""
    sketch = Sketch()
    r = sketch.relu(sketch.conv(sketch.input("image"), "a"), "r")
    sketch.output(sketch.conv(sketch.node("Add", [r, sketch.conv(r, "b")], "sum"), "c"))
    return sketch


def test_a_sum_is_fused_into_the_layer_that_makes_one_summand() -> None:
    model = residual().model
    placement = quantize(model, spread(model), OPENVINO)
    assert set(placement.scales) == {"image", "r", "sum"}
    assert pair_of(model, "sum", 0) and pair_of(model, "sum", 1) is None
    assert placement.groups == []


def test_both_summands_are_quantized_where_no_layer_can_take_the_sum() -> None:
    sketch = Sketch()
    r, s = (sketch.relu(sketch.conv(sketch.input(f"image{k}"), f"a{k}"), f"r{k}") for k in range(2))
    both = [sketch.conv(r, "b"), sketch.conv(s, "c")]
    model = sketch.output(sketch.conv(sketch.node("Add", [r, s], "sum"), "d"), *both)
    placement = quantize(model, spread(model), OPENVINO)
    assert {"r0", "r1", "sum"} <= set(placement.scales)
    assert pair_of(model, "sum", 0) != pair_of(model, "sum", 1)  # a scale each


def concat(sketch: Sketch, values: list[ir.Value], name: str) -> ir.Value:
    return sketch.node("Concat", values, name, [1, len(values) * sketch.channels, sketch.side, sketch.side], axis=1)


def test_what_a_concatenation_reads_has_one_scale() -> None:
    for target in TARGETS.values():
        sketch = Sketch()
        maps = [sketch.relu(sketch.conv(sketch.input(f"image{k}"), f"a{k}"), f"r{k}") for k in range(3)]
        joined = concat(sketch, maps, "joined")
        weight = sketch.rng.standard_normal((4, 12, 1, 1))
        model = sketch.output(sketch.node("Conv", [joined, sketch.constant("w", weight)], "b"))
        every = spread(model)
        placement = quantize(model, every, target)
        assert placement.groups == [("r0", "r1", "r2")]
        assert "joined" not in placement.scales
        assert len({placement.scales[f"r{k}"] for k in range(3)}) == 1
        assert placement.scales["r0"] == activation_scale(*every["r2"], target)  # the widest of the three
        if target.repeat:
            assert pair_of(model, "b") == (placement.scales["r0"].scale, placement.scales["r0"].zero_point)


def test_sharing_stops_at_one_join() -> None:
    """Two concatenations have r1 in common: the later one keeps it, and r0 has nothing to do with r2."""
    sketch = Sketch()
    maps = [sketch.relu(sketch.conv(sketch.input(f"image{k}"), f"a{k}"), f"r{k}") for k in range(3)]
    weight = sketch.rng.standard_normal((4, 8, 1, 1))
    outputs = [
        sketch.node("Conv", [concat(sketch, pair, f"joined{k}"), sketch.constant(f"w{k}", weight)], f"b{k}")
        for k, pair in enumerate((maps[:2], maps[1:]))
    ]
    model = sketch.output(*outputs)
    every = spread(model)
    placement = quantize(model, every, OPENVINO)
    assert placement.groups == [("r1", "r2")]
    assert placement.scales["r1"] == placement.scales["r2"] == activation_scale(*every["r2"], OPENVINO)
    assert placement.scales["r0"] == activation_scale(*every["r0"], OPENVINO)
    # The first one requantizes: its layer reads a pair of the joined map's own.
    assert "joined0" in placement.scales and "joined1" not in placement.scales
    assert pair_of(model, "b0") is not None


def test_concatenations_of_concatenations_do_not_share_through_each_other() -> None:
    sketch = Sketch()
    maps = [sketch.relu(sketch.conv(sketch.input(f"image{k}"), f"a{k}"), f"r{k}") for k in range(3)]
    inner = concat(sketch, maps[:2], "inner")
    outer = sketch.node("Concat", [inner, maps[2]], "outer", [1, 12, 6, 6], axis=1)
    read = sketch.node("Conv", [inner, sketch.constant("w0", sketch.rng.standard_normal((4, 8, 1, 1)))], "b0")
    weight = sketch.constant("w1", sketch.rng.standard_normal((4, 12, 1, 1)))
    model = sketch.output(read, sketch.node("Conv", [outer, weight], "b1"))
    placement = quantize(model, spread(model), OPENVINO)
    assert sorted(map(sorted, placement.groups)) == [["inner", "r2"], ["r0", "r1"]]
    assert placement.scales["r0"] == placement.scales["r1"] != placement.scales["inner"] == placement.scales["r2"]
    assert pair_of(model, "b0") == (placement.scales["inner"].scale, placement.scales["inner"].zero_point)


def roi_graph(first: list[int], second: list[int]) -> ir.Model:
    """Four levels; two RoIAligns that read some of them, each read by a layer."""
    sketch = Sketch()
    levels = [sketch.relu(sketch.conv(sketch.input(f"image{k}"), f"a{k}"), f"p{k}") for k in range(4)]
    boxes, count = sketch.boxes()
    outputs = []
    for name, chosen in (("one", first), ("two", second)):
        pooled = sketch.roi_align([levels[k] for k in chosen], boxes, count, name)
        weight = sketch.constant(f"{name}.w", sketch.rng.standard_normal((4, 4, 1, 1)))
        outputs.append(sketch.node("Conv", [pooled, weight], f"after_{name}", ["n", 4, 2, 2]))
    return sketch.output(*outputs)


def reads_bytes(model: ir.Model, name: str) -> bool:
    node = next(node for node in model.graph if node.name == name)
    return all(value.producer().op_type == "QuantizeLinear" for value in node.inputs[:-2])


def test_roi_align_pools_bytes_of_one_scale() -> None:
    model = roi_graph([0], [0, 1, 2, 3])
    every = spread(model)
    placement = quantize(model, every, OPENVINO)
    assert placement.groups == [("p0", "p1", "p2", "p3")]
    assert reads_bytes(model, "one") and reads_bytes(model, "two")
    scale = activation_scale(*every["p3"], OPENVINO)
    assert {placement.scales[f"p{k}"] for k in range(4)} == {scale}
    assert pair_of(model, "after_one") == pair_of(model, "after_two") == (scale.scale, scale.zero_point)
    node = next(node for node in model.graph if node.name == "two")
    assert node.attributes["zero_point"].as_int() == scale.zero_point


def test_roi_align_never_pools_bytes_of_two_scales() -> None:
    model = roi_graph([0, 1, 2], [2, 3])
    every = spread(model)
    placement = quantize(model, every, OPENVINO)
    assert placement.groups == [("p0", "p1", "p2")]
    assert reads_bytes(model, "one") and not reads_bytes(model, "two")
    assert placement.scales["two"] == activation_scale(*every["two"], OPENVINO)
    assert "p3" not in placement.scales


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_quantized_graph_computes_nearly_the_same(target: object) -> None:
    """Through every kind of join; ranges from the values themselves."""
    sketch = Sketch(channels=8, side=12)
    image = sketch.input("image")
    r = sketch.relu(sketch.conv(image, "a", sketch.rng.standard_normal((8, 8, 3, 3)), bias=True), "r")
    d = sketch.relu(sketch.conv(r, "depthwise", sketch.rng.standard_normal((8, 1, 3, 3))), "d")
    total = sketch.node("Add", [r, sketch.conv(d, "b", bias=True)], "sum")
    joined = concat(sketch, [total, d], "joined")
    weight = sketch.constant("last.weight", sketch.rng.standard_normal((8, 16, 1, 1)))
    model = sketch.output(sketch.node("Conv", [joined, weight], "last"))
    names = ["r", "d", "sum", "joined", "last"]
    feeds = {"image": sketch.rng.standard_normal((1, 8, 12, 12)).astype(np.float32)}
    expected = run_cut(model.clone(), feeds, names) | feeds
    every = {name: (float(value.min()), float(value.max())) for name, value in expected.items()}
    every |= dict.fromkeys(("a", "b", "depthwise"), (-1000.0, 1000.0))
    quantize(model, every, target)  # type: ignore[arg-type]
    found = run_cut(model, feeds, ["last"])["last"]
    noise = ((found - expected["last"]) ** 2).mean() / expected["last"].var()
    assert 1e-7 < noise < 2e-3  # 27 dB, and not the float graph


# ---- what stays float ------------------------------------------------------------------------------------------------


def test_layers_are_kept_float_by_name() -> None:
    model = residual().model
    before = model.graph.initializers["b.weight"].const_value.numpy().copy()
    placement = quantize(model, spread(model), OPENVINO, keep_float=["b"])
    assert placement.kept_float == ["b"] and placement.layers == ["a", "c"]
    node = next(node for node in model.graph if node.name == "b")
    assert node.inputs[1].producer() is None
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), before)
    assert "b.weight/int8" not in model.graph.initializers and "a.weight/int8" in model.graph.initializers


def test_keeping_everything_float_changes_nothing() -> None:
    model = residual().model
    before = [node.op_type for node in model.graph]
    assert quantize(model, spread(model), OPENVINO, keep_float=["a", "b", "c"]) == Placement(kept_float=["a", "b", "c"])
    assert [node.op_type for node in model.graph] == before


def test_unknown_names_are_errors_with_suggestions() -> None:
    model = small_detector()
    every = spread(model)
    name = layers(model)[0].name
    with pytest.raises(CalibrationError, match=rf"no layer of this graph is called {name}x; did you mean .*{name}"):
        quantize(model, every, OPENVINO, keep_float=[f"{name}x"])
    with pytest.raises(CalibrationError, match="called zzz; 'inspect' lists"):
        quantize(model, every, OPENVINO, keep_float=["zzz"])
    assert not [node for node in model.graph if node.op_type == "QuantizeLinear"]  # nothing was changed


def test_a_missing_range_is_named() -> None:
    model = residual().model
    every = spread(model)
    del every["r"]
    with pytest.raises(CalibrationError, match="no range for r; calibrate this graph again"):
        quantize(model, every, OPENVINO)


# ---- the demo --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["openvino", "tensorrt"])
def quantized_demo(request: pytest.FixtureRequest, demo_onnx: Path, demo_table: Path) -> tuple[str, onnx.ModelProto]:
    data = quantized_graph(demo_onnx, request.param, Int8Options(demo_table, "minmax"))
    return request.param, onnx.load_model_from_string(data)


def test_lint(quantized_demo: tuple[str, onnx.ModelProto], demo_onnx: Path) -> None:
    """What each vendor's parser refuses or silently runs in float."""
    target, model = quantized_demo
    onnx.checker.check_model(model)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    weights: list[str] = []
    scales: dict[str, bytes] = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        data, scale, zero = node.input  # all three, always: defaults differ between vendors
        assert np.isfinite(constants[scale]).all() and (constants[scale] > 0).all()
        if node.op_type == "DequantizeLinear" and data in constants:
            weights.append(data)
            assert constants[data].dtype == constants[zero].dtype == np.int8
            assert not constants[zero].any() and constants[data].min() >= -127
            axis = next(a.i for a in node.attribute if a.name == "axis")
            assert constants[scale].shape == constants[zero].shape == (constants[data].shape[axis],)
            continue
        assert data not in constants, f"{node.name} quantizes a constant, which is then folded twice"
        assert constants[scale].shape == constants[zero].shape == ()
        if target == "tensorrt":
            assert constants[zero].dtype == np.int8 and constants[zero] == 0
        else:
            assert constants[zero].dtype == np.uint8
        if node.op_type == "DequantizeLinear":
            behind = producers[data]
            assert behind.op_type in ("QuantizeLinear", "MultilevelRoiAlign")
            if behind.op_type == "QuantizeLinear":
                assert list(behind.input[1:]) == [scale, zero]
        elif (before := producers.get(data)) is not None:
            assert before.op_type != "DequantizeLinear", "a pair behind a pair"
            scales[data] = constants[zero].tobytes()

    layer_nodes = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    original = onnx.load(demo_onnx)
    assert len(layer_nodes) == len([n for n in original.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")])
    for node in layer_nodes:
        weight = producers[node.input[1]]
        assert weight.op_type == "DequantizeLinear" and weight.input[0] in constants, node.name
        before = producers[node.input[0]]
        while target == "openvino" and before.op_type in (
            "Flatten",
            "Resize",
            "MaxPool",
            "Reshape",
            "Concat",
            "Expand",
        ):
            before = producers[before.input[0]]
        assert before.op_type == "DequantizeLinear", f"{node.name} reads floats, from {before.op_type}"
    # One DequantizeLinear per reader and weight, and no float copy of any of them is left.
    assert len(weights) == len(layer_nodes)
    assert not [n for n in layer_nodes for name in n.input[:2] if name in constants]
    size = sum(array.nbytes for array in constants.values())
    whole = sum(numpy_helper.to_array(one).nbytes for one in original.graph.initializer)
    assert size < 0.28 * whole


def test_openvino_activations_are_never_negative_where_the_tensor_is_not(demo_onnx: Path, demo_table: Path) -> None:
    model = ir.load(demo_onnx)
    table = CalibrationTable.load(demo_table)
    placement = quantize(model, ranges(table, "minmax", OPENVINO), OPENVINO, inputs=layer_inputs(model, table))
    shared = {name for group in placement.groups for name in group}
    alone = {name: scale for name, scale in placement.scales.items() if name not in shared}
    assert {scale.dtype for scale in placement.scales.values()} == {"uint8"}
    non_negative = [name for name in alone if table.tensors[name].minimum >= 0]
    assert len(non_negative) > 20
    assert {alone[name].zero_point for name in non_negative} == {0}
    assert all(alone[name].zero_point > 0 for name in alone if table.tensors[name].minimum < 0)
    assert len({name for group in placement.groups for name in group}) == sum(map(len, placement.groups))
