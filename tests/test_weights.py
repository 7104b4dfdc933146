"""int8 weights: rounding that keeps what a layer gives, bias correction, and what calibration tells them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graph_runner import run_cut
from small_graphs import Sketch

from densepose_engine.calibration.place.observers import METHODS, range_of
from densepose_engine.calibration.place.points import layers, source
from densepose_engine.calibration.place.quantize import TARGETS
from densepose_engine.calibration.place.quantizer import Quantizer
from densepose_engine.calibration.place.ranges import layer_inputs, ranges
from densepose_engine.calibration.place.rounding import round_weights
from densepose_engine.calibration.place.weights import LayerInput, quantize_weights
from densepose_engine.calibration.table import CalibrationTable


def smooth_pictures(rng: np.random.Generator, count: int, channels: int, side: int = 24) -> np.ndarray:
    """Like what a layer behind a ReLU reads: never negative, neighbors alike, channels that move together."""
    noise = rng.standard_normal((count, channels, side + 8, side + 8))
    for axis in (2, 3):
        noise = np.apply_along_axis(lambda row: np.convolve(row, np.ones(9) / 3, "valid"), axis, noise)
    brightness = rng.uniform(0.5, 2, (count, 1, 1, 1))
    return np.maximum(noise + rng.uniform(0, 2, (1, channels, 1, 1)), 0) * brightness


# ---- rounding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 16, 9), (8, 16, 1), (16, 1, 9), (4, 300, 1), (1, 1, 1)])
def test_a_weight_goes_to_one_of_its_neighbors(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    steps = rng.uniform(-127, 127, shape)
    steps[0, 0, 0] = 127.0
    mean = rng.uniform(0, 3, (shape[0], 1) if shape[1] == 1 else shape[1])
    result = round_weights(steps, mean, 1.5)
    assert np.array_equal(result, np.rint(result))
    assert np.abs(result - steps).max() < 1
    assert np.abs(result).max() <= 127
    moved = result != np.rint(steps)
    assert moved.any() or shape == (1, 1, 1)
    assert not moved[steps == np.rint(steps)].any()  # an integer has no error to cancel anything with


def test_rounding_with_statistics_keeps_the_output_better() -> None:
    rng = np.random.default_rng(1)
    pictures = smooth_pictures(rng, 6, 16)
    steps = rng.normal(0, 30, (8, 16, 9)).clip(-127, 127)
    mean = pictures.mean(axis=(0, 2, 3))
    variance = float(pictures.var(axis=(0, 2, 3)).mean())
    patches = np.lib.stride_tricks.sliding_window_view(pictures, (3, 3), axis=(2, 3))
    patches = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 16 * 9)

    def error(integers: np.ndarray) -> float:
        return float(((patches @ (integers - steps).reshape(8, -1).T) ** 2).mean())

    nearest, adapted = error(np.rint(steps)), error(round_weights(steps, mean, variance))
    assert adapted < 0.5 * nearest


def test_rounding_lowers_its_own_objective() -> None:
    """J of the module's description, from its definition."""
    from densepose_engine.calibration.place.rounding import COMMON_MODE, SPATIAL_CORRELATION

    rng = np.random.default_rng(2)
    steps, mean, variance = rng.uniform(-100, 100, (6, 10, 9)), rng.uniform(0, 2, 10), 0.7

    def objective(integers: np.ndarray) -> np.ndarray:
        d = integers - steps
        common = (mean[:, None] * d).sum(axis=(1, 2)) ** 2
        kernels = SPATIAL_CORRELATION * d.sum(axis=2) ** 2 + (1 - SPATIAL_CORRELATION) * (d**2).sum(axis=2)
        return COMMON_MODE * common + variance * kernels.sum(axis=1)

    best = round_weights(steps, mean, variance)
    assert (objective(best) < objective(np.rint(steps))).all()
    # And no single move to the other neighbor would lower it further.
    other = np.where(best > steps, np.floor(steps), np.ceil(steps))
    for channel in range(10):
        for tap in range(9):
            tried = best.copy()
            tried[:, channel, tap] = other[:, channel, tap]
            assert (objective(tried) >= objective(best) - 1e-9).all()


