"""Which layers stand on side branches, and what that means for the scales around them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import Sketch

from densepose_engine.calibration.place.branches import branch_layers
from densepose_engine.calibration.place.points import activations, layers, source
from densepose_engine.calibration.place.quantize import TARGETS, quantize
from densepose_engine.compile.layer_precision import BRANCH, COMPUTED_WEIGHTS, FELL_BACK, KEPT, explain
from densepose_engine.model.compiled import Layer


def mean_of(sketch: Sketch, value: ir.Value, name: str) -> ir.Value:
    return sketch.node("GlobalAveragePool", [value], name, [1, sketch.channels, 1, 1])


def squeeze_and_excitation(swish: bool = True) -> Sketch:
    """image -> a -> r; r weighted by the branch `reduce`, `expand`; the product read by b and c."""
    sketch = Sketch()
    r = sketch.relu(sketch.conv(sketch.input("image"), "a"), "r")
    small = [1, sketch.channels, 1, 1]
    reduced = sketch.conv(mean_of(sketch, r, "mean"), "reduce")
    if swish:
        reduced = sketch.node("Mul", [reduced, sketch.node("Sigmoid", [reduced], "s", small)], "swish", small)
    gate = sketch.node("HardSigmoid", [sketch.conv(reduced, "expand")], "gate", small)
    product = sketch.node("Mul", [r, gate], "product")
    sketch.output(sketch.conv(product, "b"), sketch.conv(product, "c"))
    return sketch


@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_squeeze_and_excitation_stays_float_and_its_product_has_one_scale(target: object, swish: bool) -> None:
    model = squeeze_and_excitation(swish).model
    assert branch_layers(model) == ["reduce", "expand"]
    assert [node.name for node in layers(model)] == ["a", "b", "c"]
    assert set(activations(model)) == {"image", "product"}
    placement = quantize(model, dict.fromkeys(("image", "product"), (-1.0, 1.0)), target)  # type: ignore[arg-type]
    assert set(placement.scales) == {"image", "product"}
    assert placement.branches == ["reduce", "expand"]
    by_name = {node.name: node for node in model.graph}
    assert by_name["reduce"].inputs[1].is_initializer() and by_name["expand"].inputs[1].is_initializer()
    assert by_name["b"].inputs[0].producer().op_type == "DequantizeLinear"
    assert [n.op_type for n in model.graph].count("QuantizeLinear") == 2


def test_a_swish_beside_a_map_is_no_branch() -> None:
    sketch = Sketch()
    a = sketch.conv(sketch.input("image"), "a")
    swish = sketch.node("Mul", [a, sketch.node("Sigmoid", [a], "s")], "swish")
    assert branch_layers(sketch.output(sketch.conv(swish, "b"))) == []


def test_image_level_features_that_join_a_map_are_no_branch() -> None:
    sketch = Sketch()
    r = sketch.relu(sketch.conv(sketch.input("image"), "a"), "r")
    level = sketch.conv(mean_of(sketch, r, "mean"), "level")
    assert branch_layers(sketch.output(sketch.conv(sketch.node("Add", [r, level], "sum"), "b"))) == []


def test_what_computes_a_kernel_stays_float() -> None:
    sketch = Sketch()
    r = sketch.relu(sketch.conv(sketch.input("image"), "a"), "r")
    mixture = sketch.node("Flatten", [mean_of(sketch, r, "mean")], "flat", [1, sketch.channels])
    size = sketch.channels**2
    experts = sketch.constant("experts", sketch.rng.standard_normal((sketch.channels, size)))
    kernel = sketch.node("MatMul", [mixture, experts], "mix", [1, size])
    shape = sketch.constant("shape", np.array([sketch.channels, sketch.channels, 1, 1]))
    kernel = sketch.node("Reshape", [kernel, shape], "kernel", [sketch.channels, sketch.channels, 1, 1])
    model = sketch.output(sketch.conv(sketch.node("Conv", [r, kernel], "mixed"), "b"))
    assert branch_layers(model) == ["mix"]
    assert [node.name for node in layers(model)] == ["a", "b"]


def test_a_piece_of_a_map_has_the_maps_scale() -> None:
    sketch = Sketch()
    r = sketch.relu(sketch.conv(sketch.input("image"), "a"), "r")
    piece = sketch.node("Split", [r], "piece", num_outputs=1, axis=1)
    sketch.output(sketch.conv(piece, "b"))
    assert source(piece) is r


def test_the_manifest_says_why_a_layer_is_float() -> None:
    names = ["placed", "kept", "branch", "other"]
    found = [Layer(n, "Convolution", "f32", "", 1) for n in names]
    explained = explain(found, placed=["placed"], kept=["kept"], branches=["branch"])
    assert [layer.reason for layer in explained] == [FELL_BACK, KEPT, BRANCH, COMPUTED_WEIGHTS]
