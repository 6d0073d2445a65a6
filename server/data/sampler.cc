#include "server/data/sampler.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace laplaced {
namespace {

// Uniform in [0, bound), by rejection, so that no value is favoured.
uint64_t Below(uint64_t bound, std::mt19937_64& random) {
  const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
  uint64_t draw = random();
  while (draw >= limit) draw = random();
  return draw % bound;
}

}  // namespace

std::vector<at::Tensor> DisjointBatches(int64_t n, const std::vector<int64_t>& sizes,
                                        uint64_t seed) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::mt19937_64 random(seed);
  std::vector<at::Tensor> batches;
  int64_t next = 0;
  for (const int64_t size : sizes) {
    const int64_t begin = next;
    for (; next < begin + size; ++next) {
      std::swap(order[next], order[next + Below(n - next, random)]);
    }
    std::sort(order.begin() + begin, order.begin() + next);
    at::Tensor batch = at::empty({size}, at::kLong);
    std::copy(order.begin() + begin, order.begin() + next, batch.data_ptr<int64_t>());
    batches.push_back(batch);
  }
  return batches;
}

}  // namespace laplaced
