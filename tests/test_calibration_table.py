"""The calibration table: what is saved is what is loaded, and nothing in a file is believed."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_detector import serialize, small_detector

from densepose_engine.calibration import table as tables
from densepose_engine.calibration.histogram import Histogram
from densepose_engine.calibration.table import CalibrationTable, ImageProvenance, LayerStatistics, graph_digest
from densepose_engine.errors import CalibrationError
from densepose_engine.files.output_files import OutputError


@pytest.fixture
def table() -> CalibrationTable:
    rng = np.random.default_rng(0)
    tensors = {}
    for name, values in {
        "image": rng.normal(0, 100, 5000),
        "backbone/act1.Clip:0": np.clip(rng.normal(0, 5, 5000), 0, 6),
        'odd "name"\n\u00e9\udcff': rng.normal(0, 1e-9, 50),
        "zeros": np.zeros(7),
    }.items():
        histogram = Histogram(name)
        histogram.update(values.astype(np.float32))
        tensors[name] = histogram.statistics()
    return CalibrationTable(
        graph_sha256="0123456789abcdef" * 4,
        images=ImageProvenance(2, ("broken.jpg",), "f" * 64, 7, ("a.jpg", "b \udcff.jpg")),
        method="post-training",
        package_version="0.1.0",
        input_size=(320, 448),
        people=12,
        proposals=2000,
        tensors=tensors,
        layers={
            "backbone/conv": LayerStatistics(rng.normal(size=8)),
            "box/fc": LayerStatistics(np.array([0.0, -1, 1e-300])),
        },
    )


def test_a_round_trip_keeps_every_bit(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "x.calib.json"
    table.save(path)
    loaded = CalibrationTable.load(path)
    for field in ("graph_sha256", "images", "method", "package_version", "input_size", "people", "proposals"):
        assert getattr(loaded, field) == getattr(table, field), field
    assert list(loaded.tensors) == list(table.tensors) and list(loaded.layers) == list(table.layers)
    for name, one in table.tensors.items():
        other = loaded.tensors[name]
        assert other.counts.dtype == np.int64
        np.testing.assert_array_equal(other.counts, one.counts)
        assert {**vars(other), "counts": None} == {**vars(one), "counts": None}
    for name, layer in table.layers.items():
        np.testing.assert_array_equal(loaded.layers[name].input_mean, layer.input_mean)
    again = tmp_path / "again.json"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again.json", "x.calib.json"]


def test_a_dynamic_graph_has_no_input_size(table: CalibrationTable, tmp_path: Path) -> None:
    CalibrationTable(**{**vars(table), "input_size": None}).save(tmp_path / "x")
    assert CalibrationTable.load(tmp_path / "x").input_size is None


def test_a_table_of_another_graph_names_both(table: CalibrationTable) -> None:
    one, other = serialize(small_detector()), serialize(small_detector(stem_scale=2))
    mine = CalibrationTable(**{**vars(table), "graph_sha256": graph_digest(one)})
    mine.check_graph(one)
    with pytest.raises(CalibrationError, match=f"{graph_digest(one)}.*{graph_digest(other)}"):
        mine.check_graph(other)


def test_a_failed_save_leaves_what_was_there(
    table: CalibrationTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    path.write_text("before")

    def full(self: Path, *_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left"):
        table.save(path)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_what_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(FileNotFoundError):
        CalibrationTable.load(path)
    with pytest.raises(CalibrationError, match="is a folder"):
        CalibrationTable.load(tmp_path)
    for content in (b"", b"PK\x03\x04", b'{"format": ', b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b'{"a": NaN}'):
        path.write_bytes(content)
        with pytest.raises(CalibrationError, match="not JSON"):
            CalibrationTable.load(path)
    for content in (b"[]", b"3", b'{"format": "other"}'):
        path.write_bytes(content)
        with pytest.raises(CalibrationError, match="no calibration table"):
            CalibrationTable.load(path)
    path.write_text(json.dumps({"format": tables.FORMAT, "format_version": 99}))
    with pytest.raises(CalibrationError, match="version 99"):
        CalibrationTable.load(path)
    monkeypatch.setattr(tables, "_SIZE_LIMIT", 10)
    with pytest.raises(CalibrationError, match="at most 10 are read"):
        CalibrationTable.load(path)


def test_what_is_no_file_and_what_is_made_of_brackets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", Path("/dev/zero")):
        with pytest.raises(CalibrationError, match="no regular file"):
            CalibrationTable.load(path)
    path = tmp_path / "x.json"
    path.write_bytes(b"[" + b"[]," * 3_000_000 + b"[]]")  # 9 MB, and 200 MB as Python's lists
    tracemalloc.start()
    with pytest.raises(CalibrationError, match="more than 200000 lists"):
        CalibrationTable.load(path)
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()


Data = dict[str, Any]
DAMAGES: dict[str, tuple[Callable[[Data], object], str]] = {
    "missing": (lambda d: d.pop("graph_sha256"), "graph_sha256 is missing"),
    "hash": (lambda d: d.update(graph_sha256="F" * 64), "graph_sha256 is .*a SHA-256"),
    "size": (lambda d: d.update(input_size=[320]), "input_size"),
    "negative size": (lambda d: d.update(input_size=[320, -1]), "input_size"),
    "bool": (lambda d: d.update(people=True), "people is True, it must be an integer"),
    "negative": (lambda d: d.update(proposals=-1), "proposals is -1, it must be an integer"),
    "text": (lambda d: d.update(method=3), "method is 3, it must be a text"),
    "long text": (lambda d: d.update(method="x" * 5000), "method is .* it must be a text"),
    "images": (lambda d: d.update(images=[]), r"images is \[\], it must be an object"),
    "names": (lambda d: d["images"]["names"].pop(), "2 pictures, but 1 names"),
    "names' type": (lambda d: d["images"].update(skipped="x"), "images.skipped is .* it must be a list"),
    "no tensors": (lambda d: d.update(tensors={}), "tensors is .* it must be an object"),
    "tensor": (lambda d: d["tensors"].update(image=3), "tensors.image is 3, it must be an object"),
    "few counts": (lambda d: d["tensors"]["image"]["counts"].pop(), "counts is .* it must be a list of 2048"),
    "float count": (
        lambda d: d["tensors"]["image"]["counts"].__setitem__(3, 0.5),
        "counts holds something else",
    ),
    "bool count": (
        lambda d: d["tensors"]["image"]["counts"].__setitem__(3, True),
        "counts holds something else",
    ),
    "huge count": (lambda d: d["tensors"]["image"]["counts"].__setitem__(3, 10**30), "counts holds 1000000"),
    "negative count": (lambda d: d["tensors"]["zeros"]["counts"].__setitem__(slice(2), [8, -1]), "counts holds -1"),
    "sum": (lambda d: d["tensors"]["image"]["counts"].__setitem__(900, 10**6), "do not add up"),
    "shifted": (
        lambda d: d["tensors"]["image"]["counts"].insert(0, d["tensors"]["image"]["counts"].pop()),
        "occupied bins",
    ),
    "low": (lambda d: d["tensors"]["image"].update(low=-1.0), "not the bins"),
    "infinite": (lambda d: d["tensors"]["image"].update(maximum=1e999), "tensors.image.maximum is inf"),
    "extremes": (lambda d: d["tensors"]["image"].update(minimum=1e5), "minimum is above"),
    "no values": (lambda d: d["tensors"]["image"].update(count=0), "no values"),
    "zeros": (lambda d: d["tensors"]["image"].update(zeros=4000), "zeros"),
    "mean": (lambda d: d["layers"]["box/fc"].update(input_mean=[]), "input_mean is .* it must be a list"),
    "infinite mean": (lambda d: d["layers"]["box/fc"].update(input_mean=[1e999]), "input_mean holds inf"),
    "null mean": (
        lambda d: d["layers"]["box/fc"].update(input_mean=[None]),
        "input_mean holds something else",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_field_is_checked(table: CalibrationTable, tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.json"
    table.save(path)
    data = json.loads(path.read_text())
    change, message = DAMAGES[name]
    change(data)
    path.write_text(json.dumps(data).replace("Infinity", "1e999"))
    with pytest.raises(CalibrationError, match=rf"x\.json is damaged: .*{message}.*; calibrate again"):
        CalibrationTable.load(path)


def test_any_truncation_is_noticed(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    table.save(path)
    content = path.read_bytes()
    for length in range(0, len(content) - 2, len(content) // 40):
        path.write_bytes(content[:length])
        with pytest.raises(CalibrationError):
            CalibrationTable.load(path)
