// The hot loops, compiled once per instruction set from kernels_generic.inc and
// chosen at run time (isa.h).
//
// This header is all that those translation units share with the rest of the
// program. They must stay free of inline functions and templates with external
// linkage: the linker keeps one copy of such a function, and it could keep the
// AVX-512 one for a processor that has none.
#pragma once

#include <cstddef>
#include <cstdint>

namespace densepose {

// For each bin of one axis of a RoI, which source pixels it reads: bin p averages index[t], weighted by weight[t], for
// the taps t in [first[p], first[p + 1]).
struct AxisTaps {
  std::int32_t* first;
  std::int32_t* index;
  float* weight;
};

// The same with the bins' first taps adjacent, then their second ones, and so on: tap t of bin p stands at t * stride +
// p, and each bin has `depth` taps. Those that a bin does not need have index -1. `stride` is a multiple of
// kBinPadding.
struct InterleavedTaps {
  std::int32_t* index;
  float* weight;
  std::int32_t depth, stride;
};
inline constexpr std::int64_t kBinPadding = 16;
inline constexpr std::int64_t kRowPadding = 48;  // what pool_planes() needs of `row` beyond the window's columns

// Some rows of a picture or a map, and how much of each goes into their sum.
struct RowTaps {
  const std::int32_t* index;
  const float* weight;
  std::int32_t count;
};

// Scores as rows of adjacent ones, `stride` apart: planes of a planar tensor, pixels of one with adjacent channels.
struct ScoreRows {
  const float* data;
  std::int64_t rows, width, stride;
};

// Boxes as one array per coordinate.
struct BoxColumns {
  const float *x0, *y0, *x1, *y1, *area;
  std::int64_t count;
};
inline constexpr std::int64_t kBoxBlock = 64;  // boxes that find_overlap() compares with another at a time

// Horizontal bilinear taps of every pixel of an output row: where in a row of the map its two neighbors are.
struct PixelTaps {
  const std::int32_t *low, *high;
  const float *low_weight, *high_weight;
};
// Rows of pixels are readable and writable up to a multiple of kPixelPadding, and so are their taps, in ascending
// order. The last row of a map is readable up to kMapPadding beyond its end.
inline constexpr std::int64_t kPixelPadding = 16;
inline constexpr std::int64_t kMapPadding = 48;
// Which channels may have the largest value is told for this many pixels together: bit c % 32 stands for channel c.
inline constexpr std::int64_t kContenderBlock = 16;

// A matrix of units, each `unit` adjacent floats; its rows are `stride` floats apart.
struct Units {
  const float* data;
  std::int64_t stride, rows, columns, unit;
};

// The two rows of a map that an output row lies between, their weights, and where their channels are.
struct RowPair {
  const float *low, *high;
  float low_weight, high_weight;
  std::int64_t channels, channel_stride;
};

// What sample_row() has found in a pair of rows: a pixel's value in each, between
// its neighbors, in the channel that the label names.
struct Samples {
  float *low, *high;
  std::uint8_t* labels;
};

// The window of a planar level that a RoI reads, and where its bins go.
struct Planes {
  const void* source;  // the window's first column
  std::int64_t row_stride, plane_stride;
  std::int64_t channels, columns;
  std::int64_t bins, output_stride;
};

// How one axis of a picture is resampled: sample i is the weighted sum of `taps` neighbors, of which the first is
// first[i]. Windows at the borders are shorter; they are filled up with zero weights, on the side where there still is a
// picture. Weights are fixed point, with kWeightBits bits after the point.
struct ResampledAxis {
  std::int64_t samples;
  std::int64_t taps;
  const std::int32_t* first;    // [samples], ascending
  const std::int32_t* weights;  // [samples][taps]
};
inline constexpr int kWeightBits = 32 - 8 - 2;
// The general horizontal pass takes this many rows at a time, and for it a pixel is four bytes: R, G, B and one that
// means nothing. It moves as one integer, vectors run down a column of all rows, and one weight serves it.
inline constexpr std::int64_t kColumnRows = 16;
inline constexpr std::int64_t kColumnBytes = kColumnRows * 4;

// Up to 16 neighboring bytes of a resampled row, four taps of each: lane l is what the weights of taps 4 l .. 4 l + 3
// give for the bytes at those indices, which count from the block's first byte. A weight is three digits to the base
// 256, each from -128 to 127, the lowest first: the products' sum is exact.
struct RowBlock {
  static constexpr std::int64_t kTaps = 4;
  alignas(64) std::uint8_t index[64];
  std::int8_t digits[3][64];
};

struct RowBlocks {
  const RowBlock* blocks;     // [count], `groups` adjacent ones for the taps of the same output
  const std::int32_t* first;  // [count]; 64 bytes are readable from there
  std::int64_t count, groups;
  std::int64_t step;  // bytes of output from one group to the next
};

// Two rows of maps whose channels are adjacent, `channels` of them, and their weights.
struct PixelRows {
  const float *low, *high;
  float low_weight, high_weight;
  std::int64_t channels;
};

// A mesh's sheets of vertices and their bounding boxes; ops/vertex_tree.h says how they are laid out.
struct VertexSheets {
  const float* vertices;
  const std::int32_t* numbers;
  const float *blocks, *groups;
  std::int64_t count;
  float reach;  // times the sum of a point's coordinates: more than the rounding of any product
};

// Points in the space of the embeddings, `stride` floats apart.
struct Points {
  const float* data;
  std::int64_t stride, dimensions, count;
};

// Working memory of the search for closest vertices.
struct SearchRoom {
  static constexpr std::int64_t kPoints = 4;
  float *e, *turned;      // [dimensions, kPoints]
  std::int64_t* corners;  // [dimensions, kPoints]
  std::int32_t* blocks;   // one for each point: the block where its vertex is guessed to be, afterwards where it is
};

struct Kernels {
  const char* isa;

