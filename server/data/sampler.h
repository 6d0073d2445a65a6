// Disjoint random batches: which examples choose directions and which measure curvature.
//
// The order is a Fisher-Yates shuffle driven by std::mt19937_64, whose output the C++ standard
// fixes: the same seed gives the same batches on every machine. Thread-safe (a pure function).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace laplaced {

// `sizes.size()` batches of distinct examples out of [0, n), no example in two of them; each an
// int64 tensor, sorted. REQUIRES: the sizes are not negative and sum to at most n.
std::vector<at::Tensor> DisjointBatches(int64_t n, const std::vector<int64_t>& sizes,
                                        uint64_t seed);

}  // namespace laplaced
