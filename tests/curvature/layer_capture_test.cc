// What FindCapturedParameters decides, and that a decision it could not check costs time, not
// correctness.
#include "server/model/layer_capture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/script.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "server/curvature/jacobian_products.h"
#include "tests/reference/dense.h"
#include "tests/reference/layer_cases.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::MakeModule;
using reference::MakeNetwork;
using reference::RandomNormal;

using Parameters = std::vector<std::pair<std::string, std::vector<int64_t>>>;

// Largest error of J U and J J' on x, relative to the largest entry.
double Error(const Network& network, const CapturePlan& plan, const at::Tensor& x) {
  const at::Tensor u = RandomNormal({network.n_parameters(), 3}, 7, network.dtype());
  const auto products = ComputeJacobianProducts(network, plan, x, u);
  if (!products.ok()) throw std::runtime_error(products.status().ToString());
  const at::Tensor j = reference::Jacobians(network, x);
  const auto relative = [](const at::Tensor& got, const at::Tensor& expected) {
    return (got - expected).abs().max().item<double>() / expected.abs().max().item<double>();
  };
  return std::max(relative(products->t, at::matmul(j, u.to(at::kDouble))),
                  relative(products->g, at::bmm(j, j.transpose(1, 2))));
}

TEST(LayerCaptureTest, CountsTheMultiplyAddsOfTheForwardPass) {
  const Network network = MakeNetwork(
      MakeModule({{"w", {6, 2, 3, 3}},
                  {"b", {6}},
                  {"g", {6}},
                  {"v", {5, 6}},
                  {"s", {5}},
                  {"e", {4, 5}},
                  {"free", {5}}},
                 "  h = torch.conv2d(x, self.w, self.b, [2, 2], [1, 1], [1, 1], 2)\n"
                 "  h = torch.group_norm(h, 3, self.g)\n"
                 "  h = torch.tanh(torch.linear(h.flatten(2).transpose(1, 2), self.v)) * self.s\n"
                 "  return h.mean(1) + self.e[0] + torch.exp(self.free)\n",
                 at::kDouble),
      {4, 6, 6}, 5);
  // 3 x 3 positions of the convolution; 6 channels of them in the norm; 9 rows of the linear layer;
  // 9 rows of 5 to scale. Sums and what is not captured do not count.
  EXPECT_EQ(FindCapturedParameters(network).forward_macs,
            9 * 6 * 2 * 9 + 6 * 9 + 9 * 5 * 6 + 9 * 5);
}

TEST(LayerCaptureTest, CountsEveryUseOfASharedWeight) {
  const Network network =
      MakeNetwork(MakeModule({{"w", {4, 4}}},
                             "  return torch.linear(torch.tanh(torch.linear(x, self.w)), self.w)\n",
                             at::kDouble),
                  {4}, 4);
  EXPECT_EQ(FindCapturedParameters(network).forward_macs, 2 * 16);
}

TEST(LayerCaptureTest, TellsExamplesFirstFromExamplesSecond) {
  const Network network = MakeNetwork(
      MakeModule({{"w", {4, 4}}, {"b", {4}}, {"v", {4, 4}}},
                 "  h = torch.tanh(torch.linear(x, self.w))\n"
                 "  return torch.linear(h.transpose(0, 1).contiguous(), self.v, self.b).mean(0)\n",
                 at::kDouble),
      {3, 4}, 4);
  const CapturePlan plan = FindCapturedParameters(network);
  EXPECT_EQ(plan.captured, (std::vector<bool>{true, true, true}));
  EXPECT_EQ(plan.order[0], ExampleOrder::kMajor);
  EXPECT_EQ(plan.order[2], ExampleOrder::kMinor);
}

