"""Hostile inputs of calibrate and build: graphs, metadata, tables, and the state of an interrupted calibration."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from random import Random
from typing import Any

import onnx

from densepose_engine.calibration.histogram import BINS, grid
from densepose_engine.calibration.table import CalibrationTable
from densepose_engine.compile.build import Int8Options, build_engine
from densepose_engine.errors import (
    BackendUnavailable,
    BuildError,
    CalibrationError,
    EngineFileError,
    InferenceError,
)
from densepose_engine.model.engine_file import write_engine_file

from . import material
from .mutation import INTEGERS, changed_archive, changed_bytes, changed_tree, paths
from .target import Target
from .targets_engine import load_and_infer, run_verb

_METADATA = "densepose_engine"


class Table(Target):
    """Calibration tables, as bytes and as JSON."""

    name = "table"
    inputs = 6000
    allowed = (CalibrationError,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._raw = material.TABLE.read_bytes()
        self._table = json.loads(self._raw)
        # Of the thousands of counts, a few places suffice.
        self._places = [p for p in paths(self._table) if "counts" not in p or p[-1] == "counts" or p[-1] % 500 == 0]

    def make(self, rng: Random) -> tuple[bytes, str]:
        if rng.random() < 0.3:
            return changed_bytes(self._raw, rng), ".json"
        return json.dumps(changed_tree(self._table, rng, self._places)).encode(), ".json"

    def run(self, path: Path) -> None:
        CalibrationTable.load(path)


class TableContents(Target):
    """Tables that are well formed, and lack a tensor, or say of one what cannot be."""

    name = "table-contents"
    inputs = 400
    allowed = (CalibrationError, BuildError)
    memory = 4 << 30
    seconds = 20.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._table = json.loads(material.TABLE.read_bytes())

    def make(self, rng: Random) -> tuple[bytes, str]:
        table = json.loads(json.dumps(self._table))
        for _ in range(rng.choice([1, 2, 5])):
            if table["tensors"] and table["layers"]:
                _change_table(table, rng)
        return json.dumps(table).encode(), ".json"

    def run(self, path: Path) -> None:
        for observer in ("mse", "minmax", "percentile", "entropy"):
            options = Int8Options(path, observer)  # type: ignore[arg-type]
            write_engine_file(self.folder / "built.engine", build_engine(material.GRAPH, "openvino", "int8", options))


def _change_table(table: dict[str, Any], rng: Random) -> None:
    tensors, layers, kind = table["tensors"], table["layers"], rng.random()
    tensor, layer = rng.choice(list(tensors)), rng.choice(list(layers))
    if kind < 0.15:
        del tensors[tensor]
    elif kind < 0.4:
        low, high = rng.choice([(0.0, 0.0), (0.0, 1e-38), (-5.0, -1.0), (-3.4e38, 3.4e38), (1.0, 1.0), (-1e-45, 0.0)])
        tensors[tensor] = _histogram(low, high, rng.choice([1, 2**40]))
    elif kind < 0.55:
        value = rng.choice([0.0, 1e300, -1e38, 3e38, 1.0])
        layers[layer]["input_mean"] = [value] * rng.choice([1, 3, 64, len(layers[layer]["input_mean"])])
    elif kind < 0.7:
        del layers[layer]
    elif kind < 0.8:
        table["people"] = table["proposals"] = 0
    elif kind < 0.9:
        tensors[f"{tensor}x"] = tensors.pop(tensor)
    else:
        table["input_size"] = rng.choice([None, [64, 96], [96, 64], [32, 32], [10**9, 10**9]])


def _histogram(low: float, high: float, count: int) -> dict[str, Any]:
    """A tensor's entry of which all values are ``low`` or ``high``."""
    exponent, first = grid(low, high)
    width = math.ldexp(1.0, exponent)
    counts = [0] * BINS
    for value in (low, high):
        counts[min(max(math.floor(value / width) - first, 0), BINS - 1)] += count
    bounds = {"low": first * width, "high": (first + BINS) * width}
    return {"minimum": low, "maximum": high, "count": 2 * count, "zeros": 0, "counts": counts, **bounds}


