#!/usr/bin/env bash
# Installs densepose-engine with its TensorRT plugins into a virtual environment, on a Jetson with JetPack 6.
#   deploy/jetson/install.sh [FOLDER]      default: ~/densepose-engine
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-$HOME/densepose-engine}
export PATH=/usr/local/cuda/bin:$PATH

fail() { echo "install: $1" >&2; exit 1; }
[ "$(uname -m)" = aarch64 ] || fail "this is not a 64-bit Arm machine"
command -v nvcc >/dev/null || fail "no nvcc: sudo apt-get install nvidia-jetpack, or add CUDA's bin folder to PATH"
sh deploy/fresh/prerequisites.sh python3 || exit 1
# TensorRT's own headers and Python module come with JetPack, not from PyPI.
found=$(find /usr/include -name NvInfer.h -print -quit)
[ -n "$found" ] || fail "no NvInfer.h: sudo apt-get install libnvinfer-headers-dev"
python3 -c 'import tensorrt' || fail "python3 cannot import tensorrt: sudo apt-get install python3-libnvinfer"

python3 -m venv --system-site-packages "$folder"
"$folder/bin/python" -m pip install --upgrade pip
# The compiler here may warn of what ours does not.
CMAKE_ARGS="-DDENSEPOSE_WERROR=OFF -DCMAKE_CUDA_COMPILER=$(command -v nvcc)" \
  "$folder/bin/python" -m pip install .
"$folder/bin/python" - <<'PYTHON'
from densepose_engine.backends import tensorrt

tensorrt._plugin_library()
print("the TensorRT plugins load")
PYTHON
# onnx is for building engines here; pycuda compiles against JetPack's CUDA.
"$folder/bin/python" -m pip install "onnx>=1.17" "onnxscript>=0.5" pycuda
echo "installed: $folder/bin/densepose-engine --help"
