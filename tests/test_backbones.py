"""Every mobile backbone all the way to an INT8 engine: exported, calibrated on eight pictures, built, run, and linted.

Three that stand for the rest run with all tests; with DENSEPOSE_TEST_BACKBONES=all (``make test-backbones``) all do.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from stages import with_weights

from densepose_engine import Engine
from densepose_engine.build import Int8Options, build_engine
from densepose_engine.calibration.collect import collect
from densepose_engine.engine_file import write_engine_file
from densepose_engine.export.config import load_config
from densepose_engine.export.graph import export_graph
from densepose_engine.export.networks.mobile_architectures import MOBILE_ARCHITECTURES
from densepose_engine.layer_precision import FELL_BACK, int8_mac_share
from densepose_engine.pictures import find_pictures

ROOT = Path(__file__).resolve().parent.parent
YAML = ROOT / "tests/data/keys/mobile_parsing_rcnn_b_spnasnet_100.yaml"
REPRESENTATIVE = ("mixnet_s", "tf_mobilenetv3_small_075", "tf_efficientnet_cc_b0_4e")
NAMES = sorted(MOBILE_ARCHITECTURES) if os.environ.get("DENSEPOSE_TEST_BACKBONES") == "all" else REPRESENTATIVE
SIZE = (128, 160)


@pytest.fixture(scope="module", params=NAMES)
def calibrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """(name, graph, calibration table) of a Mobile-Parsing-RCNN-B with deterministic weights."""
    name = str(request.param)
    graph = tmp_path_factory.mktemp(name) / f"{name}.onnx"
    config = load_config(YAML, ["MODEL.TIMMNETS.NAME", name, "MODEL.TIMMNETS.PRETRAINED", "False"])
    exported = export_graph(with_weights(config), SIZE, {})
    ir.save(exported, graph)
    pictures = find_pictures([ROOT / "models/calibration"])[:8]
    table = graph.with_suffix(".calib.json")
    collect(graph, pictures, count=8, min_people=1).save(table)
    return name, graph, table


def test_int8_engine(calibrated: tuple[str, Path, Path]) -> None:
    name, graph, table = calibrated
    built = build_engine(graph, "openvino", "int8", int8=Int8Options(table, "minmax"))
    found = built.model["layers"]
    share = int8_mac_share(found)
    print(f"{name}: {share:.4f} of the MACs in INT8")
    assert not [layer["name"] for layer in found if layer.get("reason") == FELL_BACK and layer["macs"]]
    assert share
    path = graph.with_suffix(".engine")
    write_engine_file(path, built)
    with Engine.load(path) as engine:
        result = engine.infer(np.zeros((128, 160, 3), np.uint8))
    assert np.isfinite(result.boxes).all()