  // The arrays below are indexed by DataType: float32, float16, uint8, int8.

  // out[i] = sum over the taps of weight * source[index * row_stride + i], for i < length.
  void (*combine_rows[4])(const void* source, std::int64_t row_stride, RowTaps taps, std::int64_t length, float* out);

  // Features with adjacent channels: out[q][c] = bias[q] + sum over the taps of bin q of weight * row[index][c].
  void (*pool_pixels[4])(const float* row, AxisTaps taps, std::int64_t bins, std::int64_t channels, const float* bias,
                         void* out);

  // Planar features, a row of bins of all channels: for each plane, combine_rows(), then out[q] = bias[q] + sum over
  // the taps of bin q of weight * row[index].
  void (*pool_planes[4])(const Planes& planes, RowTaps rows, InterleavedTaps columns, const float* bias, float* row,
                         void* out);

  // Writes the positions of the values that are not below a threshold (of NaN, too), row * scores.width + column, and
  // returns how many there are.
  std::int64_t (*find_not_below)(ScoreRows scores, float threshold, std::uint32_t* positions);

  // The first box at or after `begin` whose intersection with any of kBoxBlock candidates exceeds `bound` times their
  // union, or boxes.count. `wanted` has a bit for each candidate that is asked about, and afterwards for each that the
  // box was found for. Rounding is not that of iou(): whoever needs the exact decision leaves a margin and asks iou()
  // for what is found.
  std::int64_t (*find_overlap)(const BoxColumns& boxes, std::int64_t begin, const BoxColumns& candidates, float bound,
                               std::uint64_t* wanted);

  // The transposed matrix: unit (i, j) becomes unit (j, i) of `out`, whose rows are `stride` floats apart.
  void (*transpose)(const Units& source, float* out, std::int64_t stride);

  // The channels that may have the largest value somewhere between pixels x and x + 1 of two rows of a map, wherever
  // between the rows, for x < width. In most places one or two are so far ahead that nobody has to look at the others.
  // `most` is room for kPixelPadding floats per channel.
  void (*find_contenders)(RowPair rows, std::int64_t width, float* most, std::uint32_t* columns);

  // Resamples two rows of a map to `width` pixels, whole blocks, where a block has several contenders. Taps index the
  // rows themselves, and these go on with their last pixel. Channels are `width` floats apart in `low` and `high`.
  void (*resample_rows)(RowPair rows, PixelTaps taps, const std::uint32_t* contenders, std::int64_t width, float* low,
                        float* high);

  // labels[x] = argmax(fine) * (argmax(coarse) > 0), both of horizontally resampled rows with the same weights. Only
  // contenders are looked at.
  void (*label_row)(RowPair coarse, RowPair fine, const std::uint32_t* coarse_contenders,
                    const std::uint32_t* fine_contenders, std::int64_t width, std::uint8_t* labels);

  // Resamples, for each pixel, the channel that its label names; 0 where the
  // label is 0. The taps say where in a row a pixel is, which need not be its
  // number. Samples are those of the last call, which had the same map and rows,
  // unless `fresh`: most pixels have the label of the one above.
  void (*sample_row)(RowPair map, PixelTaps taps, const std::uint8_t* labels, std::int64_t width, bool fresh,
                     Samples samples, float* out);

  // out[c] = a pixel between columns `low` and `high` of both rows, for c < rows.channels; horizontally first.
  void (*resample_pixel)(const PixelRows& rows, std::int64_t low, std::int64_t high, float low_weight,
                         float high_weight, float* out);

  // The number of the closest vertex to each point that is wanted, and 0 for the others (closest_vertices.h says what
  // is closest).
  void (*find_closest)(const VertexSheets& sheets, const Points& points, const std::uint8_t* wanted,
                       const SearchRoom& room, std::int32_t* closest);

  // --- pictures: integers, or single float32 operations that nothing may fuse, so that every table gives the same bits

  // out[i] = sum over the taps of weights[t] * rows[t * stride + i], rounded and cut off at 255, for i < bytes.
  void (*resample_row)(const std::uint8_t* rows, std::ptrdiff_t stride, std::int64_t bytes, const std::int32_t* weights,
                       std::int64_t taps, std::uint8_t* out);

  // columns: uint8 [width][kColumnRows][4] -> out: uint8 [axis.samples][kColumnRows][4]
  void (*resample_columns)(const std::uint8_t* columns, const ResampledAxis& axis, std::uint8_t* out);

  // The same for one row of packed RGB in one pass; null where the processor has no byte permutations. Sums are rounded
  // and cut off at 255. Every block writes 16 bytes, of which the next overwrites those beyond `step`.
  void (*convolve_blocks)(const std::uint8_t* row, const RowBlocks& blocks, std::uint8_t* out);

  // A row of packed RGB minus `mean`: to three planes, `plane` floats apart, or packed.
  void (*normalize_planar)(const std::uint8_t* in, std::int64_t width, const float* mean, std::int64_t plane,
                           float* out);
  void (*normalize_interleaved)(const std::uint8_t* in, std::int64_t width, const float* mean, float* out);

  // out[i] = table[i % 3][in[i]], for i < bytes, a multiple of 3.
  void (*look_up_pixels)(const std::uint8_t* in, std::int64_t bytes, const std::uint8_t table[3][256],
                         std::uint8_t* out);
};

namespace baseline {
extern const Kernels kTable;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kTable;
}
namespace avx512 {
extern const Kernels kTable;
}
namespace avx512vbmi {
extern const Kernels kTable;
}
#endif

}  // namespace densepose
