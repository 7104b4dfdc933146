// OpenVINO's threads.
#pragma once

#include <cstdint>

namespace densepose {

// See Parallel::run() in scratch.h. By the threads of the TBB arena that the caller is in.
void run_on_openvino_threads(std::int64_t count, std::int64_t grain, const void* body,
                             void (*invoke)(const void* body, std::int64_t begin, std::int64_t end));

}  // namespace densepose
