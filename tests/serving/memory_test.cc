// Memory of the served model over requests of many sizes.
#include <gtest/gtest.h>
#include <malloc.h>

#include <vector>

#include "tests/serving/served_network.h"

namespace laplaced {
namespace {

// Memory in use after every batch size once, with what is free handed back.
int64_t AfterAllSizes(const TorchServedModel& served, const at::Tensor& inputs) {
  for (int64_t batch = 1; batch <= inputs.size(0); ++batch) {
    std::vector<int64_t> shape = inputs.sizes().vec();
    shape[0] = batch;
    const ArrayView view{DType::kFloat32, shape, inputs.data_ptr()};
    ComputeContext context;
    EXPECT_TRUE(served.Validate(view, PredictOptions{}).ok());
    EXPECT_TRUE(served.Predict(view, {}, context).ok());
  }
  malloc_trim(0);
  return test_support::StatusBytes("VmRSS:");
}

TEST(MemoryTest, DoesNotGrowOverVariedBatchSizes) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer keeps what was freed";
#endif
  const auto served = test_support::Serve(
      reference::MakeNetwork(
          reference::MakeModule({{"w1", {8, 3, 3, 3}}, {"w2", {16, 8, 3, 3}}, {"w3", {10, 16}}},
                                "  h = torch.relu(torch.conv2d(x, self.w1, None, [1, 1], [1, 1]))\n"
                                "  h = torch.relu(torch.conv2d(h, self.w2, None, [2, 2], [1, 1]))\n"
                                "  return torch.linear(h.mean([2, 3]), self.w3)\n",
                                at::kFloat),
          {3, 16, 16}, 10),
      {"w3"}, 20);
  ASSERT_TRUE(served->WarmUp().ok());
  const at::Tensor inputs = reference::RandomNormal({70, 3, 16, 16}, 3, at::kFloat);
  AfterAllSizes(*served, inputs);
  const int64_t before = AfterAllSizes(*served, inputs);
  if (before < 0) GTEST_SKIP() << "memory cannot be measured here";
  for (int round = 0; round < 5; ++round) AfterAllSizes(*served, inputs);
  // One tensor a request that is not given back would be 350 of them.
  EXPECT_LT(AfterAllSizes(*served, inputs) - before, 2 << 20);
}

}  // namespace
}  // namespace laplaced
