// A patch is made row by row. The two rows of the maps that an output row lies between are brought into order, whatever
// the layout, and stay until the patch has moved beyond them. Where several channels may have the largest logit, these
// are resampled to the patch's width once; what is left for a pixel is one weighted sum for each of them. u, v and
// confidences are sampled afterwards, where they lie, in the label's own channel only.
#include <algorithm>
#include <cstring>

#include "kernels/isa.h"
#include "ops/chart_maps.h"

namespace densepose {
namespace {

constexpr const char* kName = ChartResult::kName;
constexpr std::int64_t kMinPixels = 8192;  // fewer are not worth a thread
std::int64_t round_up(std::int64_t x, std::int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// A map that is sampled in the label's channel only.
struct SampledMap {
  Map map;
  RowPair rows;
  Samples samples;
};

// A band's working memory. Rows are `stride` floats apart; the two resampled rows hold all coarse and fine channels.
struct Workspace {
  float* map_rows[2];              // a row of cells: [coarse + fine channels, block, map stride]
  float *low_row, *high_row;       // resampled: [coarse + fine channels, stride]
  std::int32_t *low, *high;        // the map's pixels that an output pixel lies between
  std::int32_t *low_at, *high_at;  // where in a row of u, v or a confidence these are
  float *low_weight, *high_weight;
  std::uint8_t *labels, *ones;
  Span<SampledMap> sampled{nullptr, 0};                // u, v, confidences
  std::uint32_t* column_contenders;                    // of a row of the maps
  std::uint32_t *coarse_contenders, *fine_contenders;  // of a row of the patch
};

// From one row of a map to the next; the last pixel comes twice.
std::int64_t map_stride(std::int64_t map_size) { return round_up(map_size + 1, kPixelPadding); }

Workspace take_workspace(std::int64_t channels, const Maps& maps, std::int64_t width, Scratch& scratch) {
  const auto pixels = static_cast<std::size_t>(round_up(width, kPixelPadding));
  const auto rows = static_cast<std::size_t>(channels) * pixels;
  Workspace w;
  const std::int64_t map_rows = channels * maps.block() * map_stride(maps.size());
  for (float*& row : w.map_rows) row = scratch.take<float>(static_cast<std::size_t>(map_rows + kMapPadding));
  for (float** row : {&w.low_row, &w.high_row}) *row = scratch.take<float>(rows);
  for (std::int32_t** taps : {&w.low, &w.high, &w.low_at, &w.high_at}) *taps = scratch.take<std::int32_t>(pixels);
  for (float** weights : {&w.low_weight, &w.high_weight}) *weights = scratch.take<float>(pixels);
  for (std::uint8_t** labels : {&w.labels, &w.ones}) *labels = scratch.take<std::uint8_t>(pixels);
  w.column_contenders = scratch.take<std::uint32_t>(static_cast<std::size_t>(map_stride(maps.size())));
  for (std::uint32_t** blocks : {&w.coarse_contenders, &w.fine_contenders})
    *blocks = scratch.take<std::uint32_t>(pixels / kContenderBlock);
  w.sampled = {scratch.take<SampledMap>(maps.count() - kU), maps.count() - kU};
  for (SampledMap& m : w.sampled)
    m.samples = {scratch.take<float>(pixels), scratch.take<float>(pixels), scratch.take<std::uint8_t>(pixels)};
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
  PatchPainter(const Maps& maps, std::int64_t person, const Patch& patch, const Workspace& work)
      : maps_(maps),
        patch_(patch),
        work_(work),
        coarse_(maps.map(kCoarse, person)),
        fine_(maps.map(kFine, person)),
        map_size_(static_cast<std::int32_t>(maps.size())),
        map_stride_(map_stride(map_size_)),
        stride_(round_up(patch.width, kPixelPadding)) {
    for (std::int64_t x = 0; x < stride_; ++x) {
      const MapTap tap = map_tap(std::min(x, patch_.width - 1), patch_.width, map_size_);
      work_.low[x] = tap.low;
      work_.high[x] = tap.high;
      work_.low_weight[x] = tap.low_weight;
      work_.high_weight[x] = tap.high_weight;
    }
    std::memset(work_.ones, 1, static_cast<std::size_t>(stride_));
    for (std::size_t i = 0; i < work_.sampled.size(); ++i) work_.sampled[i].map = maps.map(kU + i, person);
  }

  void paint(std::int64_t begin, std::int64_t end) {
    for (std::int64_t y = begin; y < end; ++y) {
      const MapTap tap = map_tap(y, patch_.height, map_size_);
      moved_ = y == begin || map_tap(y - 1, patch_.height, map_size_).low != tap.low;
      paint_labels(tap, patch_.labels + y * patch_.width);
      for (std::size_t i = 0; i < work_.sampled.size(); ++i) {
        const auto plane = static_cast<std::int64_t>(i);
        float* const out = plane < 2 ? patch_.uv + plane * patch_.height * patch_.width
                                     : patch_.confidences + (plane - 2) * patch_.height * patch_.width;
        paint_channel(work_.sampled[i], tap, out + y * patch_.width);
      }
    }
  }

 private:
  void paint_labels(const MapTap& y, std::uint8_t* out) {
    if (moved_) {
      const float *low = map_rows(y.low), *high = map_rows(y.high);
      resample(low, high, 0, coarse_.channels, work_.coarse_contenders);
      resample(low, high, coarse_.channels, fine_.channels, work_.fine_contenders);
    }
    const RowPair coarse{work_.low_row, work_.high_row, y.low_weight, y.high_weight, coarse_.channels, stride_};
    RowPair fine = coarse;
    fine.low += coarse_.channels * stride_;
    fine.high += coarse_.channels * stride_;
    fine.channels = fine_.channels;
    kernels_.label_row(coarse, fine, work_.coarse_contenders, work_.fine_contenders, patch_.width, work_.labels);
    std::memcpy(out, work_.labels, static_cast<std::size_t>(patch_.width));
  }

  // The label's channel of a map; of a map with one channel for all parts, that one, on background too.
  void paint_channel(SampledMap& sampled, const MapTap& y, float* out) {
    const bool per_part = sampled.map.channels == fine_.channels;
    if (moved_) {
      sampled.rows = sampled.map.rows(y);
      if (!per_part) sampled.rows.channel_stride = 0;
    }
    sampled.rows.low_weight = y.low_weight;
    sampled.rows.high_weight = y.high_weight;
    locate_taps(sampled.map);
    const PixelTaps taps{work_.low_at, work_.high_at, work_.low_weight, work_.high_weight};
    kernels_.sample_row(sampled.rows, taps, per_part ? work_.labels : work_.ones, patch_.width, moved_, sampled.samples,
                        out);
  }

  // Mostly the same for all maps, so it is done once.
  void locate_taps(const Map& map) {
    if (located_ == map.column_stride) return;
    located_ = map.column_stride;
    for (std::int64_t x = 0; x < stride_; ++x) {
      work_.low_at[x] = static_cast<std::int32_t>(map.column(work_.low[x]));
      work_.high_at[x] = static_cast<std::int32_t>(map.column(work_.high[x]));
    }
  }

  // Contenders among `channels` channels from `first` on, and what label_row() needs of them.
  void resample(const float* low, const float* high, std::int64_t first, std::int64_t channels,
                std::uint32_t* contenders) {
    const std::int64_t channel_stride = maps_.block() * map_stride_;
    const RowPair rows{low + first * channel_stride, high + first * channel_stride, 0, 0, channels, channel_stride};
    float *const low_row = work_.low_row + first * stride_, *const high_row = work_.high_row + first * stride_;
    kernels_.find_contenders(rows, map_size_, low_row, work_.column_contenders);
    for (std::int64_t x = 0; x < stride_; x += kContenderBlock) {
      std::uint32_t any = 0;
      for (std::int32_t i = work_.low[x]; i <= work_.low[x + kContenderBlock - 1]; ++i)
        any |= work_.column_contenders[i];
      contenders[x / kContenderBlock] = any;
    }
    const PixelTaps taps{work_.low, work_.high, work_.low_weight, work_.high_weight};
    kernels_.resample_rows(rows, taps, contenders, stride_, low_row, high_row);
  }

  // A row of the coarse and fine maps, channel after channel. Neighbouring rows of cells have different places, so both
  // stay.
  const float* map_rows(std::int64_t y) {
    const std::int64_t block = maps_.block(), row = y / block, channels = coarse_.channels + fine_.channels;
    float* const out = work_.map_rows[row & 1];
    if (cells_in_place_[row & 1] != row) {
      cells_in_place_[row & 1] = row;
      if (maps_.packed()) {  // they are adjacent
        Map both = coarse_;
        both.channels = channels;
        read_cells(both, row, out);
      } else {
        read_cells(coarse_, row, out);
        read_cells(fine_, row, out + coarse_.channels * map_stride_);
      }
      float* const last = out + map_size_ - 1;
      for (std::int64_t i = 0; i < channels * block; ++i) last[i * map_stride_ + 1] = last[i * map_stride_];
    }
    return out + y % block * map_stride_;
  }

  void read_cells(const Map& map, std::int64_t row, float* out) {
    const float* const source = map.data + row * map.row_stride;
    const std::int64_t cells = map_size_ / map.block, rows = map.channels * map.block;
    if (map.block_column_stride == 1) {  // adjacent channels
      kernels_.transpose({source, map.column_stride, cells, rows, map.block}, out, map_stride_);
      return;
    }
    for (std::int64_t i = 0; i < rows; ++i)
      interleave(source + i * map.block_row_stride, map.block_column_stride, map.block, out + i * map_stride_);
  }

  // A row of a channel, whose pixels come from `block` planes in turn.
  void interleave(const float* source, std::int64_t plane, std::int64_t block, float* out) {
    const std::int64_t cells = map_size_ / block;
    if (block == 1) {
      std::memcpy(out, source, static_cast<std::size_t>(cells) * sizeof(float));
    } else if (block == 2) {
      const float* const odd = source + plane;
      for (std::int64_t i = 0; i < cells; ++i) {
        out[2 * i] = source[i];
        out[2 * i + 1] = odd[i];
      }
    } else {
      for (std::int64_t x = 0; x < map_size_; ++x) out[x] = source[x / block + x % block * plane];
    }
  }

  const Kernels& kernels_ = kernels();
  const Maps& maps_;
  const Patch patch_;
  const Workspace& work_;
  const Map coarse_, fine_;
  const std::int32_t map_size_;
  const std::int64_t map_stride_, stride_;
  bool moved_ = true;  // to other rows of the maps than those of the patch's last row
  std::int64_t located_ = -1;
  std::int64_t cells_in_place_[2] = {-1, -1};
};

}  // namespace

void ChartResult::validate() const {
  check_map_attributes(layout, block, !channels.empty(), kName);
  check(channels.empty() || channels.size() >= kFirstConfidence, kName,
        "channels lists coarse_segm, fine_segm, u, v and confidences, or nothing");
  for (std::size_t map = 0; map < channels.size(); ++map) {
    check(channels[map] >= 1 && channels[map] <= 256, kName, "channels must be from 1 to 256");
    const bool shared = map >= kFirstConfidence && channels[map] == 1;
    check(map == kCoarse || shared || channels[map] == channels[kFine], kName,
          "u and v must have as many channels as fine_segm, and confidences as many or 1");
  }
}

void ChartResult::infer(Span<const Tensor> inputs, Span<Tensor> outputs) const {
  const bool nhwc = layout == "NHWC";
  const auto shape = [nhwc](std::int64_t people, std::int64_t depth, std::int64_t size) {
    return map_shape(nhwc, people, depth, size);
  };
  if (channels.empty()) {
    check(inputs.size() >= kFirstConfidence + 1, kName,
          std::to_string(inputs.size()) +
              " inputs; it takes coarse_segm, fine_segm, u, v, boxes_original and confidences");
    check_tensor(inputs[kFine], DataType::kFloat32, shape(kUnknown, kUnknown, kUnknown), kName, "fine_segm");
    const Shape& fine = inputs[kFine].shape;
    const std::int64_t people = fine[0], parts = fine[nhwc ? 3 : 1], size = fine[2];
    check(parts == kUnknown || (parts >= 1 && parts <= 256), kName, "fine_segm must have from 1 to 256 channels");
    check_map_size(parts, size, "fine_segm", kName);
    check_tensor(inputs[kFine], DataType::kFloat32, shape(people, parts, size), kName, "fine_segm");
    check_tensor(inputs[kCoarse], DataType::kFloat32, shape(people, kUnknown, size), kName, "coarse_segm");
    check(inputs[kCoarse].shape[nhwc ? 3 : 1] != 0, kName, "coarse_segm must have at least 1 channel");
    check_tensor(inputs[kU], DataType::kFloat32, shape(people, parts, size), kName, "u");
    check_tensor(inputs[kV], DataType::kFloat32, shape(people, parts, size), kName, "v");
    for (std::size_t i = kFirstConfidence + 1; i < inputs.size(); ++i) {
      const std::string input = "confidence_" + std::to_string(i - kFirstConfidence - 1);
      const bool shared = inputs[i].shape.rank() == 4 && inputs[i].shape[nhwc ? 3 : 1] == 1;
      check_tensor(inputs[i], DataType::kFloat32, shape(people, shared ? 1 : parts, size), kName, input.c_str());
    }
  } else {
    check(inputs.size() == 2, kName, std::to_string(inputs.size()) + " inputs; it takes maps and boxes_original");
    std::int64_t depth = 0;
    for (std::int64_t c : channels) depth += c * block * block;
    check_tensor(inputs[0], DataType::kFloat32, shape(kUnknown, depth, kUnknown), kName, "maps");
    const std::int64_t size = inputs[0].shape[2];
    check_map_size(depth, size, "maps", kName);
    check_tensor(inputs[0], DataType::kFloat32, shape(inputs[0].shape[0], depth, size), kName, "maps");
  }

  const Maps maps(*this, inputs);
  const std::int64_t people = inputs[0].shape[0];
  check_tensor(maps.boxes(), DataType::kFloat32, {people, 4}, kName, "boxes_original");
  const bool sized = people == 0 || (maps.boxes().data && maps.boxes().shape.known());
  const std::int64_t pixels = sized ? count_pixels(maps.boxes(), kName) : kUnknown;
  outputs[0] = {DataType::kUint8, {pixels}};
  outputs[1] = {DataType::kFloat32, {sized ? 2 * pixels : kUnknown}};
  outputs[2] = {DataType::kInt64, {people == kUnknown ? kUnknown : people + 1}};
  outputs[3] = {DataType::kFloat32, {sized || maps.confidences() == 0 ? maps.confidences() * pixels : kUnknown}};
}

void ChartResult::run(Span<const Tensor> inputs, Span<Tensor> outputs, Scratch& scratch) const {
  const Maps maps(*this, inputs);
  const std::int64_t people = maps.boxes().shape[0];
  std::int64_t* offsets = outputs[2].as<std::int64_t>();
  const Patches patches = lay_out_patches(maps.boxes(), offsets, scratch);
  const Span<PatchSize>& sizes = patches.sizes;

  Band* bands = scratch.take<Band>(static_cast<std::size_t>(people + kMaxBands));
  const std::int64_t count = cut_bands({sizes.begin(), sizes.size()}, offsets[people], kMinPixels, bands);
  const std::int64_t logits = maps.channels(kCoarse) + maps.channels(kFine);
  const Span<Workspace> work(scratch.take<Workspace>(static_cast<std::size_t>(count)), static_cast<std::size_t>(count));
  for (Workspace& w : work) w = take_workspace(logits, maps, patches.widest, scratch);

  scratch.parallel(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin, next; i < end; i = next) {
      Band band = bands[i];
      for (next = i + 1; next < end && bands[next].person == band.person; ++next) band.end = bands[next].end;
      const PatchSize& size = sizes[static_cast<std::size_t>(band.person)];
      const std::int64_t offset = offsets[band.person];
      const Patch patch{size.height, size.width, outputs[0].as<std::uint8_t>() + offset,
                        outputs[1].as<float>() + 2 * offset, outputs[3].as<float>() + maps.confidences() * offset};
      // Nobody else has band `begin`, nor its working memory.
      PatchPainter(maps, band.person, patch, work[static_cast<std::size_t>(begin)]).paint(band.begin, band.end);
    }
  });
}

}  // namespace densepose
