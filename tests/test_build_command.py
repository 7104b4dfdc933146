"""``densepose-engine build`` for INT8 as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from densepose_engine.calibration.table import graph_digest
from densepose_engine.cli import BAD_INPUT, BAD_OUTPUT, OK, USAGE, main
from densepose_engine.compile.build import Int8Options, quantized_graph
from densepose_engine.model.engine_file import read_manifest


def test_the_qdq_graph_for_tensorrt(
    demo_onnx: Path, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "x.qdq.onnx"
    options = ["--target", "tensorrt", "--calib", str(demo_table), "--observer", "minmax", "-o", str(path)]
    assert main(["build", str(demo_onnx), *options]) == OK
    assert f"{path}: Q/DQ for tensorrt" in capsys.readouterr().out
    assert path.read_bytes() == quantized_graph(demo_onnx, "tensorrt", Int8Options(demo_table, "minmax"))
    description = json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["densepose_engine"])
    assert description["int8"]["target"] == "tensorrt" and description["int8"]["observer"] == "minmax"
    assert description["architecture"] == "efficientnet_lite0-bifpn64-deeplab"
    assert main(["build", str(demo_onnx), *options]) == BAD_OUTPUT
    assert "--force" in capsys.readouterr().err


def test_the_default_names(demo_onnx: Path, demo_table: Path, tmp_path: Path) -> None:
    graph = tmp_path / "g.onnx"
    graph.write_bytes(demo_onnx.read_bytes())
    options = ["--calib", str(demo_table), "--observer", "minmax", "-q"]
    assert main(["build", str(graph), "--target", "openvino", *options]) == OK
    assert main(["build", str(graph), "--precision", "int8", *options]) == OK
    assert {path.name for path in tmp_path.iterdir()} == {"g.onnx", "g.qdq.onnx", "g.engine"}
    assert read_manifest(tmp_path / "g.engine").precision == "int8"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "int8"], "--calib is what int8 needs"),
        (["--target", "tensorrt"], "--calib is what int8 needs"),
        (["--calib", "x.json"], "--precision int8 or --target"),
        (["--precision", "bf16", "--calib", "x.json"], "--precision int8 or --target"),
        (["--target", "tensorrt", "--precision", "fp32", "--calib", "x.json"], "which is int8, not fp32"),
        (["--target", "abacus", "--calib", "x.json"], "invalid choice: 'abacus'"),
    ],
)
def test_wrong_usage(options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tmp_path / "x.onnx"), *options]) == USAGE
    assert said in capsys.readouterr().err


def test_a_table_of_another_graph(
    demo_onnx: Path, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.onnx"
    model = onnx.load(demo_onnx)
    model.doc_string = "another one"
    onnx.save(model, other)
    for options in (["--precision", "int8"], ["--target", "tensorrt"]):
        assert main(["build", str(other), *options, "--calib", str(demo_table)]) == BAD_INPUT
        error = capsys.readouterr().err
        table = json.loads(demo_table.read_text())
        assert "belongs to another graph" in error
        assert table["graph_sha256"] in error and graph_digest(other.read_bytes()) in error
    missing = ["--precision", "int8", "--calib", str(tmp_path / "none.json"), "-o", str(tmp_path / "x.engine")]
    assert main(["build", str(demo_onnx), *missing]) == BAD_INPUT
    assert "none.json" in capsys.readouterr().err


def test_an_unknown_layer_is_named_with_the_nearest(
    demo_onnx: Path, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--precision", "int8", "--calib", str(demo_table), "--keep-float", "densepose/predictor/con"]
    assert main(["build", str(demo_onnx), *options, "--observer", "minmax", "-o", str(tmp_path / "x")]) == BAD_INPUT
    assert "called densepose/predictor/con; did you mean densepose/predictor/conv" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
