"""Every mobile backbone all the way to an INT8 engine: exported, calibrated on eight pictures, built, run, and linted.

Three that stand for the rest run with all tests; with DENSEPOSE_TEST_BACKBONES=all (``make test-backbones``) all do.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from stages import with_weights

import densepose_engine.export
from densepose_engine import Engine
from densepose_engine.calibration.collect.activations import collect
from densepose_engine.calibration.place.branches import branch_layers
from densepose_engine.calibration.place.points import TRANSPARENT, layers
from densepose_engine.compile.build import Int8Options, build_engine, quantized_graph
from densepose_engine.compile.layer_precision import BRANCH, COMPUTED_WEIGHTS, float_layers, int8_mac_share
from densepose_engine.export.config.model_config import load_config
from densepose_engine.export.graph.join import export_graph
from densepose_engine.export.networks.mobile_architectures import MOBILE_ARCHITECTURES
from densepose_engine.model.engine_file import write_engine_file
from densepose_engine.pictures.find import find_pictures

ROOT = Path(__file__).resolve().parent.parent
YAML = ROOT / "tests/data/keys/mobile_parsing_rcnn_b_spnasnet_100.yaml"
REPRESENTATIVE = ("mixnet_s", "tf_mobilenetv3_small_075", "tf_efficientnet_cc_b0_4e")
NAMES = sorted(MOBILE_ARCHITECTURES) if os.environ.get("DENSEPOSE_TEST_BACKBONES") == "all" else REPRESENTATIVE
SIZE = (128, 160)


@pytest.fixture(scope="module", params=NAMES)
def calibrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """(name, graph, calibration table) of a Mobile-Parsing-RCNN-B with deterministic weights."""
    name = str(request.param)
    graph = tmp_path_factory.mktemp(name) / f"{name}.onnx"
    config = load_config(YAML, ["MODEL.TIMMNETS.NAME", name, "MODEL.TIMMNETS.PRETRAINED", "False"])
    exported = export_graph(with_weights(config), SIZE, {})
    ir.save(exported, graph)
    pictures = find_pictures([ROOT / "models/calibration"])[:8]
    table = graph.with_suffix(".calib.json")
    collect(graph, pictures, count=8, min_people=1).save(table)
    return name, graph, table


def test_int8_engine(calibrated: tuple[str, Path, Path]) -> None:
    name, graph, table = calibrated
    built = build_engine(graph, "openvino", "int8", int8=Int8Options(table, "minmax"))
    found = built.model.layers or ()
    share = int8_mac_share(found)
    print(f"\n{name}: {share:.4f} of the MACs in INT8")
    reasons = {layer.reason for layer in float_layers(found)}
    if "_cc_" in name:
        assert reasons == {BRANCH, COMPUTED_WEIGHTS}
        assert share > 0.5
    else:
        assert reasons <= {BRANCH}
        assert share >= 0.97
    assert built.model.int8 is not None and list(built.model.int8.branches or ()) == branch_layers(ir.load(graph))

    path = graph.with_suffix(".engine")
    write_engine_file(path, built)
    with Engine.load(path) as engine:
        result = engine.infer(np.random.default_rng(1).integers(0, 256, (120, 150, 3), dtype=np.uint8))
    assert np.isfinite(result.boxes).all() and np.isfinite(result.scores).all()
    # No module may have taken the name of the function in the meantime.
    assert isinstance(densepose_engine.export.network(YAML), torch.nn.Module)


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_placement(calibrated: tuple[str, Path, Path], target: str) -> None:
    """Of test_quantize's lint what a backbone can break: scalar scales, signed for TensorRT, no layer between."""
    name, graph, table = calibrated
    float_graph = ir.load(graph)
    placed, aside = {node.name for node in layers(float_graph)}, set(branch_layers(float_graph))
    assert bool(aside) == any(row.excitation for rows in MOBILE_ARCHITECTURES[name].stages for row in rows)
    model = onnx.load_model_from_string(quantized_graph(graph, target, Int8Options(table, "minmax")))
    onnx.checker.check_model(model)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    producers = {value: node for node in model.graph.node for value in node.output}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            _, scale, zero = node.input
            assert constants[scale].shape == constants[zero].shape == ()
            assert np.isfinite(constants[scale]) and constants[scale] > 0
            assert (constants[zero].dtype, int(constants[zero])) == (np.int8, 0) or target == "openvino"
        elif node.name in placed:
            weight, before = producers[node.input[1]], producers[node.input[0]]
            assert weight.op_type == "DequantizeLinear" and constants[weight.input[0]].dtype == np.int8
            while target == "openvino" and before.op_type in (*TRANSPARENT, "Concat"):
                before = producers[before.input[0]]
            assert before.op_type == "DequantizeLinear", f"{node.name} reads floats, from {before.op_type}"
        elif node.name in aside:
            assert node.input[1] in constants and constants[node.input[1]].dtype == np.float32
