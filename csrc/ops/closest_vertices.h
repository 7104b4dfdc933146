// From the DensePose head's embeddings to what a user wants: for each person, at box size, the vertex of the mesh whose
// embedding is closest to the pixel's. Source: DensePose modeling/cse/utils.py and vis/densepose_outputs_vertex.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/op.h"
#include "ops/patches.h"
#include "ops/vertex_tree.h"

namespace densepose {

// Inputs, in one of two forms. A tensor for each map: coarse_segm, embedding, boxes_original, meshes, and the tree's five
//   coarse_segm     float32 [N, Kc, S, S] logits (NHWC: [N, S, S, Kc], and so on)
//   embedding       float32 [N, D, S, S]
//   boxes_original  float32 [N, 4] xyxy in pixels of the original picture
//   meshes          int32 [N]: which mesh a person is looked for on; clamped to [0, M)
//   vertices, numbers, blocks, groups  of the trees of all meshes, one after another (vertex_tree.h)
//   sheets          int32 [M + 1]: where each mesh's sheets begin, and Q, how many there are
// Or, where `channels` lists the channels of coarse_segm and embedding, both in one tensor, as the predictor's
// convolution makes them: maps, boxes_original, meshes, and the tree's five. chart_result.h says what `block` means.
//   maps            float32 [N, sum(channels) * block^2, S/block, S/block]
// Person k's patch has h = max(int(y1 - y0), 1) rows and w = max(int(x1 - x0), 1) columns, subtracted in float32. Raw
// embeddings and logits are resampled to it (bilinear, half-pixel centers). Then, for each pixel:
//   inside = argmax(coarse) > 0
//   vertex = argmin over v of |e - V_v|^2 = argmax of e.V_v - |V_v|^2 / 2 in float32; of equal ones the lowest number;
//            0 outside, and where the embedding is not finite or its square overflows
// Outputs, flat, person after person, with T = offsets[N]; their sizes depend on the boxes' values:
//   closest         int32 [T]
//   mask            uint8 [T]: inside
//   offsets         int64 [N + 1]
// Peak memory: the outputs, 5 bytes a pixel, a copy of one map for each person, and a row of embeddings for each of at
// most 32 pieces.
struct ClosestVertices {
  static constexpr const char* kName = "ClosestVertices";
  static constexpr std::size_t kOutputs = 3;
  static constexpr Trim kTrim = {};

  std::string layout = "NCHW";
  std::vector<std::int64_t> channels;
  std::int64_t block = 1;

  template <class Visitor>
  void visit(Visitor&& v) {
    v("layout", layout);
    v("channels", channels);
    v("block", block);
  }

  void validate() const;
  void infer(Span<const Tensor> inputs, Span<Tensor> outputs) const;
  void run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const;
  std::size_t workspace_bytes(Span<const Tensor> inputs) const;
  void launch(Span<const Tensor> inputs, Span<Tensor> outputs, void* workspace, CudaStream stream) const;

  // Where the inputs that follow the maps stand.
  std::size_t first_input() const { return channels.empty() ? 2 : 1; }
  enum Following : std::size_t { kBoxes, kMeshes, kVertices, kNumbers, kBlocks, kGroups, kSheets, kFollowing };
};

}  // namespace densepose
