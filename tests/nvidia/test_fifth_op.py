"""Ring (b): a fifth op is its own files and its name in ops.h. The three adapters serve it as they are."""

from __future__ import annotations

import ctypes
import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import native_build
import openvino
import pytest

HEADER = """
#pragma once
#include "core/op.h"

namespace densepose {

// out = factor * x, float32 of any rank-2 shape.
struct ScaleByFactor {
  static constexpr const char* kName = "ScaleByFactor";
  static constexpr std::size_t kOutputs = 1;
  static constexpr Trim kTrim = {};

  float factor = 1;

  template <class Visitor>
  void visit(Visitor&& v) {
    v("factor", factor);
  }

  void validate() const { check(factor == factor, kName, "factor must be a number"); }
  void infer(Span<const Tensor> inputs, Span<Tensor> outputs) const {
    check_tensor(inputs[0], DataType::kFloat32, {kUnknown, 3}, kName, "x");
    outputs[0] = {DataType::kFloat32, {inputs[0].shape[0], 3}};
  }
  void run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const;
  std::size_t workspace_bytes(Span<const Tensor> inputs) const;
  void launch(Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace, CudaStream stream) const;
};

}  // namespace densepose
"""

CPU = """
#include "ops/scale_by_factor.h"

namespace densepose {
void ScaleByFactor::run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch&) const {
  for (std::int64_t i = 0; i < inputs[0].shape.elements(); ++i)
    outputs[0].as<float>()[i] = factor * inputs[0].as<const float>()[i];
}
}  // namespace densepose
"""

CUDA = """
#include "core/cuda_grid.cuh"
#include "ops/scale_by_factor.h"

namespace densepose {
namespace {
struct ScaleElement {
  const float* x;
  float* out;
  float factor;
  DENSEPOSE_HD void operator()(std::int64_t i) const { out[i] = factor * x[i]; }
};
}  // namespace

std::size_t ScaleByFactor::workspace_bytes(Span<const Tensor>) const { return 0; }

void ScaleByFactor::launch(Span<const Tensor> inputs, Span<Tensor> outputs, void*, CudaStream stream) const {
  CudaGrid(stream).each(inputs[0].shape.elements(),
                        ScaleElement{inputs[0].as<const float>(), outputs[0].as<float>(), factor});
}
}  // namespace densepose
"""

CHECK = """
import importlib.util, sys
import numpy as np, onnx_ir as ir, openvino as ov

folder = sys.argv[1]
x = np.arange(12, dtype=np.float32).reshape(4, 3)

(path,) = __import__("pathlib").Path(folder).glob("_core.*.so")
spec = importlib.util.spec_from_file_location("_core", path)
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
(out,) = core.ops.ScaleByFactor(factor=2.5)(x)
assert (out == 2.5 * x).all()

value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["rows", 3]))
node = ir.node("ScaleByFactor", [value], {"factor": 2.5}, domain="densepose")
node.outputs[0].name, node.outputs[0].dtype = "y", ir.DataType.FLOAT
graph = ir.Graph([value], [node.outputs[0]], nodes=[node], opset_imports={"": 18, "densepose": 1})
model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()

openvino = ov.Core()
openvino.add_extension(folder + "/libdensepose_openvino.so")
result = openvino.compile_model(openvino.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)
assert (next(iter(result.values())) == 2.5 * x).all()

import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
assert trt.get_plugin_registry().load_library(folder + "/libdensepose_tensorrt.so")
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
assert parser.parse(model), [str(parser.get_error(i)) for i in range(parser.num_errors)]
assert tuple(network.get_output(0).shape) == (-1, 3)
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM86, 0)
profile = builder.create_optimization_profile()
profile.set_shape("x", (1, 3), (4, 3), (8, 3))
config.add_optimization_profile(profile)
assert builder.build_serialized_network(network, config) is not None
print("all three")
"""


def test_a_fifth_op(trt: ModuleType, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None or not os.environ.get("TENSORRT_ROOT"):
        pytest.skip("ring (b): compiling needs nvcc and TENSORRT_ROOT")
    root = native_build.ROOT
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("csrc", "plugins", "cmake", "tests/native"):
        shutil.copytree(root / name, tree / name)
    shutil.copy(root / "CMakeLists.txt", tree)
    # The four steps of adding an op:
    (tree / "csrc" / "ops" / "scale_by_factor.h").write_text(HEADER)
    (tree / "csrc" / "ops" / "scale_by_factor_cpu.cpp").write_text(CPU)
    (tree / "csrc" / "ops" / "scale_by_factor_cuda.cu").write_text(CUDA)
    ops = (tree / "csrc" / "ops.h").read_text(encoding="utf-8")
    ops = ops.replace("#include <tuple>\n", '#include <tuple>\n\n#include "ops/scale_by_factor.h"\n')
    assert ops.count(">;") == 1
    ops = ops.replace(">;", ", ScaleByFactor>;")
    (tree / "csrc" / "ops.h").write_text(ops)

    folder = native_build.build(
        *("_core", "densepose_openvino", "densepose_tensorrt"),
        source=tree,
        folder=tmp_path / "build",
        options=(
            "-DDENSEPOSE_CUDA_ARCHITECTURES=80-virtual",
            f"-DOpenVINO_DIR={Path(openvino.__file__).parent / 'cmake'}",
        ),
    )
    ctypes.CDLL(str(folder / "libdensepose_tensorrt.so"))
    # In a process of its own: this one has the four ops' libraries loaded.
    done = subprocess.run([sys.executable, "-c", CHECK, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "all three" in done.stdout, done.stderr[-4000:]

    changed = []
    for path in tree.rglob("*"):
        original = root / path.relative_to(tree)
        if path.is_file() and not (original.is_file() and filecmp.cmp(path, original, shallow=False)):
            changed.append(str(path.relative_to(tree)))
    new = [f"csrc/ops/scale_by_factor{end}" for end in (".h", "_cpu.cpp", "_cuda.cu")]
    assert sorted(changed) == sorted([*new, "csrc/ops.h"])
