"""The graph that ``export`` writes: an ONNX file whose metadata says what it is.

onnx and onnx_ir are imported when a graph is read, not before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DensePoseEngineError, GraphFileError, require
from ..files.fields import FieldError, is_integer, shown
from ..files.reading import NotRegularError, TooLargeError, parse_json, read_regular
from ..files.recognize import GRAPH, refuse_other
from .custom_ops import DETECTIONS, IMAGE, LAYOUTS, SETTINGS, custom_op
from .decoder import PREFIX
from .description import GRAPH_VERSION, ModelDescription

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

#: The metadata property under which a graph says what it is, as JSON.
METADATA = "densepose_engine"
_MOST_BYTES = (1 << 31) - 1  # protobuf's own limit
_MOST_METADATA = 4 << 20  # a real one has some kilobytes
_EXPORT = "the ONNX file that 'densepose-engine export' wrote"


class GraphFile(NamedTuple):
    """A graph: the file's bytes, what is in them, and what it says of itself."""

    data: bytes
    model: ir.Model
    description: ModelDescription


def read_graph(path: Path, error: type[DensePoseEngineError] = GraphFileError, purpose: str = "building") -> GraphFile:
    """Read a graph.

    Args:
        error: what is raised for a file that is no graph of ours.
        purpose: what needs it, for the message where onnx is missing.

    Raises:
        FileNotFoundError: there is no such file.
        BackendUnavailable: onnx or onnx_ir is not installed.
        Others: ``error``, whose message begins with the path.
    """
    _require(purpose)
    return parse_graph(read_graph_bytes(path, error), str(path), error, purpose)


def read_graph_bytes(path: Path, error: type[DensePoseEngineError] = GraphFileError) -> bytes:
    """A graph's file as it is; errors as ``read_graph``."""
    refuse_other(path, GRAPH, error=error)
    try:
        return read_regular(path, _MOST_BYTES)
    except IsADirectoryError:
        raise error(f"{path} is a folder; give {_EXPORT}") from None
    except NotRegularError as refused:
        raise error(f"{refused}; give {_EXPORT}") from None
    except TooLargeError as refused:
        raise error(f"{path} is no graph: it {refused}") from None


def parse_graph(
    data: bytes, name: str, error: type[DensePoseEngineError] = GraphFileError, purpose: str = "building"
) -> GraphFile:
    """The same of a file's bytes; ``name`` is what messages call it."""
    _require(purpose)
    import onnx
    import onnx_ir as ir

    try:
        model = ir.from_proto(onnx.load_model_from_string(data))
        properties = dict(model.metadata_props)
    except Exception as refused:  # protobuf and onnx_ir each have their own, RecursionError among them
        raise error(f"{name} cannot be read as an ONNX graph ({type(refused).__name__}: {refused!s:.300})") from refused
    try:
        description = read_description(properties)
    except KeyError:
        raise error(f"{name} was not written by 'densepose-engine export': it lacks our metadata") from None
    except ValueError as refused:
        raise error(f"{name} does not describe its model: {refused}; export it again") from refused
    try:
        _check_texts(model)
        _check_ends(model, description)
    except ValueError as refused:
        raise error(f"{name} is not the graph that its metadata describes: {refused}; export it again") from refused
    return GraphFile(data, model, description)


def read_description(properties: Mapping[str, str]) -> ModelDescription:
    """What a graph's metadata properties say of it.

    Raises:
        KeyError: it has no such property.
        ValueError: it is of another version, or does not describe a model; the message names the key.
    """
    text = properties[METADATA]
    if len(text) > _MOST_METADATA:
        raise ValueError(f"its metadata has {len(text)} characters, at most {_MOST_METADATA} are read")
    content = parse_json(text)
    version = content.get("graph_version") if isinstance(content, dict) else None
    if version != GRAPH_VERSION and version is not None:
        raise FieldError(f"it has graph version {version!r}, this package reads {GRAPH_VERSION}")
    return ModelDescription.from_json(content)


