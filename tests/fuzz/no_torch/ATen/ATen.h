// In place of LibTorch's header where fuzzers are built: the manifest names a likelihood, whose
// header names tensors, and neither does more than that.
#pragma once

#include <cstdint>

namespace at {
class Tensor;
}
