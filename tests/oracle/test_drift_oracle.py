"""The demo checkpoint as a dynamic FP32 engine against what the real detectron2 gave for 300 pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from densepose_engine import Engine
from densepose_engine.cli import main

# Figures of the oracle's README.
EXPECTED_AP = {"box": 53.49, "gps": 14.2, "gpsm": 19.68}


def score(shared: Path, *arguments: object) -> dict:
    command = [sys.executable, shared / "eval/score.py", *arguments]
    return json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)


@pytest.fixture(scope="module")
def predictions(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift")
    graph, engine, out = folder / "demo.onnx", folder / "demo.engine", folder / "predictions"
    demo = shared / "oracle/demo"
    export = ["export", "--config", demo / "demo.yaml", "--weights", demo / "demo.pth", "--dynamic", "-o", graph]
    assert main([str(a) for a in export]) == 0
    assert main(["build", str(graph), "--precision", "fp32", "-o", str(engine)]) == 0
    out.mkdir()
    with Engine.load(engine, cache_dir=None) as loaded:
        for picture in sorted((shared / "data/val").glob("*.jpg")):
            loaded.infer(picture, score_threshold=0.3, max_people=20).save(out / f"{picture.stem}.npz")
    return out


def test_drift_from_detectron2(shared: Path, predictions: Path) -> None:
    drift = score(shared, "--drift", shared / "oracle/demo/predictions", predictions)
    print(drift)
    assert drift["matched"] > 800
    assert drift["part_agreement"] >= 0.999
    assert drift["box_iou"] >= 0.999
    assert drift["uv_error"] <= 0.001
    assert drift["only_reference"] + drift["only_other"] <= 2


def test_accuracy_is_detectron2s(shared: Path, predictions: Path) -> None:
    ours = score(shared, shared / "data/val", predictions)
    print(ours)
    for name, expected in EXPECTED_AP.items():
        assert abs(ours[name]["AP"] - expected) <= 0.1, name
