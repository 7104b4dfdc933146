// A patch is made row by row. The two rows of the maps that an output row lies
// between are resampled to the patch's width once, and stay until the patch has
// moved beyond them; what is left for a pixel is one weighted sum per channel
// over contiguous memory. u, v and confidences are sampled afterwards, where
// they lie, in the label's own channel only.
#include <algorithm>
#include <cstring>

#include "chart_result.h"
#include "isa.h"

namespace densepose {
namespace {

constexpr const char* kName = ChartResult::kName;
constexpr std::size_t kCoarse = 0, kFine = 1, kU = 2, kV = 3, kBoxes = 4, kFirstConfidence = 5;

// One person's share of an input, and how to find a value in it, whatever the
// layout.
struct Map {
  const float* data;
  std::int64_t channels;
  std::int64_t channel_stride, row_stride, pixel_stride;

  RowPair rows(const MapTap& y) const {
    return {data + y.low * row_stride,
            data + y.high * row_stride,
            y.low_weight,
            y.high_weight,
            channels,
            channel_stride,
            pixel_stride};
  }
};

Map read_map(const Tensor& maps, bool nhwc, std::int64_t person) {
  const std::int64_t channels = maps.shape[nhwc ? 3 : 1], size = maps.shape[2];
  const float* data = maps.as<const float>() + person * channels * size * size;
  return nhwc ? Map{data, channels, 1, size * channels, channels} : Map{data, channels, size * size, size, 1};
}

std::int64_t round_up(std::int64_t x, std::int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// Rows [begin, end) of a person's patch: the unit of work of a thread.
struct Band {
  std::int64_t person, begin, end;
};

// A band's working memory. Rows are `stride` floats apart; the two resampled
// rows hold all coarse and fine channels.
struct Workspace {
  float* map_row;       // one row of a channel, its last pixel repeated
  float* resampled[2];  // [coarse + fine channels, stride]
  std::int32_t *low, *high;
  float *low_weight, *high_weight;
  std::uint8_t *labels, *ones;
};

Workspace take_workspace(std::int64_t channels, std::int64_t map_size, std::int64_t width, Scratch& scratch) {
  const auto pixels = static_cast<std::size_t>(round_up(width, kPixelPadding));
  const auto rows = static_cast<std::size_t>(channels) * pixels;
  Workspace w;
  w.map_row = scratch.take<float>(static_cast<std::size_t>(map_size + kMapPadding));
  for (float*& row : w.resampled) row = scratch.take<float>(rows);
  for (std::int32_t** taps : {&w.low, &w.high}) *taps = scratch.take<std::int32_t>(pixels);
  for (float** weights : {&w.low_weight, &w.high_weight}) *weights = scratch.take<float>(pixels);
  for (std::uint8_t** labels : {&w.labels, &w.ones}) *labels = scratch.take<std::uint8_t>(pixels);
  return w;
}

// Where a person's patch goes.
struct Patch {
  std::int64_t height, width;
  std::uint8_t* labels;
  float* uv;
  float* confidences;
};

class PatchPainter {
 public:
  PatchPainter(Span<const Tensor> inputs, bool nhwc, std::int64_t person, const Patch& patch, const Workspace& work)
      : inputs_(inputs),
        nhwc_(nhwc),
        person_(person),
        patch_(patch),
        work_(work),
        coarse_(read_map(inputs[kCoarse], nhwc, person)),
        fine_(read_map(inputs[kFine], nhwc, person)),
        map_size_(static_cast<std::int32_t>(inputs[kFine].shape[2])),
        stride_(round_up(patch.width, kPixelPadding)) {
    for (std::int64_t x = 0; x < stride_; ++x) {
      const MapTap tap = map_tap(std::min(x, patch_.width - 1), patch_.width, map_size_);
      work_.low[x] = tap.low;
      work_.high[x] = tap.high;
      work_.low_weight[x] = tap.low_weight;
      work_.high_weight[x] = tap.high_weight;
    }
    std::memset(work_.ones, 1, static_cast<std::size_t>(stride_));
  }

  void paint(std::int64_t begin, std::int64_t end) {
    for (std::int64_t y = begin; y < end; ++y) {
      const MapTap tap = map_tap(y, patch_.height, map_size_);
      paint_labels(tap, patch_.labels + y * patch_.width);
      paint_channel(kU, tap, patch_.uv + y * patch_.width);
      paint_channel(kV, tap, patch_.uv + (patch_.height + y) * patch_.width);
      for (std::size_t i = kFirstConfidence; i < inputs_.size(); ++i) {
        const auto map = static_cast<std::int64_t>(i - kFirstConfidence);
        paint_channel(i, tap, patch_.confidences + (map * patch_.height + y) * patch_.width);
      }
    }
  }

 private:
  void paint_labels(const MapTap& y, std::uint8_t* out) {
    RowPair rows{resampled(y.low), resampled(y.high), y.low_weight, y.high_weight, coarse_.channels, stride_, 1};
    RowPair fine = rows;
    fine.low += coarse_.channels * stride_;
    fine.high += coarse_.channels * stride_;
    fine.channels = fine_.channels;
    kernels_.label_row(rows, fine, patch_.width, work_.labels);
    std::memcpy(out, work_.labels, static_cast<std::size_t>(patch_.width));
  }

  // The label's channel of a map; of a map with one channel for all parts, that
  // one, on background too.
  void paint_channel(std::size_t input, const MapTap& y, float* out) const {
    const Map map = read_map(inputs_[input], nhwc_, person_);
    RowPair rows = map.rows(y);
    const bool per_part = map.channels == fine_.channels;
    if (!per_part) rows.channel_stride = 0;
    kernels_.sample_row(rows, taps(), per_part ? work_.labels : work_.ones, patch_.width, out);
  }

  // A row of the coarse and fine maps at the patch's width. Neighbours have
  // different places, so both stay.
  const float* resampled(std::int32_t row) {
    float* const out = work_.resampled[row & 1];
    if (row_in_place_[row & 1] != row) {
      row_in_place_[row & 1] = row;
      resample(coarse_, row, out);
      resample(fine_, row, out + coarse_.channels * stride_);
    }
    return out;
  }

  void resample(const Map& map, std::int32_t row, float* out) {
    for (std::int64_t c = 0; c < map.channels; ++c) {
      const float* source = map.data + c * map.channel_stride + row * map.row_stride;
      if (map.pixel_stride == 1)
        std::memcpy(work_.map_row, source, static_cast<std::size_t>(map_size_) * sizeof(float));
      else
        for (std::int32_t x = 0; x < map_size_; ++x) work_.map_row[x] = source[x * map.pixel_stride];
      work_.map_row[map_size_] = work_.map_row[map_size_ - 1];
      kernels_.resample_row(work_.map_row, taps(), patch_.width, out + c * stride_);
    }
  }

  PixelTaps taps() const { return {work_.low, work_.high, work_.low_weight, work_.high_weight}; }

  const Kernels& kernels_ = kernels();
  const Span<const Tensor> inputs_;
  const bool nhwc_;
  const std::int64_t person_;
  const Patch patch_;
  const Workspace& work_;
  const Map coarse_, fine_;
  const std::int32_t map_size_;
  const std::int64_t stride_;
  std::int32_t row_in_place_[2] = {-1, -1};
};

struct PatchSize {
  std::int64_t height, width;
};

PatchSize patch_size(const float* box) { return {patch_side(box[1], box[3]), patch_side(box[0], box[2])}; }

// The number of pixels of all patches; refuses boxes that are no boxes before
// anybody allocates memory for them.
std::int64_t count_pixels(const Tensor& boxes) {
  std::int64_t pixels = 0;
  for (std::int64_t person = 0; person < boxes.shape[0]; ++person) {
    const PatchSize size = patch_size(boxes.as<const float>() + 4 * person);
    const std::string box = "box " + std::to_string(person) + " of boxes_original ";
    check(size.height > 0 && size.width > 0, kName, box + "is not finite or far larger than a picture");
    check(size.width <= kMaxChartPixels / size.height, kName, box + "is far larger than a picture");
    pixels += size.height * size.width;
    check(pixels <= kMaxChartPixels, kName, "boxes_original have more than 2^31 pixels in total");
  }
  return pixels;
}

// Cuts the patches into bands of about equally many pixels, and returns how
// many; at most kTasks and one per person.
constexpr std::int64_t kTasks = 32;
constexpr std::int64_t kMinPixels = 8192;  // fewer are not worth a thread

std::int64_t cut_bands(Span<const PatchSize> sizes, std::int64_t pixels, Band* bands) {
  const std::int64_t target = std::max(kMinPixels, pixels / kTasks + 1);
  std::int64_t count = 0;
  for (std::size_t person = 0; person < sizes.size(); ++person) {
    const std::int64_t pieces = std::min(sizes[person].height, sizes[person].height * sizes[person].width / target + 1);
    for (std::int64_t i = 0; i < pieces; ++i)
      bands[count++] = {static_cast<std::int64_t>(person), i * sizes[person].height / pieces,
                        (i + 1) * sizes[person].height / pieces};
  }
  return count;
}

}  // namespace

void ChartResult::validate() const {
  check(layout == "NCHW" || layout == "NHWC", kName, "layout must be NCHW or NHWC, not " + layout);
}

void ChartResult::infer(Span<const Tensor> inputs, Span<Tensor> outputs) const {
  check(inputs.size() >= kFirstConfidence, kName,
        std::to_string(inputs.size()) +
            " inputs; it takes coarse_segm, fine_segm, u, v, boxes_original "
            "and confidences");
  const bool nhwc = layout == "NHWC";
  const auto maps = [nhwc](std::int64_t people, std::int64_t channels, std::int64_t size) {
    return nhwc ? Shape{people, size, size, channels} : Shape{people, channels, size, size};
  };
  check_tensor(inputs[kFine], DataType::kFloat32, maps(kUnknown, kUnknown, kUnknown), kName, "fine_segm");
  const Shape& fine = inputs[kFine].shape;
  const std::int64_t people = fine[0], parts = fine[nhwc ? 3 : 1], size = fine[2];
  check(parts == kUnknown || (parts >= 1 && parts <= 256), kName, "fine_segm must have from 1 to 256 channels");
  check(size != 0, kName, "fine_segm has no pixels");
  check(size == kUnknown || parts == kUnknown || (size < 1 << 15 && parts * size * size <= kMaxChartPixels), kName,
        "fine_segm has more pixels than 32 bits can count");
  check_tensor(inputs[kFine], DataType::kFloat32, maps(people, parts, size), kName, "fine_segm");
  check_tensor(inputs[kCoarse], DataType::kFloat32, maps(people, kUnknown, size), kName, "coarse_segm");
  check(inputs[kCoarse].shape[nhwc ? 3 : 1] != 0, kName, "coarse_segm must have at least 1 channel");
  check_tensor(inputs[kU], DataType::kFloat32, maps(people, parts, size), kName, "u");
  check_tensor(inputs[kV], DataType::kFloat32, maps(people, parts, size), kName, "v");
  check_tensor(inputs[kBoxes], DataType::kFloat32, {people, 4}, kName, "boxes_original");
  for (std::size_t i = kFirstConfidence; i < inputs.size(); ++i) {
    const std::string input = "confidence_" + std::to_string(i - kFirstConfidence);
    const bool shared = inputs[i].shape.rank() == 4 && inputs[i].shape[nhwc ? 3 : 1] == 1;
    check_tensor(inputs[i], DataType::kFloat32, maps(people, shared ? 1 : parts, size), kName, input.c_str());
  }

  const std::int64_t confidences = static_cast<std::int64_t>(inputs.size() - kFirstConfidence);
  const bool sized = people == 0 || (inputs[kBoxes].data && inputs[kBoxes].shape.known());
  const std::int64_t pixels = sized ? count_pixels(inputs[kBoxes]) : kUnknown;
  outputs[0] = {DataType::kUint8, {pixels}};
  outputs[1] = {DataType::kFloat32, {sized ? 2 * pixels : kUnknown}};
  outputs[2] = {DataType::kInt64, {people == kUnknown ? kUnknown : people + 1}};
  outputs[3] = {DataType::kFloat32, {sized || confidences == 0 ? confidences * pixels : kUnknown}};
}

void ChartResult::run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const {
  const bool nhwc = layout == "NHWC";
  const std::int64_t people = inputs[kBoxes].shape[0];
  std::int64_t* offsets = outputs[2].as<std::int64_t>();
  offsets[0] = 0;
  const Span<PatchSize> sizes(scratch.take<PatchSize>(static_cast<std::size_t>(people)),
                              static_cast<std::size_t>(people));
  std::int64_t widest = 0;
  for (std::int64_t person = 0; person < people; ++person) {
    PatchSize& size = sizes[static_cast<std::size_t>(person)];
    size = patch_size(inputs[kBoxes].as<const float>() + 4 * person);
    offsets[person + 1] = offsets[person] + size.height * size.width;
    widest = std::max(widest, size.width);
  }

  Band* bands = scratch.take<Band>(static_cast<std::size_t>(people + kTasks));
  const std::int64_t count = cut_bands({sizes.begin(), sizes.size()}, offsets[people], bands);
  const std::int64_t channels = inputs[kCoarse].shape[nhwc ? 3 : 1] + inputs[kFine].shape[nhwc ? 3 : 1];
  const std::int64_t confidences = static_cast<std::int64_t>(inputs.size() - kFirstConfidence);
  const Span<Workspace> work(scratch.take<Workspace>(static_cast<std::size_t>(count)), static_cast<std::size_t>(count));
  for (Workspace& w : work) w = take_workspace(channels, inputs[kFine].shape[2], widest, scratch);

  scratch.parallel(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Band& band = bands[i];
      const PatchSize& size = sizes[static_cast<std::size_t>(band.person)];
      const std::int64_t offset = offsets[band.person];
      const Patch patch{size.height, size.width, outputs[0].as<std::uint8_t>() + offset,
                        outputs[1].as<float>() + 2 * offset, outputs[3].as<float>() + confidences * offset};
      // Nobody else has band `begin`, nor its working memory.
      PatchPainter(inputs, nhwc, band.person, patch, work[static_cast<std::size_t>(begin)]).paint(band.begin, band.end);
    }
  });
}

}  // namespace densepose
