// From the DensePose head's maps to what a user wants: for each person, at box size, a part label and (u, v) per pixel.
// Source: DensePose converters/{chart_output_to_chart_result,segm_to_mask}.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/op.h"
#include "ops/patches.h"

namespace densepose {

// Inputs, in one of two forms. A tensor for each map: coarse_segm, fine_segm, u, v, boxes_original, confidence_0 ..
// confidence_{E-1}
//   coarse_segm     float32 [N, Kc, S, S] logits (NHWC: [N, S, S, Kc], and so on)
//   fine_segm       float32 [N, C, S, S] logits of background and C-1 parts; u and v have the same shape
//   boxes_original  float32 [N, 4] xyxy in pixels of the original picture
//   confidence_e    float32 [N, C or 1, S, S]: per part (the label's channel is taken; 0 on background) or one for all
// Or, where `channels` lists the channels of coarse_segm, fine_segm, u, v and the confidences, all of them in one
// tensor, as the predictor's convolution makes them: maps, boxes_original
//   maps            float32 [N, sum(channels) * block^2, S/block, S/block] (NHWC: [N, S/block, S/block, sum(channels) *
//                   block^2]); pixel (y, x) of channel c is in channel c * block^2 + y % block * block + x % block of
//                   cell (y/block, x/block), which is what torch's pixel_shuffle undoes. Nobody has to undo it, nor cut
//                   the tensor.
// Person k's patch has h = max(int(y1 - y0), 1) rows and w = max(int(x1 - x0), 1) columns, subtracted in float32.
// Logits are resampled to it first (bilinear, half-pixel centers) and argmax follows:
// label = argmax(fine) * (argmax(coarse) > 0); uv comes from the label's own channel, 0 on background.
// Outputs, flat, person after person, with T = offsets[N]; their sizes depend on the boxes' values:
//   labels          uint8 [T]
//   uv              float32 [2T]: u, then v, of each person
//   offsets         int64 [N + 1] into labels (uv starts at twice that)
//   confidences     float32 [E * T]: the E maps of each person, one after another
// Peak memory: the outputs, 9 + 4E bytes a pixel, and scratch for a few rows of the maps and of the patch, once per
// person and for each of at most 32 pieces of large ones.
struct ChartResult {
  static constexpr const char* kName = "ChartResult";
  static constexpr std::size_t kOutputs = 4;
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
};

}  // namespace densepose
