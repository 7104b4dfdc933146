// The only list of the custom ops. Adapters walk this tuple: an op that is missing here exists nowhere.
#pragma once

#include <tuple>

#include "box_detections.h"
#include "chart_result.h"
#include "generate_proposals.h"
#include "multilevel_roi_align.h"

namespace densepose {

using Ops = std::tuple<GenerateProposals, MultilevelRoiAlign, BoxDetections, ChartResult>;

}  // namespace densepose
