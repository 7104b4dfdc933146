#define DENSEPOSE_ISA avx2
#include "kernels/kernels_generic.inc"
