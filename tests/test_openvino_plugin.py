"""The ops inside OpenVINO: the same numbers as outside it, and attributes that keep every bit on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import openvino as ov
import pytest
from graph_runner import run_cut

from densepose_engine import _core
from densepose_engine.backends.openvino import make_core

RNG = np.random.default_rng(7)
# Not representable in six digits, which is what OpenVINO's IR gives a list of floats.
ANCHORS = RNG.uniform(-400, 400, (2, 3, 4)).astype(np.float32)
ANCHORS[..., 2:] = ANCHORS[..., :2] + np.abs(ANCHORS[..., 2:]) + 1


def proposals_case() -> tuple[str, dict[str, Any], list[np.ndarray], int]:
    maps = [RNG.standard_normal((1, 15, s, s + 2), dtype=np.float32) for s in (12, 6)]
    attributes = {
        "strides": [8, 16],
        "anchors": ANCHORS.ravel().tolist(),
        "bbox_weights": [1.1, 0.9, 1.3, 0.7],
        "nms_threshold": float(np.float32(0.7123457)),
        "min_size": float(np.float32(0.1234567)),
        "pre_nms_topk": 100,
        "capacity": 60,
    }
    return "GenerateProposals", attributes, [*maps, np.array([96, 112, 96, 112], np.int32), np.array([40], np.int32)], 3


def align_case(dtype: type, layout: str) -> tuple[str, dict[str, Any], list[np.ndarray], int]:
    levels = []
    for side in (32, 16):
        values = RNG.standard_normal((1, side, side + 3, 16)) * (40 if np.issubdtype(dtype, np.integer) else 1)
        values = (values + 128 if dtype == np.uint8 else values).astype(dtype)
        levels.append(values if layout == "NHWC" else np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
    boxes = np.array([[3.2, 5.1, 60.7, 90.4], [-4, -8, 20, 30], [0, 0, 140, 120]], np.float32)
    attributes = {"strides": [4, 8], "pooled_size": 5, "layout": layout, "zero_point": 128 if dtype == np.uint8 else 0}
    return "MultilevelRoiAlign", attributes, [*levels, boxes, np.array([2], np.int32)], 1


def detections_case(proposals: int = 30, classes: int = 1) -> tuple[str, dict[str, Any], list[np.ndarray], int]:
    corners = RNG.uniform(0, 60, (proposals, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + RNG.uniform(5, 50, (proposals, 2)).astype(np.float32)], 1)
    inputs = [
        RNG.standard_normal((proposals, classes + 1), dtype=np.float32),
        RNG.standard_normal((proposals, 4 * classes), dtype=np.float32) * 0.1,
        boxes,
        np.array([proposals], np.int32),
        np.array([100, 120, 333, 400], np.int32),
        np.array([0.3], np.float32),
        np.array([0.5], np.float32),
        np.array([9], np.int32),
    ]
    return "BoxDetections", {"bbox_weights": [10.01, 9.99, 5.5, 4.7], "capacity": 20}, inputs, 5


def chart_case(people: int = 2) -> tuple[str, dict[str, Any], list[np.ndarray], int]:
    maps = [RNG.standard_normal((people, c, 8, 8), dtype=np.float32) for c in (15, 25, 25, 25)]
    boxes = np.array([[1, 2, 30, 41], [5, 5, 9, 77]], np.float32)[:people]
    return "ChartResult", {"layout": "NCHW"}, [*maps, boxes], 4


def vertices_case(people: int = 3) -> tuple[str, dict[str, Any], list[np.ndarray], int]:
    """Two meshes, one of less than a block; the last person is one pixel."""
    meshes = [RNG.standard_normal((count, 6)).astype(np.float32) for count in (5000, 7)]
    trees = [_core.vertex_tree(mesh / np.linalg.norm(mesh, axis=1, keepdims=True)) for mesh in meshes]
    sheets = np.cumsum([0, *(len(tree[3]) for tree in trees)]).astype(np.int32)
    maps = [RNG.standard_normal((people, c, 8, 8), dtype=np.float32) for c in (2, 6)]
    maps[1][:1, 2, 3] = np.nan
    boxes = np.array([[1, 2, 30, 41], [5, 5, 29, 37], [3, 3, 3.5, 3.5]], np.float32)[:people]
    tree = [np.concatenate([tree[i] for tree in trees]) for i in range(4)]
    which = np.array([0, 1, 0], np.int32)[:people]
    return "ClosestVertices", {"layout": "NCHW"}, [*maps, boxes, which, *tree, sheets], 3


CASES = {
    "proposals": proposals_case(),
    **{f"align-{d.__name__}-{y}": align_case(d, y) for d in (np.float32, np.uint8, np.int8) for y in ("NCHW", "NHWC")},
    "detections": detections_case(),
    "detections of nine classes": detections_case(30, 9),
    "no proposals": detections_case(0),
    "chart": chart_case(),
    "nobody": chart_case(0),
    "vertices": vertices_case(),
    "nobody's vertices": vertices_case(0),
}


def one_node_graph(op: str, attributes: dict[str, Any], inputs: list[np.ndarray], outputs: int) -> ir.Model:
    values = [
        ir.Value(
            name=f"in{i}", type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape([None] * array.ndim)
        )
        for i, array in enumerate(inputs)
    ]
    every = getattr(_core.ops, op)(**attributes).attributes  # a graph says also what is the default
    node = ir.node(op, values, every, domain="densepose", num_outputs=outputs, name="node")
    for i, value in enumerate(node.outputs):
        value.name, value.dtype = f"out{i}", ir.DataType.FLOAT
    graph = ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 18, "densepose": 1}, name="one")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("case", CASES)
def test_an_op_in_a_graph_equals_the_op_outside(case: str) -> None:
    op, attributes, inputs, count = CASES[case]
    expected = getattr(_core.ops, op)(**attributes)(*inputs)
    feeds = {f"in{i}": array for i, array in enumerate(inputs)}
    actual = run_cut(one_node_graph(op, attributes, inputs, count), feeds, [f"out{i}" for i in range(count)])
    for i, want in enumerate(expected):
        got = actual[f"out{i}"]
        assert got.dtype == want.dtype
        # What the graph gives is trimmed to the count.
        np.testing.assert_array_equal(got, want[: len(got)], err_msg=f"output {i}")
        if want.ndim and len(got) < len(want):
            rest = want[len(got) :]
            assert ((rest == 0) | np.isneginf(rest)).all(), "more than padding was cut off"


def test_a_graph_from_before_there_were_classes_still_runs() -> None:
    """Its node has four outputs; the op has five."""
    op, attributes, inputs, _ = CASES["detections"]
    expected = getattr(_core.ops, op)(**attributes)(*inputs)
    feeds = {f"in{i}": array for i, array in enumerate(inputs)}
    actual = run_cut(one_node_graph(op, attributes, inputs, 4), feeds, [f"out{i}" for i in range(4)])
    assert expected[3][0] > 1
    for i in range(4):
        np.testing.assert_array_equal(actual[f"out{i}"], expected[i][: len(actual[f"out{i}"])])


@pytest.mark.parametrize("case", ["proposals", "detections"])
def test_float_attributes_survive_ir_bit_by_bit(case: str, tmp_path: Path) -> None:
    op, attributes, inputs, count = CASES[case]
    core = make_core()
    model = core.read_model(ir.to_proto(one_node_graph(op, attributes, inputs, count)).SerializeToString())
    ov.serialize(model, str(tmp_path / "model.xml"))
    again = core.read_model(str(tmp_path / "model.xml"))
    feeds = {f"in{i}": array for i, array in enumerate(inputs)}
    first, second = (core.compile_model(m, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds) for m in (model, again))
    for i in range(count):
        np.testing.assert_array_equal(first[f"out{i}"], second[f"out{i}"])


def test_a_damaged_exact_attribute_is_an_error(tmp_path: Path) -> None:
    op, attributes, inputs, count = CASES["detections"]
    core = make_core()
    model = core.read_model(ir.to_proto(one_node_graph(op, attributes, inputs, count)).SerializeToString())
    ov.serialize(model, str(tmp_path / "model.xml"))
    xml = (tmp_path / "model.xml").read_text()
    assert 'bbox_weights_exact="0x' in xml
    (tmp_path / "model.xml").write_text(xml.replace('bbox_weights_exact="0x', 'bbox_weights_exact="broken '))
    with pytest.raises(RuntimeError, match="bbox_weights"):
        core.read_model(str(tmp_path / "model.xml"))


def test_wrong_inputs_are_named_while_the_graph_is_read() -> None:
    op, attributes, inputs, count = CASES["detections"]
    wrong = [*inputs]
    wrong[1] = wrong[1][:, :3]
    graph = one_node_graph(op, attributes, wrong, count)
    graph.graph.inputs[1].shape = ir.Shape([30, 3])
    with pytest.raises(RuntimeError, match=r"BoxDetections.*deltas"):
        make_core().read_model(ir.to_proto(graph).SerializeToString())
