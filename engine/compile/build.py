"""From ``graph.onnx`` to an engine: placement for the target, then the vendor's own compiler."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends import find_backend
from ..errors import BuildError
from ..model.compiled import CalibrationOrigin, Int8Description, NominalLoad
from ..model.decoder import MEMBER as DECODER
from ..model.description import FusedEnds, ModelDescription
from ..model.engine_file import EngineFile
from ..model.frame import nominal_size
from ..model.graph_file import read_graph, take_decoder_tensors, write_description
from .layer_precision import explain

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..calibration.place.observers import Method
    from ..calibration.place.quantize import Placement
    from ..calibration.place.quantizer import Quantizer


@dataclass(frozen=True)
class Int8Options:
    """How to make an INT8 engine.

    ``calibration``: path of the table that ``calibrate`` wrote; ``observer``: how a histogram becomes a range
    ("minmax", "percentile", "entropy" or "mse"); ``adapt_weights``: round weights with what calibration knows of each
    layer's input and correct biases, instead of rounding to the nearest; ``keep_float``: names of layers that stay
    float; ``record``: what the manifest says beside that, of how these were chosen.
    """

    calibration: Path
    observer: Method = "mse"
    adapt_weights: bool = True
    keep_float: Collection[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


def build_engine(
    graph: str | os.PathLike[str],
    backend: str = "openvino",
    precision: str = "fp32",
    int8: Int8Options | None = None,
    options: Mapping[str, Any] | None = None,
) -> EngineFile:
    """Compile the graph that ``export`` wrote.

    Args:
        graph: path of the ONNX file.
        backend: "openvino", "tensorrt" or "tensorrt-rtx".
        precision: "fp32" (exact), "bf16" (openvino, where the processor has it) or "fp16" (tensorrt), which are faster,
            to about 3 significant digits, or "int8".
        int8: for precision "int8" only, and needed there.
        options: more keyword arguments of the backend's own ``build``.

    Raises:
        FileNotFoundError: there is no such file.
        BuildError: it is no graph of ours, or the vendor's compiler refuses it.
        CalibrationError: the calibration table is broken or of another graph.
        BackendUnavailable: the vendor's runtime, or what reads the graph, is not installed.
    """
    path = Path(graph)
    options = dict(options or {})
    vendor = find_backend(backend)
    vendor.check_precision(precision)
    if (precision == "int8") != (int8 is not None):
        raise ValueError("precision int8 needs a calibration table, and no other precision takes one")
    unknown = sorted(set(options) - vendor.options())
    if unknown:
        raise ValueError(f"the {backend} backend takes no {', '.join(unknown)}")
    data, model, description = read_graph(path)
    if int8 is not None:
        description = replace(description, int8=quantize_graph(model, data, vendor.device.quantization, int8))
    return compile_graph(model, description, backend, precision, options)


def compile_graph(
    model: ir.Model,
    description: ModelDescription,
    backend: str,
    precision: str,
    options: Mapping[str, Any] | None = None,
) -> EngineFile:
    """Compile a graph, which for "int8" is quantized already.

    Args:
        model: changed in place.
        description: of the model, for the engine's manifest; under "int8" what was placed.
        options: more keyword arguments of the backend's own ``build``.

    Raises:
        BuildError: the vendor's compiler refuses it.
        BackendUnavailable: the vendor's runtime is not installed.
    """
    import onnx_ir as ir

    from .layout import flatten_nhwc, pack_maps, place_nhwc, take_bytes

    vendor = find_backend(backend)
    vendor.check_precision(precision)
    options = dict(options or {})
    beside_graph = decoder_member(model, description)
    if options.get("max_people") is not None:
        description = _limit_people(description, options["max_people"])
    try:
        if vendor.device.layout == "NHWC":
            place_nhwc(model)
            flatten_nhwc(model)
        if vendor.device.fuses_ends:
            description = replace(description, ends=FusedEnds(pack_maps(model, description.maps), take_bytes(model)))
        graph = ir.to_proto(model).SerializeToString()
    except Exception as error:
        # The vendor judges nodes that are not ours, and comes after this: here they are of any kind and shape.
        raise BuildError(
            f"the graph is not as 'densepose-engine export' writes one, so that no layout can be placed in it "
            f"({type(error).__name__}: {error!s:.200}); export it again"
        ) from error
    load = nominal_load(description)
    payload, runtime, layers = vendor.build(graph, precision, load, **options)
    payload = {**payload, **beside_graph}
    if (int8 := description.int8) is not None:
        layers = explain(layers, int8.placed or (), int8.keep_float, int8.branches or ())
        description = replace(description, int8=replace(int8, placed=None))
    description = replace(description, layers=tuple(layers), layers_counted_for=load)
    return EngineFile(backend=backend, precision=precision, model=description, runtime=runtime, payload=payload)


def decoder_member(model: ir.Model, description: ModelDescription) -> dict[str, bytes]:
    """The payload's member with the decoder's tensors, if it has any, which are taken out of ``model``."""
    if not description.decoder.tensors:
        return {}
    try:
        return {DECODER: description.decoder.pack(take_decoder_tensors(model, description))}
    except ValueError as error:
        raise BuildError(f"{error}; export the graph again") from error


def _limit_people(description: ModelDescription, people: int) -> ModelDescription:
    capacity, defaults = description.capacity, description.defaults
    if not 1 <= people <= capacity.max_people:
        raise BuildError(f"max_people is {people}, it must be from 1 to {capacity.max_people}, the graph's limit")
    limited = replace(capacity, max_people=people)
    return replace(
        description, capacity=limited, defaults=replace(defaults, max_people=min(people, defaults.max_people))
    )


def quantized_graph(graph: str | os.PathLike[str], target: str, int8: Int8Options) -> bytes:
    """The graph with Q/DQ placed for a vendor, as an ONNX file's bytes: what the vendor's own tools can build from.

    Args:
        graph: path of the ONNX file that ``export`` wrote.
        target: a key of ``calibration.place.quantize.TARGETS``, "openvino" or "tensorrt".

    Its metadata are the graph's, and under "int8" what was placed. Errors as ``build_engine``.
    """
    data, model, description = read_graph(Path(graph))
    import onnx_ir as ir

    from ..calibration.place.quantize import TARGETS

    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, not {target!r}")
    placed = replace(quantize_graph(model, data, target, int8), target=target)
    write_description(model, replace(description, int8=placed))
    proto = ir.to_proto(model).SerializeToString()
    return bytes(proto)


def quantize_graph(model: ir.Model, data: bytes, backend: str, options: Int8Options) -> Int8Description:
    """Place Q/DQ in ``model`` for ``backend``, in place; what the engine's manifest says of it."""
    quantizer = make_quantizer(data, backend, options)
    placement = quantizer.place(model, options.keep_float)
    return replace(describe_int8(quantizer, placement), record=dict(options.record))


