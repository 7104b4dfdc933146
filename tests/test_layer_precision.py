"""What runs in INT8 according to the compiled model, and that nobody leaves INT8 without being named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from engine_files import rewrite

from densepose_engine import cli
from densepose_engine.calibration.place.points import layers as layers_of
from densepose_engine.compile import build as building
from densepose_engine.compile.build import Int8Options, build_engine
from densepose_engine.compile.layer_precision import (
    COMPUTED_WEIGHTS,
    FELL_BACK,
    KEPT,
    explain,
    fell_back,
    float_layers,
    int8_mac_share,
)
from densepose_engine.model.compiled import Int8Description, Layer
from densepose_engine.model.engine_file import read_manifest


def layer(name: str, precision: str, macs: int) -> Layer:
    return Layer(name, "Convolution", precision, "k", macs)


# ---- the demo --------------------------------------------------------------------------------------------------------


def test_the_demo_runs_in_int8(demo_int8_engine: Path, demo_onnx: Path) -> None:
    layers = read_manifest(demo_int8_engine).model.layers
    assert fell_back(layers) == []
    assert int8_mac_share(layers) >= 0.97
    by_name = {one.name: one for one in layers}
    # Every layer of the graph is accounted for, the head's predictors among them.
    assert set(by_name) == {str(node.name) for node in layers_of(ir.load(demo_onnx))}
    assert all(one.macs > 0 for one in layers)
    assert by_name["densepose/predictor/conv"].precision == "int8"


def test_the_float_engine_has_no_int8(demo_engine: Path) -> None:
    layers = read_manifest(demo_engine).model.layers
    assert int8_mac_share(layers) == 0 and {one.precision for one in layers} == {"f32"}
    assert "reason" not in {key for one in layers for key in one.to_json()}


def test_macs_are_those_of_the_definition(demo_engine: Path) -> None:
    macs = {one.name: one.macs for one in read_manifest(demo_engine).model.layers}
    assert macs["backbone/conv_stem"] == 160 * 224 * 32 * 3 * 9
    assert macs["backbone/blocks.0.0.conv_dw"] == 160 * 224 * 32 * 9
    # Two people; 2x2 phases of 15 coarse and 3 x 25 fine channels, on the head's 16 x 16.
    assert macs["densepose/predictor/conv"] == 2 * 16 * 16 * 256 * 9 * 4 * (15 + 3 * 25)


def tampered(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Placement goes as ever, then the activation's pair is taken away from one layer."""
    place = building.quantize_graph

    def place_and_break(model: ir.Model, *arguments: Any) -> Int8Description:
        description = place(model, *arguments)
        node = next(node for node in model.graph if node.name == name)
        dequantize = node.inputs[0].producer()
        assert dequantize.op_type == "DequantizeLinear"
        node.replace_input_with(0, dequantize.inputs[0].producer().inputs[0])
        return description

    monkeypatch.setattr(building, "quantize_graph", place_and_break)


def test_a_silent_fallback_is_seen(
    demo_onnx: Path,
    demo_table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, kept = "densepose/predictor/conv", "backbone/conv_stem"
    tampered(monkeypatch, name)
    path = tmp_path / "x.engine"
    options = ["--precision", "int8", "--calib", str(demo_table), "--observer", "minmax", "--keep-float", kept]
    assert cli.main(["build", str(demo_onnx), *options, "-o", str(path)]) == cli.OK
    output = capsys.readouterr()
    assert f"warning: {name}" in output.err and "fell back" in output.err
    layers = read_manifest(path).model.layers
    assert [one.name for one in fell_back(layers)] == [name]
    assert {one.name: one.reason for one in float_layers(layers)} == {name: FELL_BACK, kept: KEPT}
    assert int8_mac_share(layers) < 0.97

    assert cli.main(["inspect", str(path)]) == cli.OK
    lines = capsys.readouterr().out.splitlines()
    share = 100 * next(one.macs for one in layers if one.name == name) / sum(one.macs for one in layers)
    line = next(line for line in lines if line.strip().startswith(name))
    assert f"{share:.2f}%" in line and "f32" in line and "fell back" in line
    assert "kept in float by --keep-float" in next(line for line in lines if line.strip().startswith(kept))
    assert any("1 of them should run in INT8 and do not" in line for line in lines)
    assert cli.main(["inspect", str(path), "--json"]) == cli.OK
    content = json.loads(capsys.readouterr().out)
    assert content["int8_mac_share"] == int8_mac_share(layers)
    assert content["model"]["layers"] == [one.to_json() for one in layers]


# ---- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_prints_every_layer(demo_int8_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(demo_int8_engine)]) == cli.OK
    text = capsys.readouterr().out
    model = read_manifest(demo_int8_engine).model
    assert f"100.0% of {sum(one.macs for one in model.layers) / 1e9:.2f} GMAC run in INT8" in text
    for one in model.layers:
        line = next(line for line in text.splitlines() if line.split()[:1] == [one.name])
        assert line.split()[1] == one.precision and one.kernel in line
    for stage in ("backbone", "neck", "rpn", "box", "densepose"):
        assert any(line.split()[:1] == [stage] for line in text.splitlines())
    assert "observer minmax" in text and "a picture of 320x448, 1000 proposals and 2 people" in text


@pytest.mark.parametrize(
    "layers", ["none", [1], [{"name": "a"}], [layer("a", "int8", -1).to_json()], [layer("a", "int8", True).to_json()]]
)
def test_inspect_refuses_layers_that_are_none(
    layers: Any, demo_onnx: Path, demo_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewrite(demo_engine, tmp_path / "odd.engine", lambda manifest: manifest["model"].update(layers=layers))
    for options in ([], ["--json"]):
        assert cli.main(["inspect", str(path), *options]) == cli.BAD_INPUT
        assert "model.layers" in capsys.readouterr().err


# ---- reasons ---------------------------------------------------------------------------------------------------------


def test_every_float_layer_has_a_reason() -> None:
    layers = [layer("a", "int8", 10), layer("b", "f32", 5), layer("c", "f32", 20), layer("d", "unknown", 1)]
    explained = explain(layers, placed=["a", "c", "d", "gone"], kept=["k"])
    assert [one.reason for one in explained] == [None, COMPUTED_WEIGHTS, FELL_BACK, FELL_BACK, FELL_BACK]
    assert explained[-1].name == "gone" and explained[-1].precision == "unknown"
    assert [one.name for one in float_layers(explained)] == ["c", "b", "d", "gone"]
    assert [one.name for one in fell_back(explained)] == ["c", "d", "gone"]
    assert int8_mac_share(explained) == 10 / 36
    assert int8_mac_share([]) == 0


def test_a_layer_that_was_kept_float_is_no_fallback(demo_onnx: Path, demo_table: Path) -> None:
    kept = ["backbone/conv_stem", "densepose/predictor/conv"]
    engine = build_engine(demo_onnx, "openvino", "int8", Int8Options(demo_table, "minmax", False, kept))
    layers = engine.model.layers
    assert layers is not None and engine.model.int8 is not None
    assert fell_back(layers) == []
    assert {one.name: one.reason for one in float_layers(layers)} == dict.fromkeys(kept, KEPT)
    assert engine.model.int8.keep_float == tuple(kept) and engine.model.int8.adapted_weights is False
