#define LAPLACED_KERNELS avx2_kernels
#define LAPLACED_VECTOR_BYTES 32
#define LAPLACED_TILE 12
#include "server/linalg/tile_kernels_body.h"
