// DeepStream's nvinfer plugin asks this for the people in a plan's raw outputs (custom-lib-path in
// nvinfer_densepose.txt). For plans that were built with --deepstream --max-people N.
//
// Each person becomes an object with an instance mask: the foreground of coarse_segm at the head's resolution, which
// nvinfer stretches to the box. Who wants parts and (u, v) reads fine_segm, u and v from the tensor metadata
// (output-tensor-meta=1); the n-th object is the n-th person there.
//
//   g++ -O2 -std=c++17 -shared -fPIC -I/opt/nvidia/deepstream/deepstream/sources/includes -I/usr/local/cuda/include
//     deepstream_parser.cpp deepstream_plugins.cpp -lnvinfer -ldl -o libdensepose_deepstream.so
#include <nvdsinfer_custom_impl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

const NvDsInferLayerInfo* find(const std::vector<NvDsInferLayerInfo>& layers, const char* name, NvDsInferDataType type,
                               unsigned rank) {
  for (const NvDsInferLayerInfo& layer : layers)
    if (std::strcmp(layer.layerName, name) == 0)
      return layer.buffer && layer.dataType == type && layer.inferDims.numDims == rank ? &layer : nullptr;
  return nullptr;
}

// 1 where a pixel is not background. nvinfer frees masks with delete[].
float* foreground(const float* logits, unsigned channels, unsigned pixels) {
  auto* mask = new float[pixels];
  for (unsigned pixel = 0; pixel < pixels; ++pixel) {
    float best = logits[pixel];
    mask[pixel] = 0;
    for (unsigned c = 1; c < channels; ++c) {
      const float value = logits[static_cast<std::size_t>(c) * pixels + pixel];
      if (!(value > best)) continue;
      best = value;
      mask[pixel] = 1;
    }
  }
  return mask;
}

}  // namespace

extern "C" bool NvDsInferParseCustomDensePose(const std::vector<NvDsInferLayerInfo>& outputs,
                                              const NvDsInferNetworkInfo& network,
                                              const NvDsInferParseDetectionParams& thresholds,
                                              std::vector<NvDsInferInstanceMaskInfo>& people) {
  const NvDsInferLayerInfo* count = find(outputs, "count", INT32, 1);
  const NvDsInferLayerInfo* boxes = find(outputs, "boxes", FLOAT, 2);
  const NvDsInferLayerInfo* scores = find(outputs, "scores", FLOAT, 1);
  const NvDsInferLayerInfo* coarse = find(outputs, "coarse_segm", FLOAT, 4);
  if (!count || !boxes || !scores || !coarse) return false;
  const unsigned most = boxes->inferDims.d[0], channels = coarse->inferDims.d[1];
  const unsigned height = coarse->inferDims.d[2], width = coarse->inferDims.d[3];
  if (boxes->inferDims.d[1] != 4 || scores->inferDims.d[0] != most || coarse->inferDims.d[0] != most) return false;

  const std::int32_t found = *static_cast<const std::int32_t*>(count->buffer);
  const unsigned valid = found < 0 ? 0 : std::min(static_cast<unsigned>(found), most);
  const float least = thresholds.perClassPreclusterThreshold.empty() ? 0 : thresholds.perClassPreclusterThreshold[0];
  for (unsigned i = 0; i < valid; ++i) {
    const float score = static_cast<const float*>(scores->buffer)[i];
    if (!(score >= least)) break;  // best first
    const float* box = static_cast<const float*>(boxes->buffer) + 4 * i;
    const float x0 = std::clamp(box[0], 0.0f, static_cast<float>(network.width));
    const float y0 = std::clamp(box[1], 0.0f, static_cast<float>(network.height));
    const float x1 = std::clamp(box[2], 0.0f, static_cast<float>(network.width));
    const float y1 = std::clamp(box[3], 0.0f, static_cast<float>(network.height));
    NvDsInferInstanceMaskInfo person{};
    person.classId = 0;
    person.left = x0;
    person.top = y0;
    person.width = x1 - x0;
    person.height = y1 - y0;
    person.detectionConfidence = score;
    person.mask_width = width;
    person.mask_height = height;
    person.mask_size = static_cast<unsigned>(sizeof(float)) * width * height;
    const float* logits =
        static_cast<const float*>(coarse->buffer) + static_cast<std::size_t>(i) * channels * height * width;
    person.mask = foreground(logits, channels, height * width);
    people.push_back(person);
  }
  return true;
}

CHECK_CUSTOM_INSTANCE_MASK_PARSE_FUNC_PROTOTYPE(NvDsInferParseCustomDensePose);
