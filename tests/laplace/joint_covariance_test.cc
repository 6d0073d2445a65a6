// The joint covariance of a batch against dense matrices; that of every structure is tested as
// RowCovariance beside the structure.
#include "server/laplace/joint_covariance.h"

#include <gtest/gtest.h>

#include "server/laplace/low_rank_structure.h"
#include "server/model/field_error.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

class JointCovarianceTest : public ::testing::Test {
 protected:
  static LowRankCurvature Curvature(const Network& network) {
    LowRankCurvature c;
    c.directions = std::get<0>(at::linalg_qr(RandomNormal({network.n_parameters(), 5}, 1)));
    c.curvature = at::tensor({2.0, 1.0, 0.5, 0.2, 0.1}, at::kDouble);
    c.residual_kind = ResidualKind::kIsotropic;
    c.residual = at::full({1}, 0.01, at::kDouble);
    for (const Parameter& p : network.parameters()) c.block_sizes.push_back(p.value.numel());
    return c;
  }

  Network network_ = reference::ConvNet(3);
  CapturePlan plan_ = FindCapturedParameters(network_);
  LowRankStructure structure_{Curvature(network_)};
  Precisions at_{30, 0.7};
  at::Tensor x_ = RandomNormal({5, 2, 6, 6}, 3);
};

TEST_F(JointCovarianceTest, IsDenseAndItsDiagonalBlocksAreTheExamplesOwn) {
  const int64_t p = network_.n_parameters();
  const at::Tensor root = structure_.Deviations(at_, at::eye(p, at::kDouble));
  const at::Tensor sigma = at::mm(root, root.t());
  at::Tensor j = reference::Jacobians(network_, x_).flatten(0, 1);
  // In two blocks, the second one padded.
  const std::vector<at::Tensor> blocks = {x_.narrow(0, 0, 4),
                                          at::cat({x_.narrow(0, 4, 1), x_.narrow(0, 0, 1)})};
  const auto joint = JointCovariance(structure_, network_, plan_, blocks, 5, at_);
  ASSERT_TRUE(joint.ok()) << joint.status();
  EXPECT_LT(Max(*joint - at::mm(at::mm(j, sigma), j.t())), 1e-9);
  EXPECT_GT(at::linalg_eigvalsh(*joint, "L").min().item<double>(), -1e-12 * Max(*joint));

  LinearizeRequest request;
  request.covariance_at = {at_};
  const auto own = structure_.Linearize(network_, plan_, x_, request);
  const at::Tensor blocks_of = joint->view({5, 3, 5, 3});
  for (int64_t n = 0; n < 5; ++n) {
    EXPECT_LT(Max(blocks_of[n].select(1, n) - own->covariance[0][n]), 1e-12);
  }
  // The last layer alone.
  const auto last =
      JointCovariance(structure_, network_, plan_, blocks, 5, at_, {false, false, true, true});
  ASSERT_TRUE(last.ok()) << last.status();
  j.narrow(1, 0, network_.parameters()[2].offset).zero_();
  EXPECT_LT(Max(*last - at::mm(at::mm(j, sigma), j.t())), 1e-9);
}

TEST_F(JointCovarianceTest, RefusesABatchWhoseJacobianIsTooLargeAndSaysHowManyFit) {
  const int64_t most = kJointJacobianBytes / (8 * 3 * network_.n_parameters());
  EXPECT_TRUE(CheckJointCovariance("return_joint_covariance", network_, most).ok());
  const absl::Status status = CheckJointCovariance("return_joint_covariance", network_, most + 1);
  EXPECT_EQ(FieldOf(status), "return_joint_covariance");
  EXPECT_NE(status.message().find("at most " + std::to_string(most) + " examples"),
            std::string::npos)
      << status;
}

}  // namespace
}  // namespace laplaced
