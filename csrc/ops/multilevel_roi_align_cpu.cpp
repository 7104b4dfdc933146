// Bilinear weights are separable, and so is the rule for samples off the picture: a bin's average over its grid of
// samples is a weighted sum over source rows of weighted sums over source pixels. So each axis of a RoI is reduced to
// one list of weighted source indices per bin (a source pixel that several samples touch appears once), and a bin costs
// rows + columns multiplications per channel in place of four per sample.
#include <algorithm>
#include <cstring>

#include "kernels/isa.h"
#include "ops/multilevel_roi_align.h"
#include "ops/roi_taps.h"

namespace densepose {
namespace {

constexpr const char* kName = MultilevelRoiAlign::kName;

// Each task has its own working memory, of which it uses what its RoIs need.
constexpr std::int64_t kTasks = 64;

struct Level {
  const std::byte* data;
  std::int32_t height, width;
  float scale;
};

// What all RoIs share.
struct Pooling {
  const MultilevelRoiAlign& op;
  const Kernels& kernels;
  std::size_t type;  // index into the kernels' arrays
  std::size_t element_size;
  bool nhwc;
  std::int64_t channels;
  std::int32_t bins;
  std::int32_t first_level;
  Span<Level> levels;
};

// A task's working memory.
struct Workspace {
  AxisTaps rows, columns;
  InterleavedTaps interleaved;  // the columns, for planar features
  float* weights;               // of an axis, all zero
  float* row;                   // one row of sums, of all columns that a RoI reads
  float* bias;                  // [bins], all zero where zero_point is
};

void fill_zero_point(const Pooling& pooling, std::byte* out, std::int64_t elements) {
  // Floats have zero_point 0, and zero is all zero bits.
  std::memset(out, static_cast<int>(pooling.op.zero_point), static_cast<std::size_t>(elements) * pooling.element_size);
}

class RoiPooler {
 public:
  RoiPooler(const Pooling& pooling, Workspace& work) : p_(pooling), work_(work) {}

  void pool(const Box& box, std::byte* out) {
    const std::int32_t index =
        roi_level(box, static_cast<std::int32_t>(p_.levels.size()), p_.first_level,
                  static_cast<std::int32_t>(p_.op.canonical_level), static_cast<float>(p_.op.canonical_box_size));
    if (index < 0 || !find_taps_of(box, p_.levels[static_cast<std::size_t>(index)]))
      return fill_zero_point(p_, out, p_.channels * p_.bins * p_.bins);
    for (std::int32_t bin = 0; bin < p_.bins; ++bin) {
      if (p_.op.zero_point != 0) find_bias(bin);
      if (p_.nhwc)
        pool_row_nhwc(bin, out);
      else
        pool_row_nchw(bin, out);
    }
  }

 private:
  // False if the RoI reads nothing. The columns' taps then count from the first that is read.
  bool find_taps_of(const Box& box, const Level& level) {
    const auto ratio = static_cast<std::int32_t>(p_.op.sampling_ratio);
    const RoiAxis y = roi_axis(box.y0, box.y1, level.scale, p_.op.aligned != 0, p_.bins, ratio);
    const RoiAxis x = roi_axis(box.x0, box.x1, level.scale, p_.op.aligned != 0, p_.bins, ratio);
    level_ = &level;
    const PixelRange rows = find_taps(y, p_.bins, level.height, work_.weights, work_.rows);
    columns_ = find_taps(x, p_.bins, level.width, work_.weights, work_.columns);
    for (std::int32_t t = 0; t < work_.columns.first[p_.bins]; ++t) work_.columns.index[t] -= columns_.begin;
    if (!p_.nhwc) interleave(work_.columns, p_.bins, &work_.interleaved);
    return rows.begin < rows.end && columns_.begin < columns_.end;
  }

  // The part of each bin that lies off the picture reads zero_point.
  void find_bias(std::int32_t bin) {
    const float zero_point = static_cast<float>(p_.op.zero_point);
    const float rows = weight_sum(work_.rows, bin);
    for (std::int32_t q = 0; q < p_.bins; ++q)
      work_.bias[q] = zero_point * (1.0f - rows * weight_sum(work_.columns, q));
  }

