// Oracle 14: captured layers against one reverse pass per example and output, on every kind of
// layer.
#include "server/curvature/jacobian_products.h"

#include <gtest/gtest.h>
#include <torch/script.h>

#include <numeric>

#include "absl/strings/ascii.h"
#include "tests/reference/dense.h"
#include "tests/reference/layer_cases.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::LayerCase;
using reference::MakeModule;
using reference::MakeNetwork;
using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

void ExpectAgreement(const LayerCase& c, at::ScalarType dtype, double tolerance) {
  const Network network =
      MakeNetwork(MakeModule(c.parameters, c.body, dtype), c.input_shape, c.outputs);
  const CapturePlan plan = FindCapturedParameters(network);
  std::vector<std::string> generic;
  for (size_t i = 0; i < plan.captured.size(); ++i) {
    if (!plan.captured[i]) generic.push_back(network.parameters()[i].name);
  }
  EXPECT_EQ(generic, c.generic) << c.name;

  std::vector<int64_t> shape = {5};
  shape.insert(shape.end(), c.input_shape.begin(), c.input_shape.end());
  const at::Tensor x = RandomNormal(shape, 42, dtype);
  const at::Tensor u = RandomNormal({network.n_parameters(), 3}, 43, dtype);
  const at::Tensor j = reference::Jacobians(network, x);
  const at::Tensor t = at::matmul(j, u.to(at::kDouble)), g = at::bmm(j, j.transpose(1, 2));
  // Tiles of one example and of many, blocks of one example and of many.
  constexpr int64_t kTiles[][2] = {{1, 1 << 30}, {600, 1 << 30}, {1 << 25, 1}, {1 << 25, 1 << 30}};
  const at::Tensor factor = RandomNormal({5, c.outputs, 2}, 44, dtype);
  const at::Tensor lj = at::bmm(factor.transpose(1, 2).to(at::kDouble), j);
  for (const auto& [tile_bytes, gradient_bytes] : kTiles) {
    JacobianOptions options;
    options.tile_bytes = tile_bytes;
    options.gradient_bytes = gradient_bytes;
    const auto products = ComputeJacobianProducts(network, plan, x, u, options);
    ASSERT_TRUE(products.ok()) << c.name << ": " << products.status();
    EXPECT_LE(Max(products->f - network.Forward(x)), tolerance) << c.name;
    EXPECT_LE(Max(products->t - t), tolerance * Max(t)) << c.name << " tile " << options.tile_bytes;
    EXPECT_LE(Max(products->g - g), tolerance * Max(g)) << c.name << " tile " << options.tile_bytes;

    // L'J in place of J, and a group of its own for each parameter.
    options.columns = 2;
    options.output_factor = [&](const at::Tensor& f, int64_t begin) {
      return factor.narrow(0, begin, f.size(0));
    };
    std::vector<int64_t> group_of(network.parameters().size());
    std::iota(group_of.begin(), group_of.end(), int64_t{0});
    const auto grouped = ComputeGroupedProducts(network, plan, x, u, group_of,
                                                static_cast<int64_t>(group_of.size()), options);
    ASSERT_TRUE(grouped.ok()) << c.name << ": " << grouped.status();
    const double scale = Max(lj) * Max(lj) * static_cast<double>(lj.size(2));
    for (size_t i = 0; i < group_of.size(); ++i) {
      const Parameter& p = network.parameters()[i];
      const at::Tensor part = lj.narrow(2, p.offset, p.value.numel());
      const at::Tensor rows = u.narrow(0, p.offset, p.value.numel()).to(at::kDouble);
      EXPECT_LE(Max(grouped->t[i] - at::matmul(part, rows)), tolerance * 10 * scale) << c.name;
      EXPECT_LE(Max(grouped->g[i] - at::bmm(part, part.transpose(1, 2))), tolerance * scale)
          << c.name;
    }
  }
}

class JacobianProductsOf : public testing::TestWithParam<LayerCase> {};

TEST_P(JacobianProductsOf, DoNotDependOnTheBatchSize) {
  const LayerCase& c = GetParam();
  const Network network =
      MakeNetwork(MakeModule(c.parameters, c.body, at::kDouble), c.input_shape, c.outputs);
  const CapturePlan plan = FindCapturedParameters(network);
  std::vector<int64_t> shape = {6};
  shape.insert(shape.end(), c.input_shape.begin(), c.input_shape.end());
  const at::Tensor u = RandomNormal({network.n_parameters(), 3}, 45);
  const at::Tensor all = RandomNormal(shape, 46), j = reference::Jacobians(network, all);
  for (const int64_t batch : {1, 2, 3, 4, 6}) {
    const auto products = ComputeJacobianProducts(network, plan, all.narrow(0, 0, batch), u);
    ASSERT_TRUE(products.ok()) << products.status();
    const at::Tensor part = j.narrow(0, 0, batch), g = at::bmm(part, part.transpose(1, 2));
    EXPECT_LE(Max(products->t - at::matmul(part, u)), 1e-10 * Max(at::matmul(part, u))) << batch;
    EXPECT_LE(Max(products->g - g), 1e-10 * Max(g)) << batch;
  }
}

