"""Everything behind the graph works where torch, and what only exporting needs, is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_detector import serialize, small_detector

BLOCK = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from densepose_engine.cli import main
sys.exit(main(sys.argv[1:]))
"""
ONLY_EXPORT = ("torch", "torchvision", "onnxscript", "yaml")


def run(*arguments: object, missing: tuple[str, ...] = ONLY_EXPORT) -> subprocess.CompletedProcess[str]:
    code = BLOCK.format(missing=missing)
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    path.write_bytes(serialize(small_detector()))
    rng = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(rng.integers(90, 256, (60, 90, 3), np.uint8)).save(path.with_name(f"{index}.png"))
    return path


def test_calibrating_and_building(graph: Path, tmp_path: Path) -> None:
    table, engine = tmp_path / "small.json", tmp_path / "small.engine"
    done = run("calibrate", graph, graph.parent, "--min-people", 1, "-o", table)
    assert done.returncode == 0, done.stderr
    done = run("build", graph, "-o", engine)
    assert done.returncode == 0 and engine.is_file(), done.stderr
    done = run("build", graph, "-o", tmp_path / "int8.engine", "--precision", "int8", "--calib", table)
    assert done.returncode == 0, done.stderr
    # TensorRT itself is not here, but what it is given is made.
    done = run("build", graph, "-o", tmp_path / "qdq.onnx", "--target", "tensorrt", "--calib", table)
    assert done.returncode == 0, done.stderr
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from densepose_engine.backends.tensorrt.graph import prepare\n"
        f"from pathlib import Path; prepare(Path({str(graph)!r}).read_bytes(), 'fp16', 3)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("verb", ["build", "calibrate"])
@pytest.mark.parametrize("module", ["onnx", "onnx_ir"])
def test_what_is_missing_is_named_with_the_command(graph: Path, tmp_path: Path, verb: str, module: str) -> None:
    pictures = [graph.parent] if verb == "calibrate" else []
    done = run(verb, graph, *pictures, "-o", tmp_path / "out", missing=(module,))
    assert done.returncode == 4
    (error,) = [line for line in done.stderr.splitlines() if "left out" not in line]
    assert "pip install 'densepose-engine[build]'" in error