def take_decoder_tensors(model: ir.Model, description: ModelDescription) -> dict[str, np.ndarray]:
    """The decoder's constant tensors, by name, taken out of the graph: no vendor's compiler needs them."""
    constants = model.graph.initializers
    found = {}
    for tensor in description.decoder.tensors:
        value = constants.pop(PREFIX + tensor.name).const_value
        if value is None:
            raise ValueError(f"its decoder's {tensor.name} has no values")
        found[tensor.name] = value.numpy()
    return found


def write_description(model: ir.Model, description: ModelDescription) -> None:
    """Put ``description`` into the graph's metadata, in place."""
    model.metadata_props[METADATA] = json.dumps(description.to_json())


def _check_texts(model: ir.Model) -> None:
    """What is no UTF-8 comes as bytes, and fails wherever somebody writes or compares it."""
    for node in model.graph:
        texts: list[object] = [node.name, node.op_type, node.domain]
        texts += [value.name for value in (*node.inputs, *node.outputs) if value is not None]
        for attribute in node.attributes.values():
            texts += attribute.value if isinstance(attribute.value, list | tuple) else [attribute.value]
        if any(isinstance(text, bytes) for text in texts):
            raise ValueError(f"its node {shown(node.name)} holds text that is no UTF-8")


def _check_ends(model: ir.Model, description: ModelDescription) -> None:
    """Whether inputs and outputs are those that everybody asks for by name."""
    inputs = {value.name: value for value in model.graph.inputs}
    if missing := [name for name in (IMAGE, *SETTINGS) if name not in inputs]:
        raise ValueError(f"it has no input {', '.join(missing)}")
    image = inputs[IMAGE].shape
    if image is None or len(image) != 4:
        raise ValueError("its image has not four axes")
    sides = [side if isinstance(side, int) else None for side in image[2:]]
    if sides != list(description.input.size or (None, None)):
        raise ValueError("its image has another size")
    outputs = {value.name for value in model.graph.outputs if value.producer() is not None}
    if missing := [name for name in (*DETECTIONS, *description.maps) if name not in outputs]:
        raise ValueError(f"it has no output {', '.join(missing)}")
    made = set(inputs) | set(model.graph.initializers) | {value.name for node in model.graph for value in node.outputs}
    constants = model.graph.initializers
    if missing := [one.name for one in description.decoder.tensors if PREFIX + one.name not in constants]:
        raise ValueError(f"it lacks its decoder's {', '.join(missing)}")
    for node in model.graph:
        if dangling := [value.name for value in node.inputs if value is not None and value.name not in made]:
            raise ValueError(f"its node {node.name} reads {shown(dangling[0])}, which nothing makes")
        if (op := custom_op(node)) is not None:
            levels = op.levels(node.inputs)
            for name, (low, high) in op.limits.items():
                _check_attribute(node, name, low, high)
            if op.reads_levels:
                _check_maps(node, [*levels, *(node.outputs[:1] if op.writes_maps else ())])


def _check_attribute(node: ir.Node, name: str, low: int, high: int) -> None:
    attribute = node.attributes.get(name)
    if attribute is None:
        return  # the op has a default
    values = attribute.value if isinstance(attribute.value, list | tuple) else [attribute.value]
    if not all(is_integer(value) and low <= value <= high for value in values):
        raise ValueError(f"{name} of its node {node.name} is {shown(attribute.value)}, it must be from {low} to {high}")


def _check_maps(node: ir.Node, maps: Sequence[ir.Value | None]) -> None:
    layout = node.attributes.get("layout")
    if layout is None or layout.value not in LAYOUTS:
        given = "missing" if layout is None else shown(layout.value)
        raise ValueError(f"layout of its node {node.name} is {given}, it must be one of {', '.join(LAYOUTS)}")
    for value in maps:
        if value is None or (value.shape is not None and len(value.shape) != 4):
            raise ValueError(f"a map of its node {node.name} has not four axes")


def _require(purpose: str) -> None:
    for module in ("onnx", "onnx_ir"):
        require(module, "build", purpose)
