// Oracle 14: captured layers against one reverse pass per example and output, on every kind of
// layer.
#include "server/curvature/jacobian_products.h"

#include <gtest/gtest.h>
#include <torch/script.h>

#include <numeric>

#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::MakeModule;
using reference::MakeNetwork;
using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

struct Case {
  std::string name;
  std::vector<std::pair<std::string, std::vector<int64_t>>> parameters;
  std::string body;
  std::vector<int64_t> input_shape;
  int64_t outputs;
  std::vector<std::string> generic;  // parameters that no known layer explains
};

std::vector<Case> Cases() {
  return {
      {"linear with bias",
       {{"w", {3, 4}}, {"b", {3}}},
       "  return torch.linear(x, self.w, self.b)\n",
       {4},
       3,
       {}},
      {"linear without bias", {{"w", {3, 4}}}, "  return torch.linear(x, self.w)\n", {4}, 3, {}},
      {"matrix stored [in, out]", {{"w", {4, 3}}}, "  return torch.mm(x, self.w)\n", {4}, 3, {}},
      {"linear over a sequence",
       {{"w", {5, 4}}, {"b", {5}}, {"v", {2, 5}}},
       "  return torch.linear(torch.tanh(torch.linear(x, self.w, self.b)).mean(1), self.v)\n",
       {3, 4},
       2,
       {}},
      {"convolution, stride, padding, in-place relu",
       {{"w", {4, 2, 3, 3}}, {"b", {4}}, {"v", {3, 36}}},
       "  h = torch.relu_(torch.conv2d(x, self.w, self.b, [2, 2], [1, 1]))\n"
       "  return torch.linear(torch.flatten(h, 1), self.v)\n",
       {2, 6, 6},
       3,
       {}},
      {"dilated convolution",
       {{"w", {3, 2, 2, 3}}, {"v", {3, 48}}},
       "  h = torch.tanh(torch.conv2d(x, self.w, None, [1, 1], [1, 1], [2, 1]))\n"
       "  return torch.linear(torch.flatten(torch.max_pool2d(h, [1, 1])[:, :, 0:4, 0:4], 1), "
       "self.v)\n",
       {2, 6, 6},
       3,
       {}},
      {"grouped convolution",
       {{"w", {6, 2, 3, 3}}, {"b", {6}}},
       "  return torch.conv2d(x, self.w, self.b, [1, 1], [0, 0], [1, 1], 2).mean([2, 3])\n",
       {4, 5, 5},
       6,
       {}},
      {"depthwise convolution",
       {{"w", {4, 1, 3, 3}}, {"b", {4}}},
       "  return torch.tanh(torch.conv2d(x, self.w, self.b, [1, 1], [1, 1], [1, 1], 4)).mean([2, "
       "3])\n",
       {4, 5, 5},
       4,
       {}},
      {"convolution as traced",
       {{"w", {3, 2, 3, 3}}, {"b", {3}}},
       "  return torch.tanh(torch._convolution(x, self.w, self.b, [1, 1], [1, 1], [1, 1], False, "
       "[0, 0], 1,\n"
       "      False, False, True, True)).mean([2, 3])\n",
       {2, 5, 5},
       3,
       {}},
      {"convolution over one dimension",
       {{"w", {3, 2, 3}}, {"b", {3}}},
       "  return torch.tanh(torch.conv1d(x, self.w, self.b, [2], [1])).mean(2)\n",
       {2, 9},
       3,
       {}},
      {"batch norm after in-place addition",
       {{"w", {3, 2, 3, 3}}, {"gamma", {3}}, {"beta", {3}}, {"mean", {3}}},
       "  h = torch.conv2d(x, self.w, None, [1, 1], [1, 1])\n"
       "  v = torch.ones_like(self.mean).detach() * 2.0\n"
       "  y = torch.batch_norm(h, self.gamma, self.beta, self.mean.detach(), v, False, 0.1, 1e-5, "
       "False)\n"
       "  y += h\n"
       "  return torch.relu_(y).mean([2, 3]) + self.mean.sum() * 0.1\n",
       {2, 5, 5},
       3,
       {"mean"}},
      {"shared weights",
       {{"w", {4, 4}}, {"b", {4}}},
       "  h = torch.tanh(torch.linear(x, self.w, self.b))\n  return torch.linear(h, self.w, "
       "self.b)\n",
       {4},
       4,
       {}},
      {"shared with an operation of no known kind",
       {{"w", {4, 4}}},
       "  return torch.linear(torch.tanh(torch.linear(x, self.w)), self.w) + "
       "torch.sin(self.w).sum()\n",
       {4},
       4,
       {"w"}},
      {"layer norm and a free scale",
       {{"w", {5, 4}}, {"g", {5}}, {"b", {5}}, {"s", {1}}},
       "  return torch.layer_norm(torch.linear(x, self.w), [5], self.g, self.b) * "
       "torch.exp(self.s)\n",
       {4},
       5,
       {"g", "b", "s"}},
      {"rows that are not examples",
       {{"w", {3, 4}}},
       "  y = torch.linear(x.transpose(0, 1).reshape(-1, 4), self.w)\n"
       "  return torch.tanh(y).reshape(2, -1, 3).sum(0)\n",
       {2, 4},
       3,
       {"w"}},
      {"unused parameter",
       {{"w", {3, 4}}, {"u", {2}}},
       "  return torch.linear(x, self.w)\n",
       {4},
       3,
       {}},
  };
}

void ExpectAgreement(const Case& c, at::ScalarType dtype, double tolerance) {
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

TEST(JacobianProductsTest, EveryKindOfLayerAgreesInDoublePrecision) {
  for (const Case& c : Cases()) ExpectAgreement(c, at::kDouble, 1e-10);
}

TEST(JacobianProductsTest, EveryKindOfLayerAgreesInSinglePrecision) {
  for (const Case& c : Cases()) ExpectAgreement(c, at::kFloat, 1e-5);
}

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
