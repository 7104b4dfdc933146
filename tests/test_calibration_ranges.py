"""Tables that are well formed and do not fit the graph: a sentence that names the layer or the tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_detector import serialize, small_detector

from densepose_engine import CalibrationError
from densepose_engine.calibration.collect.activations import collect
from densepose_engine.compile.build import Int8Options, quantized_graph
from densepose_engine.pictures.find import find_pictures


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(90, 256, (60, 90, 3), np.uint8)).save(folder / "a.png")
    (folder / "g.onnx").write_bytes(serialize(small_detector()))
    collect(folder / "g.onnx", find_pictures([folder]), min_people=1).save(folder / "g.json")
    return folder / "g.onnx"


def quantize(graph: Path, table: Path, **options: Any) -> bytes:
    return quantized_graph(graph, "openvino", Int8Options(table, "minmax", **options))


CHANGES: dict[str, tuple[Callable[[Any, str], object], str]] = {
    "no layer": (lambda d, name: d["layers"].pop(name), "lacks the layer"),
    "no tensor": (lambda d, name: d["tensors"].pop("level"), "(lacks the tensor|no range for) level"),
    "too few means": (lambda d, name: d["layers"][name]["input_mean"].pop(), "reads 6 channels"),
    "one mean too many": (lambda d, name: d["layers"][name]["input_mean"].append(1.0), "reads 6 channels"),
    "absurd means": (lambda d, name: d["layers"][name].update(input_mean=[1e30] * 6), "means from 1e.30"),
    "negative means of what is never negative": (
        lambda d, name: d["layers"][name]["input_mean"].__setitem__(0, -1000.0),
        "means from -1000",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_table_that_does_not_fit(graph: Path, tmp_path: Path, name: str) -> None:
    content = json.loads(graph.with_suffix(".json").read_text())
    layer = next(key for key, one in content["layers"].items() if len(one["input_mean"]) == 6)
    change, message = CHANGES[name]
    change(content, layer)
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=message):
        quantize(graph, path)


def test_without_adapted_weights_means_are_not_asked_for(graph: Path, tmp_path: Path) -> None:
    content = json.loads(graph.with_suffix(".json").read_text())
    content["layers"] = {"another": {"input_mean": [1.0]}}
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    assert quantize(graph, path, adapt_weights=False)


def test_the_table_itself_fits(graph: Path) -> None:
    assert quantize(graph, graph.with_suffix(".json"))
