// Jacobians of some parameters only.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "server/curvature/jacobian_products.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

class Collect : public JacobianSink {
 public:
  void Add(size_t parameter, int64_t begin, const at::Tensor& jacobian) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    pieces[parameter][begin] = jacobian.clone();
  }
  std::map<size_t, std::map<int64_t, at::Tensor>> pieces;

 private:
  std::mutex mutex_;
};

TEST(JacobianParametersTest, OnlyWantedParametersComeAndTheyAreTheirColumns) {
  // The third parameter is used by an operation of no known kind.
  const Network network = reference::MakeNetwork(
      reference::MakeModule({{"w1", {4, 3}}, {"b1", {4}}, {"scale", {4}}, {"w2", {2, 4}}},
                            "  h = torch.tanh(torch.linear(x, self.w1, self.b1)) * "
                            "torch.exp(self.scale)\n  return torch.linear(h, self.w2)\n",
                            at::kDouble),
      {3}, 2);
  const CapturePlan plan = FindCapturedParameters(network);
  ASSERT_EQ(plan.captured, (std::vector<bool>{true, true, false, true}));
  for (int mask = 1; mask < 16; ++mask) {
    for (const int64_t batch : {int64_t{1}, int64_t{7}, int64_t{30}}) {
      const at::Tensor x = RandomNormal({batch, 3}, 1), expected = reference::Jacobians(network, x);
      JacobianOptions options;
      for (int i = 0; i < 4; ++i) options.parameters.push_back((mask >> i & 1) != 0);
      Collect sink;
      ASSERT_TRUE(ForEachJacobian(network, plan, x, options, sink).ok());
      for (size_t i = 0; i < 4; ++i) {
        const Parameter& p = network.parameters()[i];
        ASSERT_EQ(sink.pieces.count(i), options.parameters[i] ? 1u : 0u) << mask << " " << i;
        int64_t examples = 0;
        for (const auto& [begin, piece] : sink.pieces[i]) {
          examples += piece.size(0);
          const at::Tensor column =
              expected.narrow(0, begin, piece.size(0)).narrow(2, p.offset, p.value.numel());
          EXPECT_LT((piece - column).abs().max().item<double>(), 1e-12) << mask << " " << i;
        }
        EXPECT_EQ(examples, options.parameters[i] ? batch : 0);
      }
    }
  }
}

}  // namespace
}  // namespace laplaced
