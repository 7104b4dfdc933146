"""Ring (a): what is done to a graph for TensorRT, executed by OpenVINO on the CPU; and the precision table's reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import PIL.Image
import pytest
from graph_runner import run_cut

from densepose_engine import _core
from densepose_engine.backends.layers import Layer
from densepose_engine.backends.tensorrt.graph import fixed_size, prepare
from densepose_engine.backends.tensorrt.layers import read_kernels, read_layers
from densepose_engine.cli import main
from densepose_engine.compile.build import Int8Options, quantize_graph, read_graph
from densepose_engine.pictures.read import letterbox_size

MODELS = Path(__file__).resolve().parent.parent / "models"
DOMAIN = "densepose"
SIZE = (320, 448)


@pytest.fixture(scope="module")
def quantized(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The demo graph with Q/DQ for TensorRT."""
    table = tmp_path_factory.mktemp("table") / "calib.json"
    assert main(["calibrate", str(demo_onnx), str(MODELS), "-o", str(table), "--quiet"]) == 0
    data, model, _ = read_graph(demo_onnx)
    quantize_graph(model, data, "tensorrt", Int8Options(table, adapt_weights=False))
    return bytes(ir.to_proto(model).SerializeToString())


@pytest.fixture(scope="module")
def feeds() -> dict[str, np.ndarray]:
    """The sample picture and the settings, as an engine passes them to the graph."""
    rgb = np.asarray(PIL.Image.open(MODELS / "person.jpg").convert("RGB"))
    height, width = rgb.shape[:2]
    resized = letterbox_size(height, width, *SIZE)
    image = np.zeros((1, 3, *SIZE), np.float32)
    _core.preprocess(rgb, *resized, np.array([123.675, 116.28, 103.53], np.float32), image, layout="NCHW", threads=1)
    return {
        "image": image,
        "sizes": np.array([*resized, height, width], np.int32),
        "max_proposals": np.array([200], np.int32),
        "max_detections": np.array([5], np.int32),
        "score_threshold": np.array([0.5], np.float32),
        "nms_threshold": np.array([0.5], np.float32),
    }


def run(graph: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run_cut(ir.from_proto(onnx.load_model_from_string(graph)), feeds, ["boxes", "scores", "fine_segm", "u", "v"])


def test_fp32_is_the_graph(demo_onnx: Path, feeds: dict[str, np.ndarray]) -> None:
    expected = run(demo_onnx.read_bytes(), feeds)
    actual = run(prepare(demo_onnx.read_bytes(), "fp32", 100), feeds)
    assert len(expected["boxes"]) > 0
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value)


def test_fp16_is_the_graph_but_for_rounding(demo_onnx: Path, feeds: dict[str, np.ndarray]) -> None:
    """The same people, and maps that differ by what the weights' and constants' float16 makes of them."""
    expected = run(demo_onnx.read_bytes(), feeds)
    actual = run(prepare(demo_onnx.read_bytes(), "fp16", 100), feeds)
    np.testing.assert_allclose(actual["boxes"], expected["boxes"], atol=1)
    np.testing.assert_allclose(actual["scores"], expected["scores"], atol=5e-3)
    for name in ("fine_segm", "u", "v"):
        error = np.abs(actual[name] - expected[name]).max() / np.abs(expected[name]).max()
        assert 0 < error < 0.02, name


def test_int8_is_the_quantized_graph_but_for_rounding(quantized: bytes, feeds: dict[str, np.ndarray]) -> None:
    expected = run(quantized, feeds)
    actual = run(prepare(quantized, "int8", 100), feeds)
    np.testing.assert_allclose(actual["boxes"], expected["boxes"], atol=4)
    np.testing.assert_allclose(actual["scores"], expected["scores"], atol=0.03)
    for name in ("fine_segm", "u", "v"):
        agreement = np.corrcoef(actual[name].ravel(), expected[name].ravel())[0, 1]
        assert agreement > 0.99, name


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_types(demo_onnx: Path, quantized: bytes, precision: str) -> None:
    """float16 everywhere but at the custom nodes' boxes and scores and at the graph's own inputs and outputs."""
    graph = quantized if precision == "int8" else demo_onnx.read_bytes()
    model = ir.from_proto(onnx.load_model_from_string(prepare(graph, precision, None)))
    onnx.checker.check_model(ir.to_proto(model))
    custom = 0
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            if value is None or node.op_type == "Cast":
                continue
            if node.domain == DOMAIN:
                features = node.op_type == "MultilevelRoiAlign" and index < len(node.inputs) - 2
                wanted = {ir.DataType.INT8, ir.DataType.FLOAT16} if features else {ir.DataType.FLOAT, ir.DataType.INT32}
                assert value.dtype in wanted, (node.name, index)
                custom += 1
            elif not (node.op_type == "Resize" and index > 0):
                assert value.dtype != ir.DataType.FLOAT, (node.name, index)
    assert custom > 20
    assert {str(v.dtype) for v in (*model.graph.inputs, *model.graph.outputs)} == {"FLOAT", "INT32"}


