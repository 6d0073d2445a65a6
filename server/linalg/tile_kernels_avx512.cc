#define LAPLACED_KERNELS avx512_kernels
#define LAPLACED_VECTOR_BYTES 64
#define LAPLACED_TILE 24
#include "server/linalg/tile_kernels_body.h"
