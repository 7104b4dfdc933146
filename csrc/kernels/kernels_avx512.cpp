#define DENSEPOSE_ISA avx512
#include "kernels/kernels_generic.inc"