# ---- weights in a graph ----------------------------------------------------------------------------------------------


def one_layer(weight: np.ndarray, channels: int, bias: bool = True, side: int = 24) -> Sketch:
    sketch = Sketch(channels, side)
    sketch.output(sketch.conv(sketch.input("image", ["n", channels, side, side]), "layer", weight, bias))
    return sketch


KERNELS = {"dense": (8, 6, 3, 3), "pointwise": (8, 6, 1, 1), "depthwise": (6, 1, 3, 3)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
def test_biases_take_up_the_mean_error(kernel: str, bias: bool) -> None:
    rng = np.random.default_rng(3)
    pictures = smooth_pictures(rng, 4, 6).astype(np.float32)
    weight = rng.standard_normal(KERNELS[kernel])
    weight[:, :, 0, 0] *= 8  # coarse steps for the rest
    known = LayerInput(pictures.mean(axis=(0, 2, 3), dtype=np.float64), float(pictures.var()))

    def outputs(inputs: dict[str, LayerInput] | None) -> np.ndarray:
        model = one_layer(weight, 6, bias).model
        if inputs is not None:
            quantize_weights(model, layers(model), inputs)
        inside = run_cut(model, {"image": pictures}, ["layer"])["layer"]
        return inside[:, :, 1:-1, 1:-1]  # zeros of the padding are not in the mean

    def mean_error(found: np.ndarray) -> np.ndarray:
        return np.abs((found - expected).mean(axis=(0, 2, 3)))

    # The same statistics for the rounding, so that only the bias differs: nearest is what no statistics give.
    expected, nearest, corrected = outputs(None), outputs({}), outputs({"layer": known})
    assert mean_error(corrected).mean() < 0.2 * mean_error(nearest).mean()
    assert mean_error(corrected).max() < 0.02 * expected.std()


def test_biases_alone_can_be_corrected(demo_onnx: Path, demo_table: Path) -> None:
    table, graph = CalibrationTable.load(demo_table), demo_onnx.read_bytes()
    models = {
        how: Quantizer(graph, table, TARGETS["openvino"], "minmax", how)()[0].graph.initializers
        for how in (False, "biases", True)
    }

    def same(one: object, other: object, suffix: str) -> set[bool]:
        names = [name for name in models[one] if name.endswith(suffix)]
        assert len(names) > 80
        arrays = [(models[one][name], models[other].get(name)) for name in names]
        return {b is not None and np.array_equal(a.const_value.numpy(), b.const_value.numpy()) for a, b in arrays}

    assert same(False, "biases", "/int8") == {True}
    assert False in same("biases", True, "/int8")
    assert not [name for name in models[False] if name.endswith(".corrected_bias")]
    assert False in same("biases", True, ".corrected_bias")


def test_without_statistics_biases_stay_and_rounding_is_to_the_nearest() -> None:
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((5, 4, 1, 1)).astype(np.float32)
    model = one_layer(weight, 4).model
    before = model.graph.initializers["layer.bias"].const_value.numpy().copy()
    quantize_weights(model, layers(model), {})
    np.testing.assert_array_equal(model.graph.initializers["layer.bias"].const_value.numpy(), before)
    scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
    stored = model.graph.initializers["layer.weight/int8"].const_value.numpy()
    np.testing.assert_array_equal(stored, np.rint(weight / scale[:, None, None, None]))
    np.testing.assert_allclose(model.graph.initializers["layer.weight/scale"].const_value.numpy(), scale, rtol=1e-6)
    assert "layer.weight" not in model.graph.initializers


@pytest.mark.parametrize("transposed", [True, False])
def test_matrix_products_have_a_scale_per_output(transposed: bool) -> None:
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((3, 20)) * np.array([[1], [10], [0]])  # the last output is always 0
    sketch = Sketch()
    x = sketch.input("x", ["n", 20])
    stored = sketch.constant("w", weight if transposed else weight.T)
    model = sketch.output(sketch.node("Gemm", [x, stored], "layer", ["n", 3], transB=int(transposed)))
    feeds = {"x": rng.uniform(0, 1, (50, 20)).astype(np.float32)}
    expected = feeds["x"] @ weight.T
    known = LayerInput(feeds["x"].mean(axis=0, dtype=np.float64), float(feeds["x"].var()))
    quantize_weights(model, layers(model), {"layer": known})
    assert model.graph.initializers["w/scale"].const_value.numpy().shape == (3,)
    found = run_cut(model, feeds, ["layer"])["layer"]
    assert (np.abs(found - expected).max(axis=0) <= [0.05, 0.5, 1e-6]).all()
    assert np.abs((found - expected).mean(axis=0)).max() < 1e-3


def test_layers_that_share_a_weight_share_its_integers_and_correct_their_own_biases() -> None:
    rng = np.random.default_rng(6)
    sketch = Sketch(4, 8)
    weight, bias = sketch.constant("w", rng.standard_normal((4, 4, 1, 1))), sketch.constant("b", np.zeros(4))
    outputs = [sketch.node("Conv", [sketch.input(f"x{k}"), weight, bias], f"layer{k}") for k in range(2)]
    model = sketch.output(*outputs)
    known = {f"layer{k}": LayerInput(rng.uniform(0, 2, 4) * (k + 1), 1.0) for k in range(2)}
    quantize_weights(model, layers(model), known)
    one, two = (node for node in model.graph if node.op_type == "Conv")
    assert one.inputs[1].producer().inputs[0] is two.inputs[1].producer().inputs[0]
    integers = model.graph.initializers["w/int8"].const_value.numpy().reshape(4, 4)
    scale = model.graph.initializers["w/scale"].const_value.numpy()
    error = weight.const_value.numpy().reshape(4, 4) - integers * scale[:, None]
    for node in (one, two):
        expected = error @ known[str(node.name)].mean
        np.testing.assert_allclose(node.inputs[2].const_value.numpy(), expected, atol=1e-5)
    assert not {"w", "b"} & set(model.graph.initializers)


# ---- what calibration says -------------------------------------------------------------------------------------------


def test_ranges_are_what_the_observer_gives_each_tensor(demo_table: Path) -> None:
    table = CalibrationTable.load(demo_table)
    names = list(table.tensors)[:12]
    small = CalibrationTable(**{**table.__dict__, "tensors": {name: table.tensors[name] for name in names}})
    for target in TARGETS.values():
        for observer in METHODS:
            found = ranges(small, observer, target)
            assert list(found) == names
            for name, (low, high) in found.items():
                assert (low, high) == range_of(table.tensors[name], observer, symmetric=not target.unsigned)
                assert low <= 0 <= high and (target.unsigned or low == -high)


def test_layer_inputs_are_means_and_the_variance_around_them(demo_onnx: Path, demo_table: Path) -> None:
    model, table = ir.load(demo_onnx), CalibrationTable.load(demo_table)
    found = layer_inputs(model, table)
    assert set(found) == {str(node.name) for node in layers(model)}
    for node in layers(model):
        one = found[str(node.name)]
        statistics = table.tensors[str(source(node.inputs[0]).name)]
        assert one.variance > 0 and np.isfinite(one.mean).all()
        middles = (statistics.edges[:-1] + statistics.edges[1:]) / 2
        square = float(statistics.counts @ middles**2) / statistics.count
        assert one.variance <= square * (1 + 1e-9)
        # Behind what only moves values, mean and histogram are of the same values.
        if node.inputs[0].producer() is None or source(node.inputs[0]) is node.inputs[0]:
            mean = float(statistics.counts @ middles) / statistics.count
            assert one.mean.mean() == pytest.approx(mean, abs=statistics.width)