// LibTorch 1.13 gets the gradients of one image wrong here (batch_norm_guard.h).
TEST(LayerCaptureTest, GradientsOfOneExampleAreThoseItHasInABatch) {
  const Network network = MakeNetwork(
      MakeModule({{"w", {3, 2, 3, 3}}, {"g", {3}}, {"b", {3}}, {"v", {2, 3}}},
                 "  h = torch.conv2d(x, self.w)\n"
                 "  m = torch.ones([3], dtype=x.dtype) * 0.2\n"
                 "  h = torch.batch_norm(h, self.g, self.b, m, m + 1.0, False, 0.1, 1e-5, False)\n"
                 "  h = torch.tanh(h).flatten(2).transpose(1, 2)\n"
                 "  return torch.linear(h, self.v).tanh().mean(1)\n",
                 at::kDouble),
      {2, 6, 6}, 2);
  const at::Tensor x = RandomNormal({2, 2, 6, 6}, 3);
  const at::Tensor seed = at::tensor({1.0, -2.0, 0.0, 0.0}, at::kDouble).view({2, 2});
  const at::Tensor in_batch = network.Vjp(network.ForwardWithGraph(x), seed);
  const at::Tensor first = x.narrow(0, 0, 1), first_seed = seed.narrow(0, 0, 1);
  EXPECT_TRUE(at::allclose(network.Vjp(network.ForwardWithGraph(first), first_seed), in_batch));
  const at::Tensor v = RandomNormal({network.n_parameters()}, 4);
  EXPECT_TRUE(
      at::allclose(network.Vjp(network.ForwardAndJvp(first, v).first, first_seed), in_batch));
}

// Zero gradients agree with every reading of the layout.
TEST(LayerCaptureTest, AParameterWithoutGradientInTheTrialIsNotTrusted) {
  const Network network = MakeNetwork(
      MakeModule({{"w", {4, 4}}, {"v", {4, 4}}},
                 "  h = torch.linear(x.transpose(0, 1).reshape(-1, 4), self.w)\n"
                 "  h = torch.tanh(h).view(3, -1, 4).cumsum(0).mean(0)\n"
                 "  return h * torch.relu(-x.sum([1, 2])).unsqueeze(1) + torch.linear(x[:, 0], "
                 "self.v)\n",
                 at::kDouble),
      {3, 4}, 4);
  const CapturePlan plan = FindCapturedParameters(network);
  EXPECT_EQ(plan.captured, (std::vector<bool>{false, true}));
  EXPECT_LT(Error(network, plan, -RandomNormal({4, 3, 4}, 1).abs()), 1e-10);
}

// LibTorch runs a linear layer otherwise for one example than for several: neither may fall back.
TEST(LayerCaptureTest, TransformersAreCapturedAtEveryBatchSize) {
  for (const reference::LayerCase& c : reference::TransformerCases()) {
    const Network network =
        MakeNetwork(MakeModule(c.parameters, c.body, at::kDouble), c.input_shape, c.outputs);
    const CapturePlan plan = FindCapturedParameters(network);
    for (const int64_t batch : {1, 2, 3, 7}) {
      const CapturedForward forward = ForwardCaptured(network, network.TrialInputs(batch), plan);
      EXPECT_EQ(forward.captured, std::vector<bool>(plan.captured.size(), true))
          << c.name << ", batch " << batch;
    }
  }
}

// Softmax does not see a bias of the keys: its gradient is rounding errors, which no reading
// reproduces.
TEST(LayerCaptureTest, ABiasWithoutEffectIsReadAsItsWeightIs) {
  for (const bool batch_second : {false, true}) {
    const std::string body =
        "  h = x.transpose(0, 1).contiguous()\n"
        "  q = torch.linear(h, self.wq, self.bq).transpose(0, 1)\n"
        "  k = torch.linear(h, self.wk, self.bk).transpose(0, 1)\n"
        "  v = torch.linear(h, self.wv, self.bv).transpose(0, 1)\n"
        "  return torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v).mean(1)\n";
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
      const Network network = MakeNetwork(
          MakeModule({{"wq", {4, 4}},
                      {"bq", {4}},
                      {"wk", {4, 4}},
                      {"bk", {4}},
                      {"wv", {4, 4}},
                      {"bv", {4}}},
                     batch_second ? body : absl::StrReplaceAll(body, {{".transpose(0, 1)", ""}}),
                     dtype),
          {3, 4}, 4);
      const CapturePlan plan = FindCapturedParameters(network);
      EXPECT_EQ(plan.captured, std::vector<bool>(6, true));
      EXPECT_EQ(plan.order, std::vector<ExampleOrder>(
                                6, batch_second ? ExampleOrder::kMinor : ExampleOrder::kMajor));
      EXPECT_LT(Error(network, plan, RandomNormal({4, 3, 4}, 1, dtype)),
                dtype == at::kDouble ? 1e-10 : 1e-5);
    }
  }
}

