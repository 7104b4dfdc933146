// Which instruction set the hot loops run in: the best that this processor has, found once. The environment variable
// DENSEPOSE_ISA=baseline|avx2|avx512|avx512vbmi asks for a lower one. Nothing else in the program looks at the processor.
#pragma once

#include "kernels/kernels.h"

namespace densepose {

const Kernels& kernels();
const char* isa_name();

}  // namespace densepose
