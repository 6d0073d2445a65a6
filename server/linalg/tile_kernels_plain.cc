// Registers that every 64-bit processor has.
#define LAPLACED_KERNELS plain_kernels
#define LAPLACED_VECTOR_BYTES 16
#define LAPLACED_TILE 12
#include "server/linalg/tile_kernels_body.h"