def make_quantizer(data: bytes, backend: str, options: Int8Options) -> Quantizer:
    """Of the graph with these bytes. Raises ``CalibrationError``."""
    from ..calibration.place.quantize import TARGETS
    from ..calibration.place.quantizer import Quantizer
    from ..calibration.table import CalibrationTable

    table = CalibrationTable.load(options.calibration)
    return Quantizer(data, table, TARGETS[backend], options.observer, options.adapt_weights)


def describe_int8(quantizer: Quantizer, placement: Placement) -> Int8Description:
    """What a manifest says under "int8", with ``placed``, which ``compile_graph`` compares the engine's layers with."""
    images = quantizer.table.images
    return Int8Description(
        observer=quantizer.observer,
        adapted_weights=quantizer.adapt_weights,
        placed=tuple(placement.layers),
        keep_float=tuple(placement.kept_float),
        branches=tuple(placement.branches),
        shared_scales=tuple(placement.groups),
        calibration=CalibrationOrigin(images.count, images.sha256, quantizer.table.people),
    )


def nominal_load(description: ModelDescription) -> NominalLoad:
    """What layers' MACs are counted for: the input's size, every proposal, two people."""
    rows = {"box": description.defaults.max_proposals, "densepose": 2}
    return NominalLoad(nominal_size(description.input), rows)
