"""``export --ops standard``: plain ONNX operators that find exactly what our own find, in two other runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_runner import run_cut
from PIL import Image
from small_detector import serialize, small_detector

from densepose_engine import Engine
from densepose_engine.backends.openvino import make_core
from densepose_engine.benchmarking.agreement import compare_results
from densepose_engine.benchmarking.peers import Sources, make_onnxruntime, make_openvino_stock
from densepose_engine.calibration.place.points import activations
from densepose_engine.calibration.place.quantize import TARGETS, quantize
from densepose_engine.cli import main
from densepose_engine.export.graph.standard import expand_custom_nodes

ort = pytest.importorskip("onnxruntime")

MODELS = Path(__file__).resolve().parent.parent / "models"
STRIDES = [4, 8, 16, 32]
ANCHORS = [-16.0, -8.0, 16.0, 8.0, -12.0, -12.0, 12.0, 12.0]
SHAPES: dict[str, list[Any]] = {
    **{name: ["n", 4] for name in ("proposals", "boxes_network", "boxes")},
    "scores": ["n"],
    "classes": ["n"],
    "count": [1],
    "pooled": ["n", 3, 7, 7],
}
F32, I32 = ir.DataType.FLOAT, ir.DataType.INT32


def one_node(op: str, inputs: Mapping[str, np.ndarray], attributes: dict[str, Any], outputs: list[str]) -> ir.Model:
    """A graph of one custom node."""
    values = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(array.shape))
        for name, array in inputs.items()
    ]
    node = ir.node(op, values, attributes, domain="densepose", num_outputs=len(outputs), name=f"stage/{op}")
    for value, name in zip(node.outputs, outputs, strict=True):
        value.name, value.dtype = name, I32 if name in ("count", "classes") else F32
        value.shape = ir.Shape(SHAPES[name])
    graph = ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 18, "densepose": 1}, name="one")
    return ir.Model(graph, ir_version=10)


def run_standard(model: ir.Model, inputs: Mapping[str, np.ndarray], runtime: str) -> dict[str, np.ndarray]:
    expand_custom_nodes(model)
    assert {node.domain for node in model.graph} == {""}
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    names = [str(output.name) for output in model.graph.outputs]
    if runtime == "onnxruntime":
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    core = make_core()
    compiled = core.compile_model(
        core.read_model(proto.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    known = {port.get_any_name() for port in compiled.inputs}  # it drops inputs that nobody reads
    results = compiled({name: value for name, value in inputs.items() if name in known})
    return {name: np.array(results[name]) for name in names}


def assert_same(
    op: str,
    inputs: Mapping[str, np.ndarray],
    attributes: dict[str, Any],
    outputs: list[str],
    runtimes: Sequence[str] = ("openvino", "onnxruntime"),
) -> Any:
    """Ours, OpenVINO's and ONNX Runtime's; returns ours."""
    ours = run_cut(one_node(op, inputs, attributes, outputs), inputs, outputs)
    for runtime in runtimes:
        theirs = run_standard(one_node(op, inputs, attributes, outputs), inputs, runtime)
        for name in outputs:
            assert theirs[name].shape == ours[name].shape, f"{name} in {runtime}"
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=2e-3, err_msg=f"{name} in {runtime}")
    return ours


@pytest.mark.parametrize("most", [0, 7, 60, 1000])
@pytest.mark.parametrize(("offset", "min_size"), [(0.0, 0.0), (0.5, 10.0)])
def test_proposals(most: int, offset: float, min_size: float) -> None:
    rng = np.random.default_rng(most)
    inputs: dict[str, np.ndarray] = {
        f"rpn_{i}": rng.standard_normal((1, 10, 64 // s, 96 // s)).astype(np.float32) for i, s in enumerate(STRIDES)
    }
    inputs["sizes"] = np.array([60, 90, 120, 180], np.int32)
    inputs["max_proposals"] = np.array([most], np.int32)
    attributes = {
        "strides": STRIDES,
        "anchors": [side * 2**i for i in range(4) for side in ANCHORS],
        "anchor_offset": offset,
        "bbox_weights": [1.0, 1.0, 1.0, 1.0],
        "nms_threshold": 0.7,
        "min_size": min_size,
        "pre_nms_topk": 100,
        "capacity": 1000,
        "layout": "NCHW",
    }
    ours = assert_same("GenerateProposals", inputs, attributes, ["proposals", "scores", "count"])
    assert len(ours["scores"]) == ours["count"][0] == min(most, len(ours["scores"]))
    assert most != 1000 or 60 < len(ours["scores"]) < 260, "NMS must matter for this to test anything"


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("boxes", [0, 1, 40])
def test_roi_align(aligned: int, sampling_ratio: int, levels: int, boxes: int) -> None:
    rng = np.random.default_rng(boxes)
    inputs: dict[str, np.ndarray] = {
        f"level_{i}": rng.standard_normal((1, 3, 512 // s, 768 // s)).astype(np.float32)
        for i, s in enumerate(STRIDES[:levels])
    }
    corner = rng.uniform(-20, 500, (boxes, 2))
    inputs["boxes"] = np.concatenate([corner, corner + np.exp(rng.uniform(1, 6.3, (boxes, 2)))], 1).astype(np.float32)
    inputs["count"] = np.array([boxes], np.int32)
    attributes = {"strides": STRIDES[:levels], "pooled_size": 7, "sampling_ratio": sampling_ratio, "aligned": aligned}
    attributes |= {"canonical_box_size": 224, "canonical_level": 4, "zero_point": 0, "layout": "NCHW"}
    ours = assert_same("MultilevelRoiAlign", inputs, attributes, ["pooled"])
    assert ours["pooled"].shape == (boxes, 3, 7, 7)


@pytest.mark.parametrize(("score", "nms", "most"), [(0.0, 0.5, 100), (0.6, 0.5, 100), (0.0, 1.0, 5), (1.0, 0.5, 100)])
def test_detections(score: float, nms: float, most: int) -> None:
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 200, (80, 2))
    inputs = {
        "logits": rng.standard_normal((80, 2)).astype(np.float32),
        "deltas": rng.standard_normal((80, 4)).astype(np.float32),
        "proposals": np.concatenate([corner, corner + rng.uniform(20, 100, (80, 2))], 1).astype(np.float32),
        "proposal_count": np.array([80], np.int32),
        "sizes": np.array([240, 240, 123, 345], np.int32),
        "score_threshold": np.array([score], np.float32),
        "nms_threshold": np.array([nms], np.float32),
        "max_detections": np.array([most], np.int32),
    }
    attributes = {"bbox_weights": [10.0, 10.0, 5.0, 5.0], "capacity": 100}
    outputs = ["boxes_network", "boxes", "scores", "count", "classes"]
    # Of this node alone OpenVINO 2026.4.1 now and then infers shapes before its NonMaxSuppression has run. In a whole
    # network it does not: the demo is tested below.
    ours = assert_same("BoxDetections", inputs, attributes, outputs, ["onnxruntime"])
    assert len(ours["scores"]) <= most
    assert (len(ours["scores"]) == 0) == (score == 1.0)


def test_quantized_features_are_float_around_a_runtimes_own_roi_align() -> None:
    """The same Q/DQ, and RoIAlign rounded to bytes: what differs is a step where rounding falls differently."""
    picture = np.random.default_rng(0).uniform(-100, 150, (1, 3, 64, 96)).astype(np.float32)
    feeds = {
        "image": picture,
        "sizes": np.array([64, 96, 64, 96], np.int32),
        "max_proposals": np.array([50], np.int32),
        "max_detections": np.array([5], np.int32),
        "score_threshold": np.array([0.0], np.float32),
        "nms_threshold": np.array([1.0], np.float32),
    }
    names = [str(output.name) for output in small_detector().graph.outputs]
    results = []
    for standard in (False, True):
        model = ir.from_proto(onnx.load_model_from_string(serialize(small_detector())))
        quantize(model, dict.fromkeys(activations(model), (-100.0, 150.0)), TARGETS["openvino"])
        results.append(run_standard(model, feeds, "onnxruntime") if standard else run_cut(model, feeds, names))
    ours, theirs = results
    assert len(ours["boxes"]) == len(theirs["boxes"]) == 5
    np.testing.assert_allclose(theirs["boxes"], ours["boxes"], atol=0.5)
    np.testing.assert_allclose(theirs["u"], ours["u"], atol=0.05 * np.abs(ours["u"]).max())


@pytest.mark.parametrize("make", [make_openvino_stock, make_onnxruntime])
@pytest.mark.parametrize("size", ["static", "dynamic"])
def test_the_demo_finds_the_same_people(make: Any, size: str, request: pytest.FixtureRequest) -> None:
    engine_path = request.getfixturevalue("demo_engine" if size == "static" else "dynamic_engine")
    graph = request.getfixturevalue("demo_onnx" if size == "static" else "dynamic_onnx")
    pictures = [np.asarray(Image.open(MODELS / name).convert("RGB")) for name in ("person.jpg", "astronaut.jpg")]
    peer = make(Sources(engine_path, graph=graph))
    assert peer.precision == "fp32"
    with Engine.load(engine_path, cache_dir=None, warm_up=0) as engine:
        for settings in ({"score_threshold": 0.3}, {"score_threshold": 0.0, "max_people": 6, "max_proposals": 80}):
            pairs = [(engine.infer(p, **settings), peer.infer(p, **settings)) for p in pictures]  # type: ignore[call-overload]
            agreement = compare_results(pairs)
            assert agreement.people[0] >= 2
            assert agreement.exact, str(agreement)
        assert len(peer.infer(pictures[0], score_threshold=1.0)) == 0, "nobody is a result like any other"
    peer.close()


def test_the_command_writes_a_graph_that_builds(demo_engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "standard.onnx"
    arguments = ["--config", MODELS / "demo.yaml", "--weights", MODELS / "demo.pth", "--input-size", "320x448"]
    assert main(["export", *map(str, arguments), "--ops", "standard", "-o", str(path), "-q"]) == 0
    assert {opset.domain for opset in onnx.load(path).opset_import} == {""}
    assert main(["build", str(path), "-o", str(tmp_path / "standard.engine"), "-q"]) == 0
    picture = np.asarray(Image.open(MODELS / "person.jpg").convert("RGB"))
    with (
        Engine.load(demo_engine, cache_dir=None, warm_up=0) as ours,
        Engine.load(tmp_path / "standard.engine", cache_dir=None, warm_up=0) as theirs,
    ):
        assert compare_results([(ours.infer(picture), theirs.infer(picture))]).exact