TEST_P(JacobianProductsOf, AgreeInDoublePrecision) {
  ExpectAgreement(GetParam(), at::kDouble, 1e-10);
}

TEST_P(JacobianProductsOf, AgreeInSinglePrecision) {
  ExpectAgreement(GetParam(), at::kFloat, 1e-5);
}

std::string NameOf(const testing::TestParamInfo<LayerCase>& info) {
  std::string name = info.param.name;
  for (char& c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Linear, JacobianProductsOf, testing::ValuesIn(reference::LinearCases()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Convolution, JacobianProductsOf,
                         testing::ValuesIn(reference::ConvolutionCases()), NameOf);
INSTANTIATE_TEST_SUITE_P(Norm, JacobianProductsOf, testing::ValuesIn(reference::NormCases()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Embedding, JacobianProductsOf,
                         testing::ValuesIn(reference::EmbeddingCases()), NameOf);
INSTANTIATE_TEST_SUITE_P(Broadcast, JacobianProductsOf,
                         testing::ValuesIn(reference::BroadcastCases()), NameOf);
INSTANTIATE_TEST_SUITE_P(Activation, JacobianProductsOf,
                         testing::ValuesIn(reference::ActivationCases()), NameOf);
INSTANTIATE_TEST_SUITE_P(Transformer, JacobianProductsOf,
                         testing::ValuesIn(reference::TransformerCases()), NameOf);
INSTANTIATE_TEST_SUITE_P(Unusual, JacobianProductsOf, testing::ValuesIn(reference::UnusualCases()),
                         NameOf);

TEST(JacobianProductsTest, WorksWithoutDirections) {
  const Network network = reference::TanhMlp(4, 3, 2);
  const auto products =
      ComputeJacobianProducts(network, FindCapturedParameters(network), RandomNormal({2, 4}, 1),
                              at::zeros({network.n_parameters(), 0}, at::kDouble));
  ASSERT_TRUE(products.ok()) << products.status();
  EXPECT_EQ(products->t.sizes(), (std::vector<int64_t>{2, 2, 0}));
  EXPECT_GT(products->g.abs().sum().item<double>(), 0);
}

TEST(JacobianProductsTest, AClonedNetworkGivesTheSameAnswer) {
  const Network network = reference::ConvNet(4);
  const CapturePlan plan = FindCapturedParameters(network);
  const auto clone = network.Clone();
  ASSERT_TRUE(clone.ok());
  const at::Tensor x = RandomNormal({3, 2, 6, 6}, 5);
  const at::Tensor u = RandomNormal({network.n_parameters(), 4}, 6);
  const auto original = ComputeJacobianProducts(network, plan, x, u);
  const auto copied = ComputeJacobianProducts(*clone, plan, x, u);
  ASSERT_TRUE(copied.ok()) << copied.status();
  EXPECT_TRUE(at::equal(original->t, copied->t));
  EXPECT_TRUE(at::equal(original->g, copied->g));
}

TEST(JacobianProductsTest, AParameterUsedDifferentlyThanInTheTrialIsStillRight) {
  const Network network =
      MakeNetwork(MakeModule({{"w", {3, 4}}, {"v", {3, 4}}},
                             "  y = torch.linear(x, self.w) + torch.linear(x, self.v)\n"
                             "  if bool(x.min() < 0):\n"
                             "    y = torch.matmul(x, torch.sin(self.w).t())\n"
                             "  return y\n",
                             at::kDouble),
                  {4}, 3);
  const CapturePlan plan = FindCapturedParameters(network);
  ASSERT_TRUE(plan.captured[0] && plan.captured[1]);  // the trial inputs are not negative
  const at::Tensor x = -RandomNormal({2, 4}, 1).abs(), u = RandomNormal({24, 2}, 2);
  const auto products = ComputeJacobianProducts(network, plan, x, u);
  ASSERT_TRUE(products.ok()) << products.status();
  const at::Tensor j = reference::Jacobians(network, x);
  EXPECT_LT(Max(products->t - at::matmul(j, u)), 1e-12);
  EXPECT_LT(Max(products->g - at::bmm(j, j.transpose(1, 2))), 1e-12);
}

TEST(JacobianProductsTest, AnExampleDoesNotDependOnItsNeighbours) {
  const Network network = reference::ConvNet(4);
  const CapturePlan plan = FindCapturedParameters(network);
  const at::Tensor x = RandomNormal({6, 2, 6, 6}, 5),
                   u = RandomNormal({network.n_parameters(), 4}, 6);
  const auto together = ComputeJacobianProducts(network, plan, x, u);
  for (int64_t n = 0; n < 6; ++n) {
    const auto alone = ComputeJacobianProducts(network, plan, x.narrow(0, n, 1), u);
    EXPECT_LT(Max(alone->g[0] - together->g[n]), 1e-11);
    EXPECT_LT(Max(alone->t[0] - together->t[n]), 1e-11);
  }
}

}  // namespace
}  // namespace laplaced
