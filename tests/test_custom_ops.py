"""The roles of the custom nodes' inputs and outputs, against the ops themselves and against an exported graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from densepose_engine import _core
from densepose_engine.model.custom_ops import (
    BOX_DETECTIONS,
    CUSTOM_OPS,
    DETECTIONS,
    DOMAIN,
    GENERATE_PROPOSALS,
    IMAGE,
    MULTILEVEL_ROI_ALIGN,
    SETTINGS,
    CustomOp,
    custom_op,
)


def test_every_op_of_a_graph_is_described() -> None:
    ops = {name for name in vars(_core.ops) if isinstance(vars(_core.ops)[name], type)}
    assert {op.name for op in CUSTOM_OPS} == ops - {"ChartResult", "ClosestVertices"}


def example(op: CustomOp) -> tuple[Any, dict[str, np.ndarray]]:
    f32, i32 = np.float32, np.int32
    settings = {name: np.ones(one.length, one.dtype) for name, one in SETTINGS.items()}
    given: dict[str, np.ndarray] = {
        **settings,
        "sizes": np.array([16, 16, 16, 16], i32),
        "boxes": np.array([[1, 1, 9, 9]], f32),
        "count": np.ones(1, i32),
        "class_logits": np.zeros((1, 2), f32),
        "box_deltas": np.zeros((1, 4), f32),
    }
    attributes: dict[str, Any] = {"strides": [4, 8]}
    if op is GENERATE_PROPOSALS:
        return _core.ops.GenerateProposals(anchors=[-4, -4, 4, 4] * 2, **attributes), {
            "level0": np.zeros((1, 5, 4, 4), f32),
            "level1": np.zeros((1, 5, 2, 2), f32),
            **{role: given[role] for role in op.inputs[1:]},
        }
    if op is MULTILEVEL_ROI_ALIGN:
        return _core.ops.MultilevelRoiAlign(**attributes), {
            "level0": np.zeros((1, 3, 4, 4), f32),
            "level1": np.zeros((1, 3, 2, 2), f32),
            **{role: given[role] for role in op.inputs[1:]},
        }
    return _core.ops.BoxDetections(), {role: given[role] for role in op.inputs}


@pytest.mark.parametrize("op", CUSTOM_OPS, ids=lambda op: op.name)
def test_the_op_takes_these_inputs_and_names_them_so(op: CustomOp) -> None:
    run, inputs = example(op)
    outputs = run(*inputs.values())
    assert len(outputs if isinstance(outputs, tuple) else (outputs,)) == len(op.outputs)
    names = list(inputs)
    for role in op.inputs[1:] if op.reads_levels else op.inputs:
        wrong = [np.zeros((3, 3, 3), value.dtype) if name == role else value for name, value in inputs.items()]
        # The op says which of its inputs is wrong: that is the one that is called so here.
        with pytest.raises(ValueError, match=role.removeprefix("box_")):
            run(*wrong)
        assert op.position(role, len(names)) == names.index(role)


@pytest.mark.parametrize("op", CUSTOM_OPS, ids=lambda op: op.name)
def test_roles(op: CustomOp) -> None:
    levels = ["a", "b", "c"] if op.reads_levels else []
    roles = list(op.inputs[1:] if op.reads_levels else op.inputs)
    inputs = [*levels, *roles]
    assert list(op.levels(inputs)) == levels
    assert [op.input(inputs, role) for role in roles] == roles
    assert [op.output(op.outputs, role) for role in op.outputs] == list(op.outputs)
    with pytest.raises(ValueError, match=op.name):
        op.levels(roles[:-1])


def test_an_exported_graph(demo_onnx: Path) -> None:
    model = ir.load(demo_onnx)
    assert [value.name for value in model.graph.inputs] == [IMAGE, *SETTINGS]
    for value in model.graph.inputs[1:]:
        one = SETTINGS[str(value.name)]
        assert value.dtype == ir.DataType.from_numpy(np.dtype(one.dtype)) and list(value.shape or ()) == [one.length]
    assert [value.name for value in model.graph.outputs][:3] == list(DETECTIONS)
    found = {op.name: [node for node in model.graph if op.matches(node)] for op in CUSTOM_OPS}
    assert {name: len(nodes) for name, nodes in found.items()} == {
        "GenerateProposals": 1,
        "MultilevelRoiAlign": 2,
        "BoxDetections": 1,
    }
    (proposals,), (detections,) = found["GenerateProposals"], found["BoxDetections"]
    assert [value.name for value in GENERATE_PROPOSALS.levels(proposals.inputs)] == [f"rpn_{i}" for i in range(5)]
    for node in (proposals, detections):
        op = custom_op(node)
        assert op is not None
        for role in set(op.inputs) & set(SETTINGS):
            assert op.input(node.inputs, role).name == role
    assert BOX_DETECTIONS.input(detections.inputs, "boxes").producer() is proposals
    assert BOX_DETECTIONS.output(detections.outputs, "boxes").name == "boxes"
    for node in found["MultilevelRoiAlign"]:
        count = MULTILEVEL_ROI_ALIGN.input(node.inputs, "count")
        assert count.dtype == ir.DataType.INT32
        assert all(len(value.shape) == 4 for value in MULTILEVEL_ROI_ALIGN.levels(node.inputs))


def test_what_is_none_of_ours() -> None:
    value = ir.Value(name="a")
    assert custom_op(ir.node("Conv", [value])) is None
    assert custom_op(ir.node("BoxDetections", [value], domain="another")) is None
    assert custom_op(ir.node("BoxDetections", [value], domain=DOMAIN)) is BOX_DETECTIONS
