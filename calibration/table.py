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
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import CalibrationError
from ..files.fields import FieldError, Fields
from ..files.output_files import atomic_output
from ..files.reading import NotRegularError, TooLargeError, parse_json, read_regular
from .histogram import BINS, TensorStatistics

__all__ = ["CalibrationTable", "ImageProvenance", "LayerStatistics", "TensorStatistics", "graph_digest"]

FORMAT = "densepose-engine calibration"
FORMAT_VERSION = 1
# A real table of 150 tensors has 1.5 MB, and the largest network has some hundreds of tensors. In memory its numbers
# take up to twelve times as much.
_SIZE_LIMIT = 32 << 20
_MOST_ENTRIES = 10_000
_MOST_CHANNELS = 1 << 20
_MOST_COUNT = 1 << 62  # sums of counts are int64
_MOST_NUMBER = 1e39  # float32 ends at 3.4e38, and the bins reach a little further


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
        try:
            raw = read_regular(path, _SIZE_LIMIT)
        except IsADirectoryError:
            raise CalibrationError(f"{path} is a folder, not a calibration table") from None
        except NotRegularError as error:
            raise CalibrationError(f"{error}; a calibration table is a file") from None
        except TooLargeError as error:
            raise CalibrationError(f"{path} is no calibration table: it {error}") from None
        try:
            data = parse_json(raw)
        except ValueError as error:
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
                f"{path} has calibration format version {data.get('format_version')!r:.80}, this package reads "
                f"{FORMAT_VERSION}; calibrate again with this version of densepose-engine"
            )
        try:
            return _read_table(Fields(data))
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


def _read_table(fields: Fields) -> CalibrationTable:
    size = None if fields.raw("input_size") is None else fields.integers("input_size", 2, 1, 1 << 20)
    tensors, layers = fields.sections("tensors", _MOST_ENTRIES), fields.sections("layers", _MOST_ENTRIES)
    for key, entries in (("tensors", tensors), ("layers", layers)):
        if not entries:
            raise fields.refuse(key, "an object of at least one entry")
    return CalibrationTable(
        graph_sha256=fields.sha256("graph_sha256"),
        images=_read_images(fields.section("images")),
        method=fields.text("method"),
        package_version=fields.text("package_version"),
        input_size=None if size is None else (size[0], size[1]),
        people=fields.integer("people", 0, _MOST_COUNT),
        proposals=fields.integer("proposals", 0, _MOST_COUNT),
        tensors={name: _read_tensor(entry, name) for name, entry in tensors.items()},
        layers={
            name: LayerStatistics(
                entry.array("input_mean", np.float64, (1, _MOST_CHANNELS), -_MOST_NUMBER, _MOST_NUMBER)
            )
            for name, entry in layers.items()
        },
    )


def _read_images(fields: Fields) -> ImageProvenance:
    images = ImageProvenance(
        count=fields.integer("count", 0, _MOST_COUNT),
        skipped=fields.texts("skipped", most=1 << 20),
        sha256=fields.sha256("sha256"),
        seed=fields.integer("seed", 0, _MOST_COUNT),
        names=fields.texts("names", most=1 << 20),
    )
    if len(images.names) != images.count:
        raise FieldError(f"images: {images.count} pictures, but {len(images.names)} names")
    return images


def _read_tensor(fields: Fields, name: str) -> TensorStatistics:
    low, high, minimum, maximum = (
        fields.number(key, -_MOST_NUMBER, _MOST_NUMBER) for key in ("low", "high", "minimum", "maximum")
    )
    count, zeros = (fields.integer(key, 0, _MOST_COUNT) for key in ("count", "zeros"))
    counts = fields.array("counts", np.int64, (BINS, BINS), 0, _MOST_COUNT)
    try:
        one = TensorStatistics.make(minimum, maximum, count, zeros, counts)
    except ValueError as error:
        raise FieldError(f"tensors.{name}: {error}") from error
    if (one.low, one.high) != (low, high):
        raise FieldError(f"tensors.{name}: low and high are not the bins of minimum and maximum")
    return one
