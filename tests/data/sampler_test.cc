#include "server/data/sampler.h"

#include <gtest/gtest.h>

#include <set>

namespace laplaced {
namespace {

TEST(DisjointBatchesTest, BatchesAreDisjointSortedAndOfTheRightSize) {
  const auto batches = DisjointBatches(50, {10, 0, 25}, 3);
  std::set<int64_t> seen;
  ASSERT_EQ(batches.size(), 3u);
  EXPECT_EQ(batches[0].size(0), 10);
  EXPECT_EQ(batches[1].size(0), 0);
  EXPECT_EQ(batches[2].size(0), 25);
  for (const auto& batch : batches) {
    for (int64_t i = 0; i < batch.size(0); ++i) {
      const int64_t row = batch[i].item<int64_t>();
      EXPECT_GE(row, 0);
      EXPECT_LT(row, 50);
      EXPECT_TRUE(seen.insert(row).second) << row;
      if (i > 0) {
        EXPECT_GT(row, batch[i - 1].item<int64_t>());
      }
    }
  }
}

TEST(DisjointBatchesTest, SeedsDecide) {
  EXPECT_TRUE(at::equal(DisjointBatches(1000, {100}, 1)[0], DisjointBatches(1000, {100}, 1)[0]));
  EXPECT_FALSE(at::equal(DisjointBatches(1000, {100}, 1)[0], DisjointBatches(1000, {100}, 2)[0]));
}

TEST(DisjointBatchesTest, TheFirstBatchDoesNotDependOnTheSecond) {
  EXPECT_TRUE(
      at::equal(DisjointBatches(1000, {100, 300}, 1)[0], DisjointBatches(1000, {100}, 1)[0]));
}

TEST(DisjointBatchesTest, EveryExampleIsEquallyLikely) {
  // 4000 draws of 5 out of 20: each expected 1000 times, standard deviation 27.
  std::vector<int> count(20);
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    const at::Tensor batch = DisjointBatches(20, {5}, seed)[0];
    for (int64_t i = 0; i < 5; ++i) ++count[batch[i].item<int64_t>()];
  }
  for (int c : count) EXPECT_NEAR(c, 1000, 5 * 27.4);
}

}  // namespace
}  // namespace laplaced
