#include "server/model/feature_layer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/model/field_error.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using ::testing::HasSubstr;

double Distance(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST(FeatureLayerTest, TheInputOfALinearHeadIsFoundWithItsBias) {
  const Network network = reference::TanhMlp(4, 7, 3);
  const CapturePlan plan = FindCapturedParameters(network);
  const auto layer = FindFeatureLayer(network, plan, "");
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_EQ(layer->width, 7);
  ASSERT_TRUE(layer->has_head());
  const at::Tensor x = reference::RandomNormal({9, 4}, 3);
  const auto forward = ForwardFeatures(network, plan, *layer, x);
  ASSERT_TRUE(forward.ok()) << forward.status();
  EXPECT_LT(Distance(forward->f, network.Forward(x)), 1e-12);
  EXPECT_LE(forward->features.abs().max().item<double>(), 1);  // tanh
  EXPECT_LT(Distance(at::matmul(forward->features, layer->head_weight.t()) + layer->head_bias,
                     forward->f),
            1e-12);
  EXPECT_FALSE(forward->features.requires_grad() || forward->f.requires_grad());
}

TEST(FeatureLayerTest, WithoutHiddenLayersTheFeaturesAreTheInputs) {
  const Network network = reference::LinearNetwork(5, 2);
  const CapturePlan plan = FindCapturedParameters(network);
  const auto layer = FindFeatureLayer(network, plan, "");
  ASSERT_TRUE(layer.ok()) << layer.status();
  const at::Tensor x = reference::RandomNormal({3, 5}, 4);
  EXPECT_LT(Distance(ForwardFeatures(network, plan, *layer, x)->features, x), 1e-15);
}

TEST(FeatureLayerTest, AConvolutionsInputIsAveragedOverPixels) {
  const Network network = reference::ConvNet(3);
  const CapturePlan plan = FindCapturedParameters(network);
  std::string convolution;
  for (const Parameter& p : network.parameters()) {
    if (p.value.dim() == 4) convolution = p.name;
  }
  const auto layer = FindFeatureLayer(network, plan, convolution);
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_EQ(layer->width, 2);
  EXPECT_FALSE(layer->has_head());
  const at::Tensor x = reference::RandomNormal({4, 2, 6, 6}, 5);
  EXPECT_LT(Distance(ForwardFeatures(network, plan, *layer, x)->features, x.mean({2, 3})), 1e-14);
  // Left to itself it takes the head behind the pooling.
  const auto last = FindFeatureLayer(network, plan, "");
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_TRUE(last->has_head());
  EXPECT_NE(last->weight, convolution);
}

TEST(FeatureLayerTest, ConvolutionsOfOnePixelBeforeAnAverageAreAHead) {
  const Network network = reference::MakeNetwork(
      reference::MakeModule({{"w", {3, 2, 1, 1}}, {"b", {3}}},
                            "  return torch.conv2d(torch.relu(x), self.w, self.b).mean([2, 3])\n",
                            at::kDouble),
      {2, 4, 4}, 3);
  const CapturePlan plan = FindCapturedParameters(network);
  const auto layer = FindFeatureLayer(network, plan, "");
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_TRUE(layer->has_head());
}

TEST(FeatureLayerTest, OutputsThatAreNotLinearInTheFeaturesHaveNoHead) {
  const Network network = reference::MakeNetwork(
      reference::MakeModule({{"w", {3, 4}}},
                            "  return torch.tanh(torch.matmul(x, torch.t(self.w)))\n", at::kDouble),
      {4}, 3);
  const CapturePlan plan = FindCapturedParameters(network);
  const auto layer = FindFeatureLayer(network, plan, "");
  ASSERT_TRUE(layer.ok()) << layer.status();
  EXPECT_FALSE(layer->has_head());
}

TEST(FeatureLayerTest, AnUnknownNameListsTheWeights) {
  const Network network = reference::TanhMlp(4, 7, 3);
  const CapturePlan plan = FindCapturedParameters(network);
  const auto unknown = FindFeatureLayer(network, plan, "nope");
  EXPECT_EQ(FieldOf(unknown.status()), "options.feature_layer");
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr(network.parameters()[0].name));
  for (const Parameter& p : network.parameters()) {
    if (p.value.dim() > 1) continue;
    EXPECT_EQ(FieldOf(FindFeatureLayer(network, plan, p.name).status()), "options.feature_layer");
  }
}

TEST(FeatureLayerTest, AWeightThatIsUsedTwiceHasNoFeatures) {
  const Network network = reference::MakeNetwork(
      reference::MakeModule(
          {{"w", {3, 3}}},
          "  return torch.matmul(torch.tanh(torch.matmul(x, torch.t(self.w))), torch.t(self.w))\n",
          at::kDouble),
      {3}, 3);
  const CapturePlan plan = FindCapturedParameters(network);
  EXPECT_TRUE(absl::IsNotFound(FindFeatureLayer(network, plan, "").status()));
}

}  // namespace
}  // namespace laplaced
