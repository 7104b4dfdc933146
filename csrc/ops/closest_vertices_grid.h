// ClosestVertices for a grid of threads (see grid.h): a thread per pixel, which looks at every vertex of its mesh.
#pragma once

#include "core/grid.h"
#include "ops/closest_vertices.h"
#include "ops/maps_grid.h"

namespace densepose {

inline constexpr std::int64_t kMaxEmbedding = 64;  // coordinates of a pixel that a thread keeps

struct FindClosestVertex {
  GridMap coarse, embedding;
  std::int32_t map_size;
  const float* boxes;
  const std::int64_t* offsets;
  std::int64_t people;
  const std::int32_t *meshes, *sheets;
  std::int64_t mesh_count;
  const float* vertices;
  const std::int32_t* numbers;
  std::int32_t* closest;
  std::uint8_t* mask;

  DENSEPOSE_HD void operator()(std::int64_t i) const {
    const std::int64_t person = person_of(i, offsets, people);
    if (person == people) return;  // room that nobody needs
    const float* box = boxes + 4 * person;
    const std::int64_t height = patch_side(box[1], box[3]), width = patch_side(box[0], box[2]);
    const std::int64_t pixel = i - offsets[person];
    const MapTap y = map_tap(pixel / width, height, map_size), x = map_tap(pixel % width, width, map_size);
    const bool inside = coarse.argmax(person, y, x) > 0;
    mask[i] = inside;
    closest[i] = inside ? search(person, y, x) : 0;
  }

  DENSEPOSE_HD std::int32_t search(std::int64_t person, const MapTap& y, const MapTap& x) const {
    float e[kMaxEmbedding];
    float square = 0;
    for (std::int64_t k = 0; k < embedding.channels; ++k) {
      e[k] = embedding.sample(person, k, y, x);
      square += e[k] * e[k];
    }
    if (!(square <= 3.402823466e+38f)) return 0;
    std::int64_t mesh = meshes[person] < 0 ? 0 : meshes[person];
    if (mesh > mesh_count - 1) mesh = mesh_count - 1;
    const std::int64_t depth = embedding.channels + 1;
    float best = 0;
    std::int32_t number = kNoVertex;
    for (std::int64_t v = sheets[mesh] * kSheetVertices; v < sheets[mesh + 1] * kSheetVertices; ++v) {
      if (numbers[v] == kNoVertex) continue;
      const float* vertex = vertices + v / kFan * depth * kFan + v % kFan;
      float product = vertex[(depth - 1) * kFan];
      for (std::int64_t k = 0; k < embedding.channels; ++k) product += e[k] * vertex[k * kFan];
      if (number == kNoVertex || product > best || (product == best && numbers[v] < number)) {
        best = product;
        number = numbers[v];
      }
    }
    return number == kNoVertex ? 0 : number;
  }
};

inline std::size_t grid_workspace(const ClosestVertices& op, Span<const Tensor> inputs) {
  const std::int64_t depth = inputs[op.first_input() + ClosestVertices::kGroups].shape[2];
  check(depth <= kMaxEmbedding + 1, ClosestVertices::kName, "the CUDA kernels take at most 64 channels of embedding");
  return 0;
}

// Outputs may be longer than what the boxes need: `closest` says how many pixels there is room for.
template <class Grid>
void run_on(Grid& grid, const ClosestVertices& op, Span<const Tensor> inputs, Span<Tensor> outputs, void*) {
  const bool nhwc = op.layout == "NHWC", packed = !op.channels.empty();
  const std::size_t first = op.first_input(), axis = nhwc ? 3 : 1;
  FindClosestVertex find{};
  find.coarse = grid_map(inputs[0], nhwc, op.block, 0, packed ? op.channels[0] : inputs[0].shape[axis]);
  find.embedding = packed ? grid_map(inputs[0], nhwc, op.block, op.channels[0], op.channels[1])
                          : grid_map(inputs[1], nhwc, op.block, 0, inputs[1].shape[axis]);
  find.map_size = static_cast<std::int32_t>(inputs[0].shape[2] * op.block);
  find.boxes = inputs[first + ClosestVertices::kBoxes].as<const float>();
  find.offsets = outputs[2].as<const std::int64_t>();
  find.people = inputs[0].shape[0];
  find.meshes = inputs[first + ClosestVertices::kMeshes].as<const std::int32_t>();
  find.sheets = inputs[first + ClosestVertices::kSheets].as<const std::int32_t>();
  find.mesh_count = inputs[first + ClosestVertices::kSheets].shape[0] - 1;
  find.vertices = inputs[first + ClosestVertices::kVertices].as<const float>();
  find.numbers = inputs[first + ClosestVertices::kNumbers].as<const std::int32_t>();
  find.closest = outputs[0].as<std::int32_t>();
  find.mask = outputs[1].as<std::uint8_t>();
  const std::int64_t capacity = outputs[0].shape[0];
  grid.each(1, FindOffsets{find.boxes, outputs[2].as<std::int64_t>(), find.people, capacity});
  grid.each(capacity, find);
}

}  // namespace densepose
