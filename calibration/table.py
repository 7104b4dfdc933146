"""The calibration table: a JSON file with what every watched tensor looked like, and where that comes from.

The table belongs to one graph: its ``graph_sha256`` is the SHA-256 of the ONNX file's bytes, what ``sha256sum`` prints.
Any change of the file, metadata included, makes it another graph, because the metadata holds what calibration ran with
(the mean, sizes and thresholds). Exporting the same checkpoint with the same version gives the same bytes again.

A table may come from anywhere, so every field is checked before it is used, and nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CalibrationError
from ..output_files import atomic_output
from .histogram import BINS, TensorStatistics

__all__ = ["CalibrationTable", "ImageProvenance", "LayerStatistics", "TensorStatistics", "graph_digest"]

FORMAT = "densepose-engine calibration"
FORMAT_VERSION = 1
# A real table of 150 tensors has 1.5 MB, and the largest network has some hundreds of tensors.
_SIZE_LIMIT = 64 << 20
_MOST_ENTRIES = 10_000
_MOST_CHANNELS = 1 << 20
_MOST_TEXT = 1024
_MOST_COUNT = 1 << 62  # sums of counts are int64
_MOST_NUMBER = 1e39  # float32 ends at 3.4e38, and the bins reach a little further
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def graph_digest(model_bytes: bytes) -> str:
    """What a table says to belong to: the SHA-256 of the ONNX file's bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(model_bytes).hexdigest()