// In the other branch the parameter meets an operation that capture knows, but without the batch.
TEST(LayerCaptureTest, AParameterUsedByAnotherKnownKindThanInTheTrialIsStillRight) {
  const Network network =
      MakeNetwork(MakeModule({{"w", {4, 4}}, {"v", {4, 4}}, {"s", {4}}},
                             "  w = self.w\n"
                             "  if bool(x.min() < 0):\n"
                             "    w = w * torch.sin(self.s)\n"
                             "  return torch.linear(x, w) + torch.linear(x, self.v) + self.s\n",
                             at::kDouble),
                  {4}, 4);
  const CapturePlan plan = FindCapturedParameters(network);
  ASSERT_EQ(plan.captured, (std::vector<bool>{true, true, true}));
  EXPECT_LT(Error(network, plan, RandomNormal({4, 4}, 1).abs()), 1e-10);
  EXPECT_LT(Error(network, plan, -RandomNormal({4, 4}, 1).abs()), 1e-10);
}

// Writes the forward source of a small network, layer by layer.
class RandomArchitecture {
 public:
  explicit RandomArchitecture(uint64_t seed) : random_(seed) {
    if (Chance(2)) {
      channels_ = Draw(1, 3);
      input_shape_ = {channels_, Draw(4, 6), Draw(4, 6)};
      for (int64_t i = Draw(1, 3); i > 0; --i) AddImageLayer();
      if (Chance(2)) {
        body_ += "  h = torch.flatten(h, 2).transpose(1, 2)\n";  // [B, T, E]
        width_ = channels_;
        AddSequence();
      } else {
        body_ += "  h = h.cumsum(2).mean([2, 3])\n";
        width_ = channels_;
      }
    } else {
      width_ = 2 * Draw(1, 3);
      input_shape_ = {Draw(1, 5), width_};
      AddSequence();
    }
    for (int64_t i = Draw(0, 2); i > 0; --i) AddFeatureLayer();
    Linear(2);
    body_ += "  return h\n";
  }

  Network Make() const {
    return MakeNetwork(MakeModule(parameters_, body_, at::kDouble), input_shape_, 2);
  }
  const std::vector<int64_t>& input_shape() const { return input_shape_; }
  std::string Description() const {
    return absl::StrCat("[", absl::StrJoin(input_shape_, ", "), "]\n", body_);
  }