  void pool_row_nhwc(std::int32_t bin, std::byte* out) {
    const std::int64_t c = p_.channels;
    const std::byte* source = level_->data + static_cast<std::size_t>(columns_.begin * c) * p_.element_size;
    p_.kernels.combine_rows[p_.type](source, level_->width * c, taps_of_bin(work_.rows, bin),
                                     (columns_.end - columns_.begin) * c, work_.row);
    p_.kernels.pool_pixels[p_.type](work_.row, work_.columns, p_.bins, c, work_.bias,
                                    out + static_cast<std::size_t>(bin * p_.bins * c) * p_.element_size);
  }

  void pool_row_nchw(std::int32_t bin, std::byte* out) {
    const std::int64_t plane = std::int64_t{level_->height} * level_->width;
    const Planes planes{level_->data + static_cast<std::size_t>(columns_.begin) * p_.element_size,
                        level_->width,
                        plane,
                        p_.channels,
                        columns_.end - columns_.begin,
                        p_.bins,
                        std::int64_t{p_.bins} * p_.bins};
    p_.kernels.pool_planes[p_.type](planes, taps_of_bin(work_.rows, bin), work_.interleaved, work_.bias, work_.row,
                                    out + static_cast<std::size_t>(bin * p_.bins) * p_.element_size);
  }

