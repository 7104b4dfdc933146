"""Which tensors are quantized, and which of them share a scale: the rules, one function each.

1. Every convolution and matrix product reads a quantized tensor and has int8 weights, per output channel, symmetric.
2. What only moves or selects values (``points.TRANSPARENT``) has its input quantized instead of its output.
3. All levels that a RoIAlign reads share one scale, and it works on bytes: Q before it, DQ after it.
4. All inputs of a Concat are quantized with one scale: the concatenation then copies bytes.
5. Both summands of an Add are quantized, each with a scale of its own, but for one that a layer makes for this Add
   alone: that sum is fused into the layer, in its wide accumulator.

Sharing never goes further than one such join: a tensor that two of them claim stays with the first (RoIAlign, then the
later Concat), and the other join requantizes, with a pair of its own on its output. What a layer writes for a custom
node or for the user stays float.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ...model.custom_ops import MULTILEVEL_ROI_ALIGN
from .points import source


@dataclass
class Plan:
    """What the rules have decided so far.

    ``tensors``: who gets a pair, in the order in which they were found; ``groups``: of tensors that share a scale,
    no two with a tensor in common; ``pooled``: the RoIAligns that read bytes. ``wanted``: tensors that somebody reads
    quantized, whether or not they have a pair of their own; ``layers``: ids of the nodes that run in INT8.
    """

    layers: frozenset[int]
    tensors: dict[ir.Value, None]
    wanted: dict[ir.Value, None]
    groups: list[tuple[ir.Value, ...]] = field(default_factory=list)
    pooled: list[ir.Node] = field(default_factory=list)

    def claimed(self) -> set[ir.Value]:
        """Who shares a scale already."""
        return {value for group in self.groups for value in group}

    def add(self, *values: ir.Value) -> None:
        """Give these a pair each."""
        self.tensors.update(dict.fromkeys(values))


def plan_tensors(model: ir.Model, quantized_layers: Sequence[ir.Node]) -> Plan:
    """The rules, for a graph of which these layers are to run in INT8."""
    read = {source(node.inputs[0]): None for node in quantized_layers if node.inputs[0] is not None}
    plan = Plan(frozenset(map(id, quantized_layers)), dict(read), dict(read))
    # RoIAlign comes first, the one with most levels before the others, because it cannot read two scales at all.
    for node in sorted(filter(MULTILEVEL_ROI_ALIGN.matches, model.graph), key=lambda node: -len(_levels(node))):
        _levels_share(plan, node)
    # From the end, so that a join that feeds a join knows whether the latter is read by a layer.
    for node in reversed(model.graph):
        if node.domain != "" or node.outputs[0] not in plan.wanted:
            continue
        if node.op_type == "Concat":
            _joined_share(plan, node)
        elif node.op_type == "Add":
            _summands(plan, node)
    return plan


def _levels_share(plan: Plan, node: ir.Node) -> None:
    """A RoIAlign whose output a layer reads, and whose levels nobody else has claimed, pools bytes."""
    levels = _levels(node)
    together = any(set(levels) <= set(group) for group in plan.groups)
    same_scale = together or len(levels) == 1 or plan.claimed().isdisjoint(levels)
    if node.outputs[0] not in plan.wanted or not same_scale or not set(levels) <= set(node.inputs):
        return
    plan.pooled.append(node)
    plan.add(*levels)
    plan.tensors.pop(node.outputs[0])
    if not together and len(levels) > 1:
        plan.groups.append(levels)


def _joined_share(plan: Plan, node: ir.Node) -> None:
    """Inputs of a Concat that nobody has claimed share a scale; where all do, its output has it too."""
    sources = tuple(dict.fromkeys(source(value) for value in node.inputs if value is not None))
    claimed = plan.claimed()
    free = tuple(value for value in sources if value not in claimed)
    plan.add(*sources)
    if len(free) > 1:
        plan.groups.append(free)
    if len(free) == len(sources) and node.outputs[0] not in claimed:
        plan.tensors.pop(node.outputs[0], None)


def _summands(plan: Plan, node: ir.Node) -> None:
    """Summands get a pair each, but for one that is fused, and for a sum that is itself a summand."""
    operands = [value for value in node.inputs if value is not None]
    fused = next((value for value in operands if _made_by_layer(value, plan.layers)), None)
    for operand in operands:
        origin = source(operand)
        producer = origin.producer()
        if producer is not None and producer.op_type == "Add" and len(origin.uses()) == 1:
            plan.wanted[origin] = None  # the two sums become one kernel
        elif operand is not fused:
            plan.add(origin)


def _made_by_layer(value: ir.Value, layers: frozenset[int]) -> bool:
    """Whether a quantized layer makes this tensor (through an activation function, perhaps) for one reader alone."""
    producer = value.producer()
    if producer is None or len(value.uses()) != 1:
        return False
    if producer.op_type in ("Relu", "Clip") and producer.inputs[0] is not None:
        return _made_by_layer(producer.inputs[0], layers)
    return id(producer) in layers


def _levels(node: ir.Node) -> tuple[ir.Value, ...]:
    """What a RoIAlign pools from."""
    return tuple(source(value) for value in MULTILEVEL_ROI_ALIGN.levels(node.inputs) if value is not None)
