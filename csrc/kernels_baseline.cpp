#define DENSEPOSE_ISA baseline
#include "kernels_generic.inc"
