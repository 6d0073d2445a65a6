#include "server/model/parameter_values.h"

#include <gtest/gtest.h>

#include "tests/reference/networks.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

TEST(ParameterValuesTest, OnlyTheCopyHasTheNewParametersInTheNetworksPrecision) {
  const Network network = reference::TanhMlp(4, 5, 3, at::kFloat);
  const at::Tensor before = network.FlatParameters().clone(), x = network.TrialInputs(3),
                   f = network.Forward(x), theta = RandomNormal({network.n_parameters()}, 3);
  const auto moved = WithParameters(network, theta);
  ASSERT_THAT(moved, test_support::IsOk());
  EXPECT_TRUE(at::equal(moved->FlatParameters(), theta.to(at::kFloat)));
  EXPECT_TRUE(at::equal(network.FlatParameters(), before));
  EXPECT_TRUE(at::equal(network.Forward(x), f));
  EXPECT_FALSE(at::allclose(moved->Forward(x), f));
  // They are what the copy computes with, and differentiates in.
  SetParameters(*moved, before);
  EXPECT_TRUE(at::equal(moved->Forward(x), f));
  const at::Tensor ones = at::ones_like(f);
  EXPECT_TRUE(at::equal(moved->Vjp(moved->ForwardWithGraph(x), ones),
                        network.Vjp(network.ForwardWithGraph(x), ones)));
  EXPECT_THROW(SetParameters(*moved, theta.narrow(0, 0, 3)), c10::Error);
}

}  // namespace
}  // namespace laplaced