class Graph(Target):
    """ONNX files: hostile metadata, attributes of our ops, shapes, and any bytes."""

    name = "graph"
    inputs = 800
    allowed = (BuildError, EngineFileError, BackendUnavailable, InferenceError)
    memory = 6 << 30
    seconds = 30.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._models = [onnx.load(path) for path in (material.GRAPH, material.DYNAMIC_GRAPH)]
        self._raw = material.GRAPH.read_bytes()

    def make(self, rng: Random) -> tuple[bytes, str]:
        kind = rng.random()
        if kind < 0.2:
            return changed_bytes(self._raw, rng), ".onnx"
        model = onnx.ModelProto()
        model.CopyFrom(rng.choice(self._models))
        if kind < 0.65:
            for entry in model.metadata_props:
                if entry.key == _METADATA:
                    entry.value = json.dumps(changed_tree(json.loads(entry.value), rng))
        elif kind < 0.9:
            node = rng.choice([node for node in model.graph.node if node.attribute])
            _change_attribute(rng.choice(node.attribute), rng)
        else:
            _change_shapes(model, rng)
        return model.SerializeToString(), ".onnx"

    def run(self, path: Path) -> None:
        more = ("--min-people", 1, "-o", self.folder / "made.calib.json")
        run_verb("calibrate", path, material.PICTURES, "--count", 2, "--no-resume", "--force", *more)
        engine = build_engine(path, "openvino", "fp32")
        write_engine_file(self.folder / "built.engine", engine)
        load_and_infer(self.folder / "built.engine")


def _change_attribute(attribute: onnx.AttributeProto, rng: Random) -> None:
    small = [value for value in INTEGERS if -(2**63) <= value < 2**63]
    current = onnx.helper.get_attribute_value(attribute)
    if isinstance(current, int):
        value: Any = rng.choice([*small, current * 2, current + 1, -current])
    elif isinstance(current, float):
        value = rng.choice([0.0, -1.0, 1e38, math.nan, math.inf, current * 1000])
    elif isinstance(current, bytes):
        value = rng.choice([b"", b"NCHW", b"NHWC", b"x", b"\xff"])
    else:
        item: Any = rng.choice(small) if current and isinstance(current[0], int) else rng.choice([math.nan, 1e38, -1.0])
        value = rng.choice([list(current) * 2, list(current)[:-1], [item] * len(current), [*list(current)[:-1], item]])
    if value or not isinstance(value, list):
        attribute.CopyFrom(onnx.helper.make_attribute(attribute.name, value))


def _change_shapes(model: onnx.ModelProto, rng: Random) -> None:
    kind = rng.random()
    if kind < 0.15:
        model.graph.ClearField("node")
    elif kind < 0.4:
        del model.graph.node[rng.randrange(len(model.graph.node))]
    elif kind < 0.6:
        node = rng.choice(model.graph.node)
        node.input[rng.randrange(len(node.input))] = rng.choice([value for n in model.graph.node for value in n.output])
    else:
        dimensions = model.graph.input[0].type.tensor_type.shape.dim
        dimensions[rng.randrange(len(dimensions))].dim_value = rng.choice(
            [0, -1, 1, 7, 31, 33, 64, 10**9, 2**31, 2**62]
        )


class CalibrationState(Target):
    """The file from which an interrupted calibration goes on: where it cannot be used, it begins again."""

    name = "calibration-state"
    inputs = 200
    memory = 6 << 30
    seconds = 30.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._output = folder / "state.calib.json"
        partial = Path(f"{self._output}.partial")
        # Too few people end it, and its state stays for a run with more pictures or another limit.
        self._calibrate(10**6)
        self._seed = partial.read_bytes()

    def _calibrate(self, least_people: int) -> None:
        words = ("--min-people", least_people, "--force", "-o", self._output)
        run_verb("calibrate", material.GRAPH, material.PICTURES, *words)

    def make(self, rng: Random) -> tuple[bytes, str]:
        if rng.random() < 0.5:
            return changed_bytes(self._seed, rng), ".partial"
        return changed_archive(self._seed, rng), ".partial"

    def run(self, path: Path) -> None:
        shutil.copyfile(path, f"{self._output}.partial")
        self._calibrate(1)
        CalibrationTable.load(self._output)