@dataclass(frozen=True)
class ImageProvenance:
    """Which pictures a table comes from.

    ``count``: pictures that were read; ``skipped``: names of those that could not be; ``sha256``: of the sorted SHA-256
    of the files that were read; ``seed``: of the choice; ``names``: files without folders, in the order of their use.
    """

    count: int
    skipped: tuple[str, ...]
    sha256: str
    seed: int
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """``input_mean``: float64 ``[C_in]``, a convolution's mean input by channel over batch and space (the zeros of its
    own padding not counted), a matrix product's by feature."""

    input_mean: np.ndarray


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """What ``calibrate`` found.

    ``method``: how the statistics were made; ``package_version``: by which version; ``input_size``: (height, width) of
    a static graph's input, None for a dynamic one; ``people``, ``proposals``: how many the heads have seen;
    ``tensors``, ``layers``: by the names that tensors and nodes have in the graph.
    """

    graph_sha256: str
    images: ImageProvenance
    method: str
    package_version: str
    input_size: tuple[int, int] | None
    people: int
    proposals: int
    tensors: dict[str, TensorStatistics]
    layers: dict[str, LayerStatistics]

    def check_graph(self, model_bytes: bytes) -> None:
        """Raise ``CalibrationError`` unless this table was made with the graph whose ONNX file has these bytes."""
        digest = graph_digest(model_bytes)
        if digest != self.graph_sha256:
            raise CalibrationError(
                f"this calibration table belongs to another graph: it was made with the one of SHA-256 "
                f"{self.graph_sha256}, this one has {digest}; run 'densepose-engine calibrate' with this graph"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON, a line per tensor; whole or not at all. Raises ``OutputError``."""
        with atomic_output(Path(path)) as temporary:
            temporary.write_text(self._json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CalibrationTable:
        """Read a table.

        Raises:
            FileNotFoundError: there is no such file.
            CalibrationError: it is no calibration table, of another format version, truncated or damaged.
        """
        path = Path(path)
        if path.is_dir():
            raise CalibrationError(f"{path} is a folder, not a calibration table")
        with path.open("rb") as stream:
            raw = stream.read(_SIZE_LIMIT + 1)
        if len(raw) > _SIZE_LIMIT:
            raise CalibrationError(f"{path} is larger than a calibration table can be ({_SIZE_LIMIT >> 20} MiB)")
        try:
            data = json.loads(raw, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(
                f"{path} is no calibration table, or truncated: it is not JSON ({error}); make one with "
                "'densepose-engine calibrate'"
            ) from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise CalibrationError(
                f"{path} is JSON, but no calibration table; make one with 'densepose-engine calibrate'"
            )
        if data.get("format_version") != FORMAT_VERSION:
            raise CalibrationError(
                f"{path} has calibration format version {data.get('format_version')!r}, this package reads "
                f"{FORMAT_VERSION}; calibrate again with this version of densepose-engine"
            )
        try:
            return _read_table(_Fields(data, ""))
        except ValueError as error:
            raise CalibrationError(f"{path} is damaged: {error}; calibrate again") from error

    def _json(self) -> str:
        head = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "package_version": self.package_version,
            "method": self.method,
            "graph_sha256": self.graph_sha256,
            "input_size": self.input_size,
            "people": self.people,
            "proposals": self.proposals,
            "images": asdict(self.images),
        }
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        tensors = {name: {**vars(one), "counts": one.counts.tolist()} for name, one in self.tensors.items()}
        layers = {name: {"input_mean": one.input_mean.tolist()} for name, one in self.layers.items()}
        for key, entries in (("tensors", tensors), ("layers", layers)):
            inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        return "{\n" + ",\n".join(lines) + "\n}\n"


# ---- reading with distrust: every failure is a ValueError that names the field ---------------------------------------


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


class _Fields:
    """The entries of a JSON object, each with the type that it must have."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"{where} is not an object")
        self._data: Mapping[str, Any] = data
        self._where = where

    def __getitem__(self, key: str) -> Any:
        if key not in self._data:
            raise ValueError(f"{self._name(key)} is missing")
        return self._data[key]

    def _name(self, key: str) -> str:
        return f"{self._where}: {key}" if self._where else key

    def integer(self, key: str, most: int = _MOST_COUNT) -> int:
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ValueError(f"{self._name(key)} is not an integer from 0 to {most}")
        return value

    def number(self, key: str) -> float:
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _MOST_NUMBER:
            raise ValueError(f"{self._name(key)} is not a finite number")
        return float(value)

    def text(self, key: str) -> str:
        return _text(self[key], self._name(key))

    def sha256(self, key: str) -> str:
        value = self[key]
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise ValueError(f"{self._name(key)} is not a SHA-256")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self[key]
        if not isinstance(value, list):
            raise ValueError(f"{self._name(key)} is not a list")
        return tuple(_text(one, self._name(key)) for one in value)

    def entries(self, key: str) -> dict[str, _Fields]:
        value = self[key]
        if not isinstance(value, dict) or not 0 < len(value) <= _MOST_ENTRIES:
            raise ValueError(f"{self._name(key)} is not an object of 1 to {_MOST_ENTRIES} entries")
        return {_text(name, key): _Fields(entry, f"{key} {name}") for name, entry in value.items()}

    def array(self, key: str, kind: type, least: int, most: int) -> np.ndarray:
        value = self[key]
        numbers = isinstance(value, list) and all(type(one) in (kind, int) for one in value)
        if not numbers or not least <= len(value) <= most:
            raise ValueError(f"{self._name(key)} is not a list of {least} to {most} numbers")
        try:
            array = np.array(value, np.int64 if kind is int else np.float64)
        except OverflowError:
            array = np.array([np.inf])
        if not np.isfinite(array).all():  # JSON's 1e999 is one way to get there
            raise ValueError(f"{self._name(key)} has a number that is too large")
        return array


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_TEXT:
        raise ValueError(f"{where} is not a text of 1 to {_MOST_TEXT} characters")
    return value


def _read_table(fields: _Fields) -> CalibrationTable:
    size = fields["input_size"]
    if size is not None and not (
        isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side <= 1 << 20 for side in size)
    ):
        raise ValueError("input_size is neither null nor a height and a width")
    return CalibrationTable(
        graph_sha256=fields.sha256("graph_sha256"),
        images=_read_images(_Fields(fields["images"], "images")),
        method=fields.text("method"),
        package_version=fields.text("package_version"),
        input_size=None if size is None else (size[0], size[1]),
        people=fields.integer("people"),
        proposals=fields.integer("proposals"),
        tensors={name: _read_tensor(entry, name) for name, entry in fields.entries("tensors").items()},
        layers={
            name: LayerStatistics(entry.array("input_mean", float, 1, _MOST_CHANNELS))
            for name, entry in fields.entries("layers").items()
        },
    )


def _read_images(fields: _Fields) -> ImageProvenance:
    images = ImageProvenance(
        count=fields.integer("count"),
        skipped=fields.texts("skipped"),
        sha256=fields.sha256("sha256"),
        seed=fields.integer("seed"),
        names=fields.texts("names"),
    )
    if len(images.names) != images.count:
        raise ValueError(f"images: {images.count} pictures, but {len(images.names)} names")
    return images


def _read_tensor(fields: _Fields, name: str) -> TensorStatistics:
    try:
        one = TensorStatistics.make(
            fields.number("minimum"),
            fields.number("maximum"),
            fields.integer("count"),
            fields.integer("zeros"),
            fields.array("counts", int, BINS, BINS),
        )
    except ValueError as error:
        raise ValueError(f"tensors {name}: {error}") from error
    if (one.low, one.high) != (fields.number("low"), fields.number("high")):
        raise ValueError(f"tensors {name}: low and high are not the bins of minimum and maximum")
    return one
