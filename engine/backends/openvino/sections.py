"""The one graph, cut at its custom nodes into sections of fixed shapes.

OpenVINO plans layouts and memory ahead, and drops a Transpose against the layout that the next convolution wants, only
where shapes are fixed; but how many proposals and people a picture has is known when it runs. So the heads become
models of their own, each for a few fixed numbers of rows, and whoever runs them brings the rows together. The numbers
are those of the whole graph: a row of a head does not depend on its neighbors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import _core
from ...model.custom_ops import BOX_DETECTIONS, GENERATE_PROPOSALS, IMAGE, MULTILEVEL_ROI_ALIGN, SETTINGS

#: How many rows a light head is compiled for. A convolution's weights are packed once per model, so a head of heavy
#: ones is compiled once, for any number of rows: what it loses in layouts is small beside what it computes.
BOX_ROWS = (1000, 300, 100)
PEOPLE_ROWS = (4, 2, 1)
ANY_ROWS = 0
_LIGHT_BYTES = 8 << 20
# A model of more rows than are needed is used where at most this share of them is for nothing.
_MOST_WASTE = 1 / 8


@dataclass(frozen=True)
class Head:
    """RoIAlign and what reads it, by number of rows (``ANY_ROWS``: any).

    Each model's inputs are those levels of the trunk that ``levels`` numbers, boxes ``[rows, 4]`` and their count
    ``[1]``.
    """

    models: dict[int, Any]
    levels: tuple[int, ...]


@dataclass(frozen=True)
class Sections:
    """What ``cut`` makes, and the same again with its models compiled.

    ``trunk``: image, sizes, max_proposals -> proposals ``[capacity, 4]``, their count ``[1]``, and the levels.
    ``box``: -> class logits, deltas. ``detections``: the op ``BoxDetections``, called without OpenVINO. ``people``: ->
    the graph's other outputs, named ``maps``. ``capacity``: rows that proposals have room for. ``detected``: which of
    the op's outputs the graph hands out.
    """

    trunk: Any
    box: Head
    detections: Any
    people: Head
    capacity: int
    maps: tuple[str, ...]
    detected: tuple[str, ...]

    def models(self) -> list[Any]:
        return [self.trunk, *self.box.models.values(), *self.people.models.values()]

    def with_models(self, models: Iterable[Any]) -> Sections:
        """These sections, with ``models`` in the places of ``models()``."""
        rest = iter(models)
        trunk, box = next(rest), {rows: next(rest) for rows in self.box.models}
        people = {rows: next(rest) for rows in self.people.models}
        heads = Head(box, self.box.levels), Head(people, self.people.levels)
        return Sections(trunk, heads[0], self.detections, heads[1], self.capacity, self.maps, self.detected)


def cut(model: Any) -> Sections | None:
    """Cut ``model`` (an ``openvino.Model``, which stays as it is); None if it has not our custom nodes."""
    nodes = _CustomNodes.of(model)
    if nodes is None:
        return None
    levels: list[Any] = []  # as (node, port) names, which clones share
    for roi_align in (nodes.box, nodes.people):
        for port in _levels(roi_align):
            if (place := _place(port)) not in levels:
                levels.append(place)
    most = nodes.proposals.get_attributes()["capacity"]
    box_rows = tuple(rows for rows in BOX_ROWS if rows <= most) or BOX_ROWS[-1:]
    capacity = -(-most // box_rows[0]) * box_rows[0]
    trunk = _trunk(model, capacity, levels)
    heads = []
    maps = tuple(port.get_any_name() for port in _map_results(model))
    for name, rows in (("box", box_rows), ("people", PEOPLE_ROWS)):
        numbers = tuple(levels.index(_place(port)) for port in _levels(getattr(nodes, name)))
        shapes = [trunk.output(2 + number).get_partial_shape() for number in numbers]
        head = _head(model, name, shapes)
        light = _constant_bytes(head) <= _LIGHT_BYTES
        heads.append(Head({count: _of_rows(head, count) for count in rows} if light else {ANY_ROWS: head}, numbers))
    box, people = heads
    detected = tuple(port.get_any_name() for port in model.outputs if _is_detected(port))
    return Sections(trunk, box, _detections(nodes.detections), people, capacity, maps, detected)


def plan_rows(rows: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, size) of models' runs, of ``sizes`` in falling order, that together cover ``rows`` rows."""
    if ANY_ROWS in sizes:
        if rows:
            yield 0, rows
        return
    start = 0
    while start < rows:
        rest = rows - start
        enough = [size for size in sizes if size >= rest and (size - rest <= size * _MOST_WASTE or size == sizes[-1])]
        size = enough[-1] if enough else next(size for size in sizes if size <= rest)
        yield start, size
        start += size


