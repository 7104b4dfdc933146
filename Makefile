# Everything a fresh machine needs is made here: a virtual environment, the compiled package, then the target.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A CPU build is enough for exporting; users may have any torch from 2.6 on.
TORCH ?= torch==2.13.0

# Those of pyproject.toml: installed here so that the compiler runs again without a fresh build environment.
BUILD_REQUIREMENTS := $(shell $(PYTHON) -c "import tomllib; print(*[repr(r) for r in tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires']])")
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := $(wildcard csrc/* plugins/*/* CMakeLists.txt setup.py pyproject.toml)

.PHONY: all test test-oracle test-avx2 demo bench-ops lint format build clean
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

# The judge: everything against what the real detectron2 gives. Needs ../shared and takes several minutes.
test-oracle: build
	$(BIN)/python -m pytest tests/oracle

# The kernels on a processor that has AVX2 and no more. Needs qemu-x86_64 (Debian: qemu-user).
test-avx2: build
	qemu-x86_64 -cpu Haswell $(BIN)/python -m pytest tests/test_generate_proposals.py tests/test_multilevel_roi_align.py \
	  tests/test_box_detections.py tests/test_chart_result.py tests/test_resize.py

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
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*.cpp plugins/*/*.cpp

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.h csrc/*.cpp plugins/*/*.cpp

clean:
	rm -rf build dist *.egg-info $(VENV) engine/*.so
