"""Ring (b): the plugin library in TensorRT-RTX's registry. Built, not executed."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import native_build
import numpy as np
import onnx_ir as ir
import pytest

from densepose_engine import _core
from densepose_engine.backends import tensorrt

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "GenerateProposals": {
        "strides": [8, 16],
        "anchors": np.random.default_rng(1).uniform(-400, 400, 24).astype(np.float32).tolist(),
        "bbox_weights": [1.5, 0.25, 1.0, 0.1],
        "anchor_offset": 0.5,
        "nms_threshold": 0.7123457,
        "min_size": 1e-7,
        "pre_nms_topk": 123,
        "capacity": 77,
        "layout": "NHWC",
    },
    "MultilevelRoiAlign": {
        "strides": [4, 8, 16],
        "pooled_size": 14,
        "sampling_ratio": 2,
        "aligned": 0,
        "layout": "NHWC",
    },
    "BoxDetections": {"bbox_weights": [10.0, 10.0, 5.0, 0.3], "capacity": 9, "dynamic": 1},
    "ChartResult": {"layout": "NHWC"},
    "ClosestVertices": {"layout": "NHWC", "channels": [2, 16], "block": 2},
}


DEEPSTREAM = "deploy/jetson/deepstream_plugins.cpp"


def header_folders() -> list[str]:
    return [folder for folder in os.environ.get("TENSORRT_HEADERS", "").split(":") if folder]


def test_the_library_needs_nothing_of_tensorrt(trt: ModuleType) -> None:
    """So that one build loads into every release; and it shows what TensorRT looks for."""
    symbols = subprocess.run(["nm", "-D", str(tensorrt.PLUGIN)], capture_output=True, text=True, check=True).stdout
    undefined = {line.split()[-1].split("@")[0] for line in symbols.splitlines() if " U " in line}
    assert not [name for name in undefined if re.search("nvinfer|TensorRT|getPlugin|getLogger|cuda|cu[A-Z]", name)]
    shown = {line.split()[-1] for line in symbols.splitlines() if " T " in line}
    assert shown == {"getCreators", "setLoggerFinder", "densepose_plugin_abi", "densepose_last_error"}


def test_the_library_has_code_for_every_gpu(trt: ModuleType) -> None:
    """Machine code for Orin, Hopper and Blackwell, and PTX for the rest (where nvcc knows them)."""
    data = tensorrt.PLUGIN.read_bytes()
    known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    for architecture in ("sm_87", "sm_90", "sm_120"):
        assert architecture not in known or architecture.encode() in data
    assert b"sm_87" in data
    assert b"compute_80" in data


def test_every_op_has_a_creator_with_its_attributes(trt: ModuleType) -> None:
    registry = trt.get_plugin_registry()
    for name in _core.ops.__all__:
        creator = registry.get_creator(name, "1", "")
        assert creator is not None, name
        minimal = {k: v for k, v in ATTRIBUTES[name].items() if k in ("strides", "anchors")}
        expected = [*getattr(_core.ops, name)(**minimal).attributes, "dynamic"]
        assert [field.name for field in creator.field_names] == expected


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_fields_survive(trt: ModuleType, name: str) -> None:
    """Every attribute comes back bit for bit from a plugin that was made, stored, made of that and cloned."""
    probe = native_build.load("plugin_probe", native_build.build("plugin_probe"))
    given = ATTRIBUTES[name]
    defaults = getattr(_core.ops, name)(**{k: v for k, v in given.items() if k != "dynamic"}).attributes
    stored = probe.round_trip(str(tensorrt.PLUGIN), name, given)
    assert list(stored) == [*defaults, "dynamic"]
    for key, value in {**defaults, "dynamic": given.get("dynamic", 0)}.items():
        expected = value if isinstance(value, (list, str)) else [value]
        if not isinstance(expected, str):
            kind = np.float32 if any(isinstance(x, float) for x in expected) else np.int64
            assert np.array_equal(np.asarray(stored[key], kind), np.asarray(expected, kind)), key
        else:
            assert stored[key] == expected


@pytest.mark.parametrize(
    ("name", "attributes", "sentence"),
    [
        ("GenerateProposals", {"strides": [4.5]}, "attribute strides is not an integer"),
        ("GenerateProposals", {"strides": [4], "anchors": [0.0, 0.0, 1.0]}, "four numbers per anchor"),
        ("MultilevelRoiAlign", {"strides": [4], "layout": "CHWN"}, "layout must be NCHW or NHWC"),
        ("MultilevelRoiAlign", {"strides": [4], "pooled_size": [1, 2]}, "pooled_size must be one number"),
        ("ChartResult", {"dynamic": 1}, "dynamic must be 0"),
        ("ClosestVertices", {"dynamic": 1}, "dynamic must be 0"),
        ("BoxDetections", {"capacity": 0}, "capacity must be from 1"),
    ],
)
def test_wrong_fields_give_no_plugin_but_a_sentence(
    trt: ModuleType, plugin_library: ctypes.CDLL, name: str, attributes: dict[str, Any], sentence: str
) -> None:
    probe = native_build.load("plugin_probe", native_build.build("plugin_probe"))
    assert probe.round_trip(str(tensorrt.PLUGIN), name, attributes) is None
    assert sentence in plugin_library.densepose_last_error().decode()


def graph(op: str, inputs: list[ir.Value], outputs: int, **attributes: Any) -> bytes:
    node = ir.node(op, inputs, attributes, domain="densepose", num_outputs=outputs)
    for index, value in enumerate(node.outputs):
        value.name, value.dtype = f"out_{index}", ir.DataType.FLOAT
    model = ir.Model(
        ir.Graph(inputs, list(node.outputs), nodes=[node], opset_imports={"": 18, "densepose": 1}), ir_version=10
    )
    return bytes(ir.to_proto(model).SerializeToString())


def tensor(name: str, dtype: ir.DataType, *shape: int) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def parse(trt: ModuleType, model: bytes) -> tuple[bool, Any]:
    log = tensorrt._Log(trt)
    network = trt.Builder(log.logger).create_network(tensorrt._network_flags(trt))
    return trt.OnnxParser(network, log.logger).parse(model), network


F32, F16, I32 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT32


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [F32, F16])
def test_shapes_and_types(trt: ModuleType, layout: str, dtype: ir.DataType) -> None:
    sizes = [(1, 12, 20, 24), (1, 12, 10, 12)]
    if layout == "NHWC":
        sizes = [(n, h, w, c) for n, c, h, w in sizes]
    levels = [tensor(f"level_{i}", dtype, *size) for i, size in enumerate(sizes)]
    inputs = [*levels, tensor("boxes", F32, 6, 4), tensor("count", I32, 1)]
    ok, network = parse(trt, graph("MultilevelRoiAlign", inputs, 1, strides=[4, 8], pooled_size=5, layout=layout))
    assert ok
    assert tuple(network.get_output(0).shape) == ((6, 12, 5, 5) if layout == "NCHW" else (6, 5, 5, 12))
    assert network.get_output(0).dtype == (trt.float16 if dtype == F16 else trt.float32)


def test_levels_of_two_types_are_refused(trt: ModuleType, plugin_library: ctypes.CDLL) -> None:
    inputs = [
        *(tensor("level_0", F32, 1, 4, 8, 8), tensor("level_1", F16, 1, 4, 4, 4)),
        *(tensor("boxes", F32, 6, 4), tensor("count", I32, 1)),
    ]
    ok, _ = parse(trt, graph("MultilevelRoiAlign", inputs, 1, strides=[4, 8]))
    assert not ok
    assert "input level_1 is float16" in plugin_library.densepose_last_error().decode()


CHART = [
    *(tensor(name, F32, 2, channels, 8, 8) for name, channels in (("c", 2), ("f", 25), ("u", 25), ("v", 25))),
    tensor("boxes", F32, 2, 4),
]
VERTICES = [
    *(tensor("c", F32, 2, 2, 8, 8), tensor("e", F32, 2, 16, 8, 8), tensor("boxes", F32, 2, 4), tensor("m", I32, 2)),
    *(tensor("vertices", F32, 256, 17, 16), tensor("numbers", I32, 256, 16), tensor("blocks", F32, 16, 2, 17, 16)),
    *(tensor("groups", F32, 1, 2, 17, 16), tensor("sheets", I32, 2)),
]


@pytest.mark.parametrize(
    ("op", "inputs", "outputs"),
    [("ChartResult", CHART, 4), ("ClosestVertices", VERTICES, 3)],
    ids=["chart", "vertices"],
)
def test_what_has_the_size_of_boxes_cannot_stand_in_a_graph(
    trt: ModuleType, plugin_library: ctypes.CDLL, op: str, inputs: list[ir.Value], outputs: int
) -> None:
    """Its outputs' sizes depend on boxes; the sentence says where it runs instead."""
    ok, _ = parse(trt, graph(op, inputs, outputs))
    assert not ok
    assert "run it behind the graph" in plugin_library.densepose_last_error().decode()


@pytest.mark.parametrize("folder", header_folders() or [""])
def test_headers(folder: str) -> None:
    """The library's sources compile with the headers of each release that is given in TENSORRT_HEADERS (a:b:c)."""
    if not folder:
        pytest.skip("ring (b): TENSORRT_HEADERS names no folders with include/NvInfer.h")
    includes = [f"-I{native_build.ROOT / 'csrc'}", "-isystem", f"{folder}/include"]
    for header in sorted(Path("/usr/local").glob("cuda*/include/cuda_runtime_api.h")):
        includes += ["-isystem", str(header.parent)]
    sources = [native_build.ROOT / name for name in ("plugins/tensorrt/plugin.cpp", DEEPSTREAM)]
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *includes, *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
