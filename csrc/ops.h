// The only list of the custom ops. Adapters walk this tuple: an op that is missing here exists nowhere.
#pragma once

#include <tuple>

#include "ops/box_detections.h"
#include "ops/chart_result.h"
#include "ops/closest_vertices.h"
#include "ops/generate_proposals.h"
#include "ops/multilevel_roi_align.h"

namespace densepose {

using Ops = std::tuple<GenerateProposals, MultilevelRoiAlign, BoxDetections, ChartResult, ClosestVertices>;

}  // namespace densepose
