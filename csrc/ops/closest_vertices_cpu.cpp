// A person's maps are brought into one order first, all channels of a pixel adjacent. A patch is then made row by row:
// resampled, masked, and each pixel searched for in the mesh's tree, beginning with its neighbor's answer.
#include <algorithm>
#include <cmath>

#include "kernels/isa.h"
#include "ops/closest_vertices.h"
#include "ops/maps.h"

namespace densepose {
namespace {

constexpr const char* kName = ClosestVertices::kName;
constexpr std::int64_t kMinPixels = 1024;  // fewer are not worth a thread

struct Depths {
  std::int64_t coarse, embedding;
  std::int64_t all() const { return coarse + embedding; }
};

Depths depths(const ClosestVertices& op, Span<const Tensor> inputs) {
  if (!op.channels.empty()) return {op.channels[0], op.channels[1]};
  const std::size_t axis = op.layout == "NHWC" ? 3 : 1;
  return {inputs[0].shape[axis], inputs[1].shape[axis]};
}

// [S, S, embedding + coarse]: the embedding first, where the search reads it.
void gather_maps(const ClosestVertices& op, Span<const Tensor> inputs, std::int64_t person, std::int64_t size,
                 float* out) {
  const Depths depth = depths(op, inputs);
  const bool nhwc = op.layout == "NHWC", packed = !op.channels.empty();
  const Map coarse = map_of(inputs[0], nhwc, op.block, 0, depth.coarse, person);
  const Map embedding = packed ? map_of(inputs[0], nhwc, op.block, depth.coarse, depth.embedding, person)
                               : map_of(inputs[1], nhwc, op.block, 0, depth.embedding, person);
  for (std::int64_t y = 0; y < size; ++y)
    for (std::int64_t x = 0; x < size; ++x) {
      const float* from = embedding.row(y) + embedding.column(x);
      for (std::int64_t c = 0; c < depth.embedding; ++c) *out++ = from[c * embedding.channel_stride];
      from = coarse.row(y) + coarse.column(x);
      for (std::int64_t c = 0; c < depth.coarse; ++c) *out++ = from[c * coarse.channel_stride];
    }
}

// What the rows of a person's patch are made from and searched in.
struct Person {
  const float* maps;
  std::int64_t map_size;
  PatchSize size;
  VertexSheets sheets;
  std::int32_t* closest;
  std::uint8_t* mask;
};

void paint_row(const Person& person, const Depths& depth, std::int64_t y, const MapTap* columns, float* pixels,
               const SearchRoom& room) {
  const auto map_size = static_cast<std::int32_t>(person.map_size);
  const MapTap tap = map_tap(y, person.size.height, map_size);
  const std::int64_t row = person.map_size * depth.all(), width = person.size.width;
  const PixelRows rows{person.maps + tap.low * row, person.maps + tap.high * row, tap.low_weight, tap.high_weight,
                       depth.all()};
  std::uint8_t* const mask = person.mask + y * width;
  const Kernels& kernel = kernels();
  for (std::int64_t x = 0; x < width; ++x) {
    float* const pixel = pixels + x * depth.all();
    kernel.resample_pixel(rows, columns[x].low, columns[x].high, columns[x].low_weight, columns[x].high_weight, pixel);
    // argmax > 0: a NaN is larger than any number, and the first of equal ones counts.
    const float* const coarse = pixel + depth.embedding;
    bool inside = false;
    for (std::int64_t c = 1; c < depth.coarse; ++c) inside = inside || !(coarse[c] <= coarse[0]);
    mask[x] = inside && coarse[0] == coarse[0];
  }
  kernel.find_closest(person.sheets, {pixels, depth.all(), depth.embedding, width}, mask, room,
                      person.closest + y * width);
}

// See VertexSheets: twice the bound of the error of both products, a box's and a vertex's.
float rounding_reach(const float* groups, std::int64_t values, std::int64_t depth) {
  float largest = 0;
  for (std::int64_t i = 0; i < values; ++i)
    if (std::isfinite(groups[i])) largest = std::max(largest, std::abs(groups[i]));
  return 4.0f * largest * static_cast<float>(depth) * 0x1p-24f;
}

}  // namespace

void ClosestVertices::validate() const {
  check_map_attributes(layout, block, !channels.empty(), kName);
  check(channels.empty() || channels.size() == 2, kName, "channels lists coarse_segm and embedding, or nothing");
  for (std::int64_t c : channels) check(c >= 1 && c <= 256, kName, "channels must be from 1 to 256");
}

void ClosestVertices::infer(Span<const Tensor> inputs, Span<Tensor> outputs) const {
  const bool nhwc = layout == "NHWC";
  const std::size_t first = first_input(), axis = nhwc ? 3 : 1;
  const auto check_map = [&](std::size_t i, std::int64_t depth, const char* name) {
    check_tensor(inputs[i], DataType::kFloat32, map_shape(nhwc, kUnknown, depth, kUnknown), kName, name);
    const std::int64_t found = inputs[i].shape[axis], size = inputs[i].shape[2];
    check(found != 0, kName, std::string(name) + " has no channels");
    check_map_size(found, size, name, kName);
    check_tensor(inputs[i], DataType::kFloat32, map_shape(nhwc, inputs[0].shape[0], found, inputs[0].shape[2]), kName,
                 name);
  };
  check(inputs.size() == first + kFollowing, kName,
        std::to_string(inputs.size()) + " inputs; it takes " + (channels.empty() ? "coarse_segm, embedding" : "maps") +
            ", boxes_original, meshes, vertices, numbers, blocks, groups, sheets");
  std::int64_t dimensions = kUnknown;
  if (channels.empty()) {
    check_map(0, kUnknown, "coarse_segm");
    check_map(1, kUnknown, "embedding");
    dimensions = inputs[1].shape[axis];
  } else {
    check_map(0, (channels[0] + channels[1]) * block * block, "maps");
    dimensions = channels[1];
  }
  const std::int64_t people = inputs[0].shape[0];
  const std::int64_t depth = dimensions == kUnknown ? kUnknown : dimensions + 1;
  check_tensor(inputs[first + kBoxes], DataType::kFloat32, {people, 4}, kName, "boxes_original");
  check_tensor(inputs[first + kMeshes], DataType::kInt32, {people}, kName, "meshes");
  check_tensor(inputs[first + kGroups], DataType::kFloat32, {kUnknown, 2, depth, kFan}, kName, "groups");
  const std::int64_t sheets = inputs[first + kGroups].shape[0];
  check(sheets != 0, kName, "groups has no sheet of vertices");
  const auto times = [sheets](std::int64_t n) { return sheets == kUnknown ? kUnknown : sheets * n; };
  check_tensor(inputs[first + kBlocks], DataType::kFloat32, {times(kFan), 2, depth, kFan}, kName, "blocks");
  check_tensor(inputs[first + kVertices], DataType::kFloat32, {times(kFan * kFan), depth, kFan}, kName, "vertices");
  check_tensor(inputs[first + kNumbers], DataType::kInt32, {times(kFan * kFan), kFan}, kName, "numbers");
  const Tensor& begins = inputs[first + kSheets];
  check_tensor(begins, DataType::kInt32, {kUnknown}, kName, "sheets");
  check(begins.shape[0] == kUnknown || begins.shape[0] >= 2, kName, "sheets has no mesh");
  if (begins.data && begins.shape.known() && sheets != kUnknown) {
    const std::int32_t* begin = begins.as<const std::int32_t>();
    for (std::int64_t m = 0; m + 1 < begins.shape[0]; ++m)
      check(begin[m] >= 0 && begin[m] < begin[m + 1] && begin[m + 1] <= sheets, kName,
            "sheets must rise from 0 to the number of sheets");
  }

  const Tensor& boxes = inputs[first + kBoxes];
  const bool sized = people == 0 || (boxes.data && boxes.shape.known());
  const std::int64_t pixels = sized ? count_pixels(boxes, kName) : kUnknown;
  outputs[0] = {DataType::kInt32, {pixels}};
  outputs[1] = {DataType::kUint8, {pixels}};
  outputs[2] = {DataType::kInt64, {people == kUnknown ? kUnknown : people + 1}};
}

void ClosestVertices::run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const {
  const std::size_t first = first_input();
  const std::int32_t* const meshes = inputs[first + kMeshes].as<const std::int32_t>();
  const std::int32_t* const sheets = inputs[first + kSheets].as<const std::int32_t>();
  const std::int64_t last_mesh = inputs[first + kSheets].shape[0] - 2;
  const std::int64_t people = inputs[0].shape[0], map_size = inputs[0].shape[2] * block;
  const Depths depth = depths(*this, inputs);
  std::int64_t* const offsets = outputs[2].as<std::int64_t>();
  const Patches patches = lay_out_patches(inputs[first + kBoxes], offsets, scratch);
  const std::int64_t widest = patches.widest;

  const auto count = static_cast<std::size_t>(people);
  const Span<Person> persons(scratch.take<Person>(count), count);
  for (std::size_t k = 0; k < count; ++k) {
    const std::int64_t mesh = std::clamp<std::int64_t>(meshes[k], 0, last_mesh), sheet = sheets[mesh];
    const std::int64_t values = (depth.embedding + 1) * kFan;  // of a block
    const float* const groups = inputs[first + kGroups].as<const float>() + sheet * 2 * values;
    persons[k] = {
        scratch.take<float>(static_cast<std::size_t>(map_size * map_size * depth.all())),
        map_size,
        patches.sizes[k],
        {inputs[first + kVertices].as<const float>() + sheet * kFan * kFan * values,
         inputs[first + kNumbers].as<const std::int32_t>() + sheet * kSheetVertices,
         inputs[first + kBlocks].as<const float>() + sheet * kFan * 2 * values, groups, sheets[mesh + 1] - sheet,
         rounding_reach(groups, (sheets[mesh + 1] - sheet) * 2 * values, depth.embedding + 1)},
        outputs[0].as<std::int32_t>() + offsets[k],
        outputs[1].as<std::uint8_t>() + offsets[k]};
  }
  scratch.parallel(people, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k)
      gather_maps(*this, inputs, k, map_size, const_cast<float*>(persons[static_cast<std::size_t>(k)].maps));
  });

  Band* const bands = scratch.take<Band>(static_cast<std::size_t>(people + kMaxBands));
  const std::int64_t pieces =
      cut_bands({patches.sizes.begin(), patches.sizes.size()}, offsets[people], kMinPixels, bands);
  // Of a band: the pixels of a row, and where in the map its columns lie.
  auto* const pixels = scratch.take<float>(static_cast<std::size_t>(pieces * widest * depth.all()));
  auto* const rooms = scratch.take<SearchRoom>(static_cast<std::size_t>(pieces));
  for (std::int64_t i = 0; i < pieces; ++i) {
    const auto values = static_cast<std::size_t>(depth.embedding * SearchRoom::kPoints);
    rooms[i] = {scratch.take<float>(values), scratch.take<float>(values), scratch.take<std::int64_t>(values),
                scratch.take<std::int32_t>(static_cast<std::size_t>(widest))};
  }
  auto* const taps = scratch.take<MapTap>(static_cast<std::size_t>(pieces * widest));
  scratch.parallel(pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Person& person = persons[static_cast<std::size_t>(bands[i].person)];
      MapTap* const columns = taps + i * widest;
      for (std::int64_t x = 0; x < person.size.width; ++x)
        columns[x] = map_tap(x, person.size.width, static_cast<std::int32_t>(map_size));
      std::fill(rooms[i].blocks, rooms[i].blocks + person.size.width, 0);
      for (std::int64_t y = bands[i].begin; y < bands[i].end; ++y)
        paint_row(person, depth, y, columns, pixels + i * widest * depth.all(), rooms[i]);
    }
  });
}

}  // namespace densepose