  const Pooling& p_;
  Workspace& work_;
  const Level* level_ = nullptr;
  PixelRange columns_{};
};

float* take_zeros(std::int64_t count, Scratch& scratch) {
  float* const zeros = scratch.take<float>(static_cast<std::size_t>(count));
  std::fill_n(zeros, count, 0.0f);
  return zeros;
}

Workspace take_workspace(const Pooling& pooling, Scratch& scratch) {
  std::int64_t height = 0, width = 0;
  for (const Level& level : pooling.levels) {
    height = std::max<std::int64_t>(height, level.height);
    width = std::max<std::int64_t>(width, level.width);
  }
  const std::int64_t bins = pooling.bins, ratio = pooling.op.sampling_ratio;
  const std::int64_t row = pooling.nhwc ? width * pooling.channels : width + kRowPadding;
  Workspace work;
  work.rows = take_axis_taps(bins, max_taps_per_bin(ratio, height), scratch);
  work.columns = take_axis_taps(bins, max_taps_per_bin(ratio, width), scratch);
  if (!pooling.nhwc) work.interleaved = take_interleaved_taps(bins, max_taps_per_bin(ratio, width), scratch);
  work.weights = take_zeros(std::max(height, width), scratch);
  work.row = scratch.take<float>(static_cast<std::size_t>(row));
  work.bias = take_zeros(bins + kBinPadding, scratch);
  return work;
}

bool is_power_of_two(std::int64_t x) { return x > 0 && (x & (x - 1)) == 0; }

std::int32_t log2_of(std::int64_t power_of_two) {
  std::int32_t log = 0;
  while (power_of_two >>= 1) ++log;
  return log;
}

}  // namespace

void MultilevelRoiAlign::validate() const {
  check(!strides.empty(), kName, "strides must name at least one level");
  for (std::size_t i = 0; i < strides.size(); ++i) {
    check(is_power_of_two(strides[i]) && strides[i] <= kMaxStride, kName, "strides must be powers of two");
    check(i == 0 || strides[i] == 2 * strides[i - 1], kName, "each of the strides must be twice the last");
  }
  check(pooled_size > 0 && pooled_size <= 1024, kName, "pooled_size must be from 1 to 1024");
  check(sampling_ratio >= 0 && sampling_ratio <= 1024, kName, "sampling_ratio must be from 0 to 1024");
  check(aligned == 0 || aligned == 1, kName, "aligned must be 0 or 1");
  check(canonical_box_size > 0, kName, "canonical_box_size must be positive");
  check(canonical_level >= 0 && canonical_level <= 64, kName, "canonical_level must be from 0 to 64");
  check(zero_point >= -128 && zero_point <= 255, kName, "zero_point must be a value of uint8 or int8");
  check(layout == "NCHW" || layout == "NHWC", kName, "layout must be NCHW or NHWC, not " + layout);
}

void MultilevelRoiAlign::infer(Span<const Tensor> inputs, Span<Tensor> outputs) const {
  const std::size_t levels = strides.size();
  check(inputs.size() == levels + 2, kName,
        std::to_string(inputs.size()) + " inputs; it takes one for each of the " + std::to_string(levels) +
            " strides, boxes and count");
  const DataType type = inputs[0].type;
  check(type == DataType::kFloat32 || type == DataType::kFloat16 || type == DataType::kUint8 || type == DataType::kInt8,
        kName, std::string("input level_0 is ") + name(type) + ", it must be float32, float16, uint8 or int8");
  const std::int64_t lowest = type == DataType::kInt8 ? -128 : 0;
  const std::int64_t highest = type == DataType::kInt8 ? 127 : type == DataType::kUint8 ? 255 : 0;
  check(!inputs[0].typed || (zero_point >= lowest && zero_point <= highest), kName,
        "zero_point " + std::to_string(zero_point) + " is not a value of " + name(type) + " features");

  const bool nhwc = layout == "NHWC";
  std::int64_t channels = kUnknown;
  for (std::size_t i = 0; i < levels; ++i) {
    const std::string input = "level_" + std::to_string(i);
    check_tensor(inputs[i], type,
                 nhwc ? Shape{1, kUnknown, kUnknown, channels} : Shape{1, channels, kUnknown, kUnknown}, kName,
                 input.c_str());
    if (channels == kUnknown) channels = inputs[i].shape[nhwc ? 3 : 1];
    const std::int64_t height = inputs[i].shape[nhwc ? 1 : 2], width = inputs[i].shape[nhwc ? 2 : 3];
    check(height != 0 && width != 0, kName, "input " + input + " is empty");
    check(height < 1 << 24 && width < 1 << 24, kName, "input " + input + " is larger than float32 can count");
  }
  check_tensor(inputs[levels], DataType::kFloat32, {kUnknown, 4}, kName, "boxes");
  check_tensor(inputs[levels + 1], DataType::kInt32, {1}, kName, "count");
  const std::int64_t rois = inputs[levels].shape[0];
  outputs[0] = {
      type, nhwc ? Shape{rois, pooled_size, pooled_size, channels} : Shape{rois, channels, pooled_size, pooled_size}};
}

void MultilevelRoiAlign::run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const {
  const std::size_t count = strides.size();
  const bool nhwc = layout == "NHWC";
  const Span<Level> levels(scratch.take<Level>(count), count);
  for (std::size_t i = 0; i < count; ++i)
    levels[i] = {inputs[i].as<const std::byte>(), static_cast<std::int32_t>(inputs[i].shape[nhwc ? 1 : 2]),
                 static_cast<std::int32_t>(inputs[i].shape[nhwc ? 2 : 3]), 1.0f / static_cast<float>(strides[i])};
  const DataType type = inputs[0].type;
  const Pooling pooling{*this,
                        kernels(),
                        static_cast<std::size_t>(type),
                        size_of(type),
                        nhwc,
                        inputs[0].shape[nhwc ? 3 : 1],
                        static_cast<std::int32_t>(pooled_size),
                        log2_of(strides[0]),
                        levels};

  const std::int64_t rows = inputs[count].shape[0];
  const std::int64_t rois = std::clamp<std::int64_t>(*inputs[count + 1].as<const std::int32_t>(), 0, rows);
  const float* boxes = inputs[count].as<const float>();
  const std::int64_t elements = pooling.channels * pooled_size * pooled_size;
  const auto output = [&](std::int64_t roi) {
    return outputs[0].as<std::byte>() + static_cast<std::size_t>(roi * elements) * pooling.element_size;
  };
  fill_zero_point(pooling, output(rois), (rows - rois) * elements);

  const std::int64_t tasks = std::min(rois, kTasks);
  const Span<Workspace> work(scratch.take<Workspace>(static_cast<std::size_t>(tasks)), static_cast<std::size_t>(tasks));
  for (Workspace& w : work) w = take_workspace(pooling, scratch);
  scratch.parallel(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
    RoiPooler pooler(pooling,
                     work[static_cast<std::size_t>(begin)]);  // nobody else has task `begin`
    for (std::int64_t roi = begin * rois / tasks; roi < end * rois / tasks; ++roi)
      pooler.pool(load_box(boxes + 4 * roi), output(roi));
  });
}

}  // namespace densepose
