"""Ring (a): the DeepStream parser, compiled against the structures that DeepStream documents, and run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "deploy" / "jetson" / "deepstream_parser.cpp"

STRUCTURES = """
#pragma once
#include <vector>
typedef enum { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3 } NvDsInferDataType;
struct NvDsInferDims { unsigned int numDims; unsigned int d[8]; unsigned int numElements; };
struct NvDsInferLayerInfo {
  NvDsInferDataType dataType;
  union { NvDsInferDims dims; NvDsInferDims inferDims; };
  int bindingIndex;
  const char* layerName;
  void* buffer;
  int isInput;
};
struct NvDsInferNetworkInfo { unsigned int width, height, channels; };
struct NvDsInferParseDetectionParams {
  unsigned int numClassesConfigured;
  std::vector<float> perClassPreclusterThreshold, perClassPostclusterThreshold;
};
struct NvDsInferInstanceMaskInfo {
  unsigned int classId;
  float left, top, width, height, detectionConfidence;
  float* mask;
  unsigned int mask_width, mask_height, mask_size;
};
#define CHECK_CUSTOM_INSTANCE_MASK_PARSE_FUNC_PROTOTYPE(f) static_assert(true, "")
"""

PROGRAM = """
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nvdsinfer_custom_impl.h>
extern "C" bool NvDsInferParseCustomDensePose(const std::vector<NvDsInferLayerInfo>&, const NvDsInferNetworkInfo&,
                                              const NvDsInferParseDetectionParams&,
                                              std::vector<NvDsInferInstanceMaskInfo>&);
int main(int, char** argv) {
  int count = std::atoi(argv[1]);
  float boxes[3][4] = {{10, 20, 30, 60}, {-5, 0, 700, 80}, {0, 0, 0, 0}};
  float scores[3] = {0.9f, 0.8f, 0.0f};
  // Two channels of 2x2: the foreground is the right column of person 0, everything of person 1.
  float coarse[3][2][4] = {{{1, 0, 1, 0}, {0, 1, 0, 1}}, {{0, 0, 0, 0}, {1, 1, 1, 1}}, {{9, 9, 9, 9}, {0, 0, 0, 0}}};
  std::vector<NvDsInferLayerInfo> layers(4);
  const auto set = [&](int i, const char* name, NvDsInferDataType type, void* buffer, std::vector<unsigned> dims) {
    layers[i].dataType = type;
    layers[i].layerName = name;
    layers[i].buffer = buffer;
    layers[i].inferDims.numDims = dims.size();
    for (unsigned d = 0; d < dims.size(); ++d) layers[i].inferDims.d[d] = dims[d];
  };
  set(0, "coarse_segm", FLOAT, coarse, {3, 2, 2, 2});
  set(1, "boxes", FLOAT, boxes, {3, 4});
  set(2, "scores", FLOAT, scores, {3});
  set(3, std::strcmp(argv[2], "missing") ? "count" : "other", INT32, &count, {1});
  std::vector<NvDsInferInstanceMaskInfo> people;
  NvDsInferParseDetectionParams parameters{1, {static_cast<float>(std::atof(argv[3]))}, {}};
  std::printf("%d\\n", NvDsInferParseCustomDensePose(layers, {448, 320, 3}, parameters, people));
  for (const auto& p : people) {
    std::printf("%g %g %g %g %g %u:", p.left, p.top, p.width, p.height, p.detectionConfidence, p.mask_size);
    for (unsigned i = 0; i < p.mask_width * p.mask_height; ++i) std::printf(" %g", p.mask[i]);
    std::printf("\\n");
    delete[] p.mask;
  }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepstream")
    (folder / "nvdsinfer_custom_impl.h").write_text(STRUCTURES)
    (folder / "main.cpp").write_text(PROGRAM)
    checks = ["-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-g"]
    command = ["c++", "-std=c++17", *checks, f"-I{folder}", str(SOURCE), str(folder / "main.cpp"), "-o", folder / "run"]
    subprocess.run(command, check=True)
    return folder / "run"


FIRST = "10 20 20 40 0.9 16: 0 1 0 1"
SECOND = "0 0 448 80 0.8 16: 1 1 1 1"


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("2", "", "0"), ["1", FIRST, SECOND]),
        (("1", "", "0"), ["1", FIRST]),
        (("2", "", "0.85"), ["1", FIRST]),
        (("0", "", "0"), ["1"]),
        (("-7", "", "0"), ["1"]),
        (("2", "missing", "0"), ["0"]),
    ],
    ids=["two", "one", "threshold", "nobody", "nonsense", "not our plan"],
)
def test_people(program: Path, arguments: tuple[str, ...], lines: list[str]) -> None:
    run = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == lines


def test_a_count_beyond_the_maps_is_cut(program: Path) -> None:
    run = subprocess.run([program, "1000000", "", "0"], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[:3] == ["1", FIRST, SECOND]
    assert len(run.stdout.splitlines()) == 4