@dataclass(frozen=True)
class _CustomNodes:
    """``box`` and ``people``: the two RoIAligns."""

    proposals: Any
    box: Any
    detections: Any
    people: Any

    @classmethod
    def of(cls, model: Any) -> _CustomNodes | None:
        found: dict[str, list[Any]] = {}
        for op in model.get_ops():
            found.setdefault(op.get_type_name(), []).append(op)
        roi_aligns = found.get(MULTILEVEL_ROI_ALIGN.name, [])
        sources = {_type(MULTILEVEL_ROI_ALIGN.input(op.inputs(), "boxes")): op for op in roi_aligns}
        makers = (GENERATE_PROPOSALS.name, BOX_DETECTIONS.name)
        if any(len(found.get(kind, [])) != 1 for kind in makers) or set(sources) != set(makers):
            return None
        (proposals,), (detections,) = (found[kind] for kind in makers)
        return cls(proposals, sources[GENERATE_PROPOSALS.name], detections, sources[BOX_DETECTIONS.name])


def _type(port: Any) -> str:
    """Of the node that an input reads from."""
    name: str = port.get_source_output().get_node().get_type_name()
    return name


def _levels(roi_align: Any) -> list[Any]:
    """The outputs that it reads features from."""
    return [port.get_source_output() for port in MULTILEVEL_ROI_ALIGN.levels(roi_align.inputs())]


def _place(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()


def _map_results(model: Any) -> list[Any]:
    """The graph's outputs that BoxDetections does not make."""
    return [port for port in model.outputs if not _is_detected(port)]


def _is_detected(result: Any) -> bool:
    return _type(result.get_node().input(0)) == BOX_DETECTIONS.name


def _trunk(model: Any, capacity: int, levels: Sequence[tuple[str, int]]) -> Any:
    clone = model.clone()
    nodes = _CustomNodes.of(clone)
    assert nodes is not None
    nodes.proposals.set_attribute("static_rows", True)
    nodes.proposals.set_attribute("capacity", capacity)
    nodes.proposals.validate_and_infer_types()
    ports = {_place(port): port for roi_align in (nodes.box, nodes.people) for port in _levels(roi_align)}
    made = [GENERATE_PROPOSALS.output(nodes.proposals.outputs(), role) for role in ("boxes", "count")]
    settings = [role for role in GENERATE_PROPOSALS.inputs if role in SETTINGS]
    return _model([*made, *(ports[level] for level in levels)], _settings(clone, (IMAGE, *settings)), "trunk")


def _head(model: Any, name: str, level_shapes: Sequence[Any]) -> Any:
    """For any number of rows."""
    clone = model.clone()
    nodes = _CustomNodes.of(clone)
    assert nodes is not None
    roi_align = getattr(nodes, name)
    shapes = [*level_shapes, [-1, 4], [1]]
    parameters = [
        _cut_input(port, shape, f"{name}/{index}")
        for index, (port, shape) in enumerate(zip(roi_align.inputs(), shapes, strict=True))
    ]
    if name == "box":
        ports = nodes.detections.inputs()
        roles = ("class_logits", "box_deltas")
        outputs = [BOX_DETECTIONS.input(ports, role).get_source_output() for role in roles]
    else:
        outputs = [port.get_node().input(0).get_source_output() for port in _map_results(clone)]
    return _model(outputs, parameters, name)


def _of_rows(head: Any, rows: int) -> Any:
    fixed = head.clone()
    fixed.reshape({MULTILEVEL_ROI_ALIGN.position("boxes", len(fixed.inputs)): [rows, 4]})
    return fixed


def _detections(node: Any) -> Any:
    """The op itself: OpenVINO would take longer to call it than it runs."""
    attributes = node.get_attributes()
    weights = [float.fromhex(text) for text in attributes["bbox_weights_exact"].split()]
    return _core.ops.BoxDetections(bbox_weights=weights, capacity=attributes["capacity"])


def _settings(model: Any, names: Sequence[str]) -> list[Any]:
    return [model.input(name).get_node() for name in names]


def _cut_input(port: Any, shape: Any, name: str) -> Any:
    """A parameter in place of what ``port`` reads."""
    from openvino import PartialShape, op

    source = port.get_source_output()
    parameter = op.Parameter(source.get_element_type(), PartialShape(shape))
    parameter.set_friendly_name(name)
    port.replace_source_output(parameter.output(0))
    return parameter


def _model(outputs: Sequence[Any], parameters: Sequence[Any], name: str) -> Any:
    from openvino import Model, opset13

    model = Model([opset13.result(port) for port in outputs], list(parameters), name)
    model.validate_nodes_and_infer_types()
    return model


def _constant_bytes(model: Any) -> int:
    """Of all weights, in the type that they are kept in."""
    constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
    return sum(int(np.prod(list(op.shape))) * op.get_element_type().bitwidth // 8 for op in constants)
