#define DENSEPOSE_ISA avx512vbmi
#include "kernels/kernels_generic.inc"
