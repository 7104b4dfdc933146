#define DENSEPOSE_ISA avx2
#include "kernels_generic.inc"
