"""Ring (c): engines on a GPU, against OpenVINO FP32. (``make test-gpu`` judges the kernels by the ops' own tests.)"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from densepose_engine import Engine
from densepose_engine.backends import tensorrt
from densepose_engine.backends.tensorrt.session import Gpu
from densepose_engine.cli import main
from densepose_engine.errors import BackendUnavailable

PICTURE = Path(__file__).resolve().parents[2] / "models" / "person.jpg"


@pytest.fixture(scope="module", autouse=True)
def gpu() -> str:
    """The compute capability of this machine's GPU."""
    try:
        tensorrt.TENSORRT.versions()
        return Gpu.open(0).compute_capability
    except BackendUnavailable as error:
        pytest.skip(f"ring (c): {error}")


@pytest.mark.parametrize("people", [None, 4])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_person_as_openvino_sees_it(
    demo_onnx: Path, demo_engine: Path, tmp_path: Path, precision: str, people: int | None
) -> None:
    output = tmp_path / "tensorrt.engine"
    fixed = [] if people is None else ["--max-people", str(people)]
    command = ["build", os.fspath(demo_onnx), "--backend", "tensorrt", "--precision", precision, *fixed]
    assert main([*command, "-o", str(output), "--quiet"]) == 0
    with Engine.load(demo_engine) as reference, Engine.load(output) as engine:
        expected = reference.infer(PICTURE)
        for _ in range(3):  # the first run, the one that is captured, and the graph
            actual = engine.infer(PICTURE)
            assert len(actual.boxes) == len(expected.boxes) > 0
            np.testing.assert_allclose(actual.boxes, expected.boxes, atol=0.05 if precision == "fp32" else 3)
            np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-3 if precision == "fp32" else 0.03)
            if precision == "fp32":
                for ours, theirs in zip(actual.labels, expected.labels, strict=True):
                    assert ours.shape != theirs.shape or np.mean(ours == theirs) > 0.99
