#include "server/linalg/tile_kernels.h"

namespace laplaced {

namespace plain_kernels {
extern const TileKernels<float> kFloat;
extern const TileKernels<double> kDouble;
}  // namespace plain_kernels
#ifdef __x86_64__
namespace avx2_kernels {
extern const TileKernels<float> kFloat;
extern const TileKernels<double> kDouble;
}  // namespace avx2_kernels
namespace avx512_kernels {
extern const TileKernels<float> kFloat;
extern const TileKernels<double> kDouble;
}  // namespace avx512_kernels
#endif

int64_t AvailableKernels(NamedKernels* found, int64_t most) {
  int64_t count = 0;
  const auto add = [&](const NamedKernels& kernels) {
    if (count < most) found[count++] = kernels;
  };
  add({"plain", &plain_kernels::kFloat, &plain_kernels::kDouble});
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    add({"avx2", &avx2_kernels::kFloat, &avx2_kernels::kDouble});
    if (__builtin_cpu_supports("avx512f")) {
      add({"avx512", &avx512_kernels::kFloat, &avx512_kernels::kDouble});
    }
  }
#endif
  return count;
}

namespace {

NamedKernels Fastest() {
  NamedKernels found[8];
  return found[AvailableKernels(found, 8) - 1];
}

}  // namespace

template <>
const TileKernels<float>& Kernels<float>() {
  static const TileKernels<float>* const kernels = Fastest().single;
  return *kernels;
}

template <>
const TileKernels<double>& Kernels<double>() {
  static const TileKernels<double>* const kernels = Fastest().dual;
  return *kernels;
}

}  // namespace laplaced
