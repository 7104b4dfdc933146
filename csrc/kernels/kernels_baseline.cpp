#define DENSEPOSE_ISA baseline
#include "kernels/kernels_generic.inc"