def test_no_scale_vanishes(quantized: bytes) -> None:
    """A scale below float16's smallest number would become 0, which TensorRT refuses."""
    model = ir.from_proto(onnx.load_model_from_string(quantized))
    scale = next(v for name, v in model.graph.initializers.items() if name.endswith("scale"))
    assert scale.const_value is not None
    scale.const_value = ir.tensor(np.full_like(scale.const_value.numpy(), 1e-9))
    prepared = onnx.load_model_from_string(prepare(ir.to_proto(model).SerializeToString(), "int8", None))
    halves = [t for t in prepared.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    scales = [onnx.numpy_helper.to_array(t) for t in halves if "scale" in t.name]
    assert len(scales) > 100
    assert all((array > 0).all() and np.isfinite(array).all() for array in scales)


@pytest.mark.parametrize("most", [None, 7])
@pytest.mark.parametrize("outputs", [4, 5], ids=["one class", "several"])
def test_the_size_of_the_people_follows_all_outputs_of_the_plugin(
    demo_onnx: Path, outputs: int, most: int | None
) -> None:
    """The plugin counts its own outputs: what the node of a graph of one class lacks of them still has its place."""
    model = ir.load(demo_onnx)
    next(node for node in model.graph if node.op_type == "BoxDetections").resize_outputs(outputs)
    prepared = onnx.load_model_from_string(prepare(ir.to_proto(model).SerializeToString(), "fp32", most))
    onnx.checker.check_model(prepared)
    (node,) = (node for node in prepared.graph.node if node.op_type == "BoxDetections")
    assert [name.split("/")[-1] for name in node.output] == [
        *("boxes_network", "boxes", "scores", "count", "classes"),
        *(["size"] if most is None else []),
    ]


def test_sizes(demo_onnx: Path, dynamic_onnx: Path) -> None:
    assert fixed_size(demo_onnx.read_bytes())
    assert not fixed_size(dynamic_onnx.read_bytes())


LOG = """\
Layers:
Name: a/conv_myl2_1, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,4,8,8], Datatype: Int8, Format: \
(NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [8,4,3,3], Datatype: Half }], Outputs: [ { Name: \
y, Dimensions: [1,8,8,8], Datatype: Float }], TacticName: t, StreamId: 0, \
Metadata: [ONNX Layer: a/conv][ONNX Layer: a/relu]
Name: __myl_MulCast_myl2_2, LayerType: kgen, Inputs: [ { Name: y, Dimensions: [1], Datatype: Float }], Outputs: [], \
Metadata: [ONNX Layer: b/conv]
Name: b/conv + b/relu, LayerType: CaskConvolution, Inputs: [ { Name: y, Location: Device, Dimensions: [1,8,8,8], \
Format/Datatype: Channel major FP16 format where channel % 8 == 0 }], Outputs: [ { Name: z, Format/Datatype: Row major \
linear FP32 format }], ParameterType: Convolution, Metadata: [ONNX Layer: b/conv][ONNX Layer: b/relu]
"""


def conv_graph() -> ir.Model:
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("Conv", ["image", "w"], ["y"], name="a/conv", pads=[1, 1, 1, 1]),
                onnx.helper.make_node("Conv", ["y", "v"], ["z"], name="b/conv"),
                onnx.helper.make_node("Conv", ["z", "v"], ["out"], name="c/conv"),
            ],
            "three",
            [onnx.helper.make_tensor_value_info("image", 1, [1, 3, "h", "w"])],
            [onnx.helper.make_tensor_value_info("out", 1, None)],
            [
                onnx.numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), "w"),
                onnx.numpy_helper.from_array(np.zeros((8, 8, 1, 1), np.float32), "v"),
            ],
        )
    )
    return ir.from_proto(proto)


def test_layers_are_read_from_the_log() -> None:
    """Both forms of the log; a layer that it does not mention is unknown, never what it was meant to be."""
    layers = read_layers(conv_graph(), read_kernels(LOG.replace("\\\n", "").split("\n\n")), (8, 8), {})
    assert layers == [
        Layer("a/conv", "Conv", "int8", "correlation", 8 * 3 * 9 * 64),
        Layer("b/conv", "Conv", "f16", "CaskConvolution", 8 * 8 * 64),
        Layer("c/conv", "Conv", "unknown", "", 8 * 8 * 64),
    ]
