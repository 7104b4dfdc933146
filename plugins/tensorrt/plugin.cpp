#include <NvInfer.h>
