"""Ring (b): whole engines, built by TensorRT-RTX for GPUs that are not here. Built, not executed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from densepose_engine import Engine
from densepose_engine.backends import tensorrt
from densepose_engine.backends.tensorrt.graph import prepare
from densepose_engine.cli import BAD_RUNTIME, main
from densepose_engine.compile.layer_precision import int8_mac_share
from densepose_engine.errors import EngineFileError
from densepose_engine.model.compiled import Layer
from densepose_engine.model.engine_file import read_engine_file


def layers_of(engine: Path) -> tuple[Layer, ...]:
    return read_engine_file(engine).model.layers or ()


@pytest.mark.parametrize("capability", ["8.6", "8.9", "12.0"])
def test_int8(trt: ModuleType, build_engine: Any, demo_onnx: Path, calibration: Path, capability: str) -> None:
    """At least 97% of all MACs run in INT8, by the builder's own account."""
    engine = build_engine(
        *(demo_onnx, "--precision", "int8", "--calib", str(calibration), "--nearest-weights"),
        *("--compute-capability", capability),
    )
    file = read_engine_file(engine)
    assert file.runtime["compute capability"] == capability
    assert file.runtime["tensorrt-rtx"] == trt.__version__
    assert set(file.payload) == {"model.plan"}
    layers = layers_of(engine)
    assert len(layers) > 50
    assert all(layer.macs > 0 for layer in layers)
    assert int8_mac_share(layers) >= 0.97
    # What is not INT8 is float16: an island that fell back to float32 would be slower than either.
    assert {layer.precision for layer in layers} <= {"int8", "f16"}


@pytest.mark.parametrize("people", [None, 8])
def test_int8_dynamic_sizes(
    trt: ModuleType, build_engine: Any, dynamic_onnx: Path, dynamic_calibration: Path, people: int | None
) -> None:
    arguments = ["--precision", "int8", "--calib", str(dynamic_calibration), "--nearest-weights"]
    arguments += ["--compute-capability", "8.6", *([] if people is None else ["--max-people", str(people)])]
    engine = build_engine(dynamic_onnx, *arguments)
    assert int8_mac_share(layers_of(engine)) >= 0.97
    capacity = read_engine_file(engine).model.capacity.max_people
    assert capacity == (people or 100)


@pytest.mark.parametrize(("precision", "names"), [("fp16", {"f16"}), ("fp32", {"f32"})])
def test_floats(trt: ModuleType, build_engine: Any, demo_onnx: Path, precision: str, names: set[str]) -> None:
    engine = build_engine(demo_onnx, "--precision", precision, "--compute-capability", "8.9")
    layers = layers_of(engine)
    assert {layer.precision for layer in layers} == names
    assert int8_mac_share(layers) == 0


def test_a_layer_that_was_kept_float_shows(
    trt: ModuleType, build_engine: Any, demo_onnx: Path, calibration: Path
) -> None:
    """The table is read from the log, not from our intention: without its Q/DQ the largest layer is seen in float16."""
    arguments = ("--precision", "int8", "--calib", str(calibration), "--nearest-weights", "--compute-capability", "8.6")
    largest = max(layers_of(build_engine(demo_onnx, *arguments)), key=lambda layer: layer.macs)
    layers = layers_of(build_engine(demo_onnx, *arguments, "--keep-float", largest.name, "--force"))
    assert {layer.name: layer.precision for layer in layers}[largest.name] == "f16"
    assert int8_mac_share(layers) < 0.97


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name one by its compute capability"),
        (("--compute-capability", "8.7"), "not 8.7"),
        (("--compute-capability", "8.6", "--max-people", "101"), "from 1 to 100"),
        (("--compute-capability", "8.6", "--timing-cache", "t.cache"), "no timing cache"),
        (("--compute-capability", "8.6", "--deepstream"), "build with --max-people"),
        (("--precision", "bf16"), "not bf16"),
    ],
)
def test_wrong_options(
    trt: ModuleType,
    demo_onnx: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "x.engine"
    command = ["build", str(demo_onnx), "--backend", "tensorrt-rtx", *arguments, "-o", str(output)]
    assert main(command) == BAD_RUNTIME
    assert sentence in capsys.readouterr().err
    assert not output.exists()


def test_running_without_a_gpu_is_a_sentence(
    trt: ModuleType, build_engine: Any, demo_onnx: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    engine = build_engine(demo_onnx, "--precision", "fp16", "--compute-capability", "8.6")
    picture = Path(__file__).resolve().parents[2] / "models" / "person.jpg"
    try:
        import pycuda.driver  # noqa: F401
    except (ImportError, OSError):
        assert main(["infer", str(engine), str(picture), "-o", str(tmp_path / "out")]) == BAD_RUNTIME
        assert "this needs pycuda and an NVIDIA driver" in capsys.readouterr().err
    else:
        pytest.skip("this machine can run it")


def test_deepstream(trt: ModuleType, build_engine: Any, demo_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan with one input, whose outputs have a batch axis; it is extracted, and not run by us."""
    engine = build_engine(
        *(demo_onnx, "--precision", "fp16", "--compute-capability", "8.6", "--max-people", "6", "--deepstream"),
    )
    plan = engine.with_suffix(".plan")
    assert main(["extract", str(engine), "-o", str(plan)]) == 0
    assert f"--loadEngine={plan} --dynamicPlugins=" in capsys.readouterr().out
    assert plan.read_bytes() == read_engine_file(engine).payload["model.plan"]
    with pytest.raises(EngineFileError, match="built for DeepStream"):
        Engine.load(engine)


def test_the_deepstream_graph(demo_onnx: Path, trt: ModuleType) -> None:
    prepared = prepare(demo_onnx.read_bytes(), "fp16", 6, deepstream=True)
    log = tensorrt._Log(trt)
    network = trt.Builder(log.logger).create_network(tensorrt._network_flags(trt))
    assert trt.OnnxParser(network, log.logger).parse(prepared)
    assert [network.get_input(i).name for i in range(network.num_inputs)] == ["image"]
    shapes = {network.get_output(i).name: tuple(network.get_output(i).shape) for i in range(network.num_outputs)}
    assert shapes["boxes"] == (1, 6, 4)
    assert shapes["count"] == (1, 1)
    assert shapes["u"] == (1, 6, 25, 64, 64)
