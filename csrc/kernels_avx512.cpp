#define DENSEPOSE_ISA avx512
#include "kernels_generic.inc"
