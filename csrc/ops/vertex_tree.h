// The vertices of a mesh in the space of their embeddings, arranged for the search of the closest one (ClosestVertices).
//
// Vertices stand in blocks of 16, blocks in groups of 16, groups in sheets of 16; a block holds vertices that are close
// to each other, and so on. Every block and every group has a bounding box, axis by axis: no vertex in it can be closer
// to a point than its best corner is. A vertex has D + 1 coordinates: its embedding V and -|V|^2 / 2; a point e has 1 as
// the last one. With these, |e - V|^2 = |e|^2 - 2 e.V: the closest vertex is the one with the largest product.
//
//   vertices   float32 [Q * 256, D + 1, 16]    blocks, one vertex a lane
//   numbers    int32   [Q * 256, 16]           of the vertices in their mesh; kNoVertex where a lane has none
//   blocks     float32 [Q * 16, 2, D + 1, 16]  of 16 blocks, one a lane: lowest and highest coordinates
//   groups     float32 [Q, 2, D + 1, 16]       of 16 groups
//
// Q sheets hold 4,096 vertices each. What is not filled has coordinates 0, and -infinity as the last.
#pragma once

#include <cstdint>
#include <vector>

namespace densepose {

inline constexpr std::int64_t kFan = 16;  // vertices in a block, blocks in a group, groups in a sheet
inline constexpr std::int64_t kSheetVertices = kFan * kFan * kFan;
inline constexpr std::int32_t kNoVertex = 0x7fffffff;

struct VertexTree {
  std::int64_t sheets, depth;  // depth: D + 1
  std::vector<float> vertices;
  std::vector<std::int32_t> numbers;
  std::vector<float> blocks, groups;
};

// embeddings: float32 [count, dimensions]. Throws std::invalid_argument where they are not finite numbers of ordinary
// size, or where there are none.
VertexTree make_vertex_tree(const float* embeddings, std::int64_t count, std::int64_t dimensions);

}  // namespace densepose