 private:
  int64_t Draw(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  bool Chance(int64_t of) { return Draw(1, of) == 1; }

  std::string Parameter(const std::vector<int64_t>& shape) {
    parameters_.emplace_back(absl::StrCat("p", parameters_.size()), shape);
    return "self." + parameters_.back().first;
  }
  std::string ParameterOrNone(const std::vector<int64_t>& shape) {
    return Chance(3) ? "None" : Parameter(shape);
  }
  void Activation() {
    static constexpr const char* kLines[] = {"torch.tanh(h)",
                                             "torch.hardtanh_(h, -0.4, 3.0)",
                                             "torch.silu_(h)",
                                             "torch.gelu(h)",
                                             "h",
                                             "torch.leaky_relu_(h, 0.2)",
                                             "h + torch.sin(h)"};
    body_ += absl::StrCat("  h = ", kLines[Draw(0, 6)], "\n");
  }

  void AddImageLayer() {
    switch (Draw(0, 4)) {
      case 0:
      case 1: {
        const int64_t groups = Chance(2) ? channels_ : 1, out = groups * Draw(1, 2);
        const std::string w = Parameter({out, channels_ / groups, Draw(1, 3), Draw(1, 3)});
        body_ += absl::StrCat("  h = torch.conv2d(h, ", w, ", ", ParameterOrNone({out}), ", [1, ",
                              Draw(1, 2), "], [1, 1], [1, 1], ", groups, ")\n");
        channels_ = out;
        break;
      }
      case 2: {
        const std::string w = Parameter({channels_, 2, 2, 2});
        body_ += absl::StrCat("  h = torch.conv_transpose2d(h, ", w, ", ", ParameterOrNone({2}),
                              ", [1, 2])\n");
        channels_ = 2;
        break;
      }
      case 3: {
        const std::string g = Parameter({channels_}), b = Parameter({channels_});
        body_ += absl::StrCat("  m = torch.ones([", channels_, "], dtype=x.dtype) * 0.2\n",
                              "  h = torch.batch_norm(h, ", g, ", ", b,
                              ", m, m + 1.0, False, 0.1, 1e-5, False)\n");
        break;
      }
      default: {
        const std::string g = Parameter({channels_}), b = Parameter({channels_});
        body_ += absl::StrCat("  h = torch.group_norm(h, ", Chance(2) ? 1 : channels_, ", ", g,
                              ", ", b, ")\n");
      }
    }
    Activation();
  }

  void AddSequence() {
    const bool batch_second = Chance(2);
    if (batch_second) body_ += "  h = h.transpose(0, 1)\n";
    for (int64_t i = Draw(1, 4); i > 0; --i) {
      switch (Draw(0, 5)) {
        case 0:
          Linear(2 * Draw(1, 3));
          break;
        case 1:
          if (width_ > 1) LayerNorm();
          break;
        case 2:
          body_ +=
              absl::StrCat("  h = h * ", Parameter({width_}), " + ", Parameter({1, width_}), "\n");
          break;
        case 3:
          if (width_ > 1) {
            const std::string w = Parameter({3 * width_, width_}), b = Parameter({3 * width_});
            body_ += absl::StrCat(
                "  q, k, v = torch.chunk(torch.linear(h, ", w, ", ", b, "), 3, -1)\n",
                batch_second ? "  q = q.transpose(0, 1)\n  k = k.transpose(0, 1)\n"
                               "  v = v.transpose(0, 1)\n"
                             : "",
                "  h = torch.matmul(torch.softmax(torch.matmul(q, k.transpose(1, 2)), -1), v)\n",
                batch_second ? "  h = h.transpose(0, 1).contiguous()\n" : "");
          }
          break;
        case 4:
          if (!batch_second) {
            body_ += absl::StrCat("  h = torch.cat([", Parameter({1, 1, width_}),
                                  ".expand(x.size(0), -1, -1), h], 1)\n");
          }
          break;
        default: {
          const std::string w = Parameter({width_, width_});
          body_ += absl::StrCat("  h = torch.tanh(torch.matmul(h, ", w,
                                "))\n  h = h + torch.matmul", "(h, ", w, ".t())\n");
        }
      }
      Activation();
    }
    body_ += absl::StrCat("  h = h.cumsum(", batch_second ? 0 : 1, ").mean(", batch_second ? 0 : 1,
                          ")\n");
  }

  void AddFeatureLayer() {
    width_ == 1 || Chance(2) ? Linear(Draw(2, 5)) : LayerNorm();
    Activation();
  }

  void Linear(int64_t out) {
    const std::string w = Parameter({out, width_});
    body_ += absl::StrCat("  h = torch.linear(h, ", w, ", ", ParameterOrNone({out}), ")\n");
    width_ = out;
  }

  void LayerNorm() {
    const std::string g = Parameter({width_}), b = Parameter({width_});
    body_ += absl::StrCat("  h = torch.layer_norm(h, [", width_, "], ", g, ", ", b, ")\n");
  }

  std::mt19937_64 random_;
  Parameters parameters_;
  std::vector<int64_t> input_shape_;
  int64_t channels_ = 0, width_ = 0;
  std::string body_ = "  h = torch.tanh(x)\n";
};

TEST(LayerCaptureTest, RandomArchitecturesAgreeWithReversePasses) {
  std::vector<std::string> generic;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const RandomArchitecture architecture(seed);
    SCOPED_TRACE(absl::StrCat("seed ", seed, ", inputs ", architecture.Description()));
    const Network network = architecture.Make();
    const CapturePlan plan = FindCapturedParameters(network);
    for (size_t i = 0; i < plan.captured.size(); ++i) {
      if (plan.captured[i]) continue;
      generic.push_back(absl::StrCat("seed ", seed, ", ", network.parameters()[i].name, "\n",
                                     architecture.Description()));
    }
    for (const int64_t batch : {1, 4}) {
      std::vector<int64_t> shape = {batch};
      shape.insert(shape.end(), architecture.input_shape().begin(),
                   architecture.input_shape().end());
      EXPECT_LT(Error(network, plan, RandomNormal(shape, seed)), 1e-10) << "batch " << batch;
    }
  }
  EXPECT_THAT(generic, testing::IsEmpty());
}

}  // namespace
}  // namespace laplaced
