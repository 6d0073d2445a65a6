// Kronecker-factored blocks against their definitions, written out, in fp64.
#include "server/curvature/kronecker_factors.h"

#include <gtest/gtest.h>

#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

at::Tensor All(const EmpiricalRisk& risk) { return at::arange(risk.size(), at::kLong); }

BlockBases Bases(const EmpiricalRisk& risk, const CapturePlan& plan, const at::Tensor& rows) {
  auto bases = FindBlockBases(risk, plan, rows, {});
  EXPECT_TRUE(bases.ok()) << bases.status();
  return *std::move(bases);
}

BlockEigenvalues Measure(const EmpiricalRisk& risk, const CapturePlan& plan, const at::Tensor& rows,
                         const std::vector<BlockBasis>& bases, bool exact) {
  auto values = MeasureBlocks(risk, plan, rows, bases, exact, {});
  EXPECT_TRUE(values.ok()) << values.status();
  return *std::move(values);
}

// Block of parameter i of a dense [P, P] matrix.
at::Tensor Block(const EmpiricalRisk& risk, const at::Tensor& dense, size_t i) {
  const Parameter& p = risk.network.parameters()[i];
  return dense.narrow(0, p.offset, p.value.numel()).narrow(1, p.offset, p.value.numel());
}

at::Tensor Basis(const BlockBasis& basis) {
  return basis.FromBasis(at::eye(basis.rows * basis.columns, at::kDouble)).t();
}

// Q diag(values) Q'
at::Tensor Matrix(const BlockBasis& basis, const at::Tensor& values) {
  const at::Tensor q = Basis(basis);
  return at::mm(q * values, q.t());
}

TEST(KroneckerFactorsTest, WithOneExampleALinearLayersBlockIsExact) {
  // f = W a: the block of one example is Lambda (x) aa', a Kronecker product indeed.
  const EmpiricalRisk risk =
      reference::MakeRisk(reference::LinearNetwork(4, 3), Likelihood{}, RandomNormal({1, 4}, 1),
                          at::zeros({1}, at::kLong));
  const CapturePlan plan = FindCapturedParameters(risk.network);
  const BlockBases bases = Bases(risk, plan, All(risk));
  ASSERT_EQ(bases.bases[0].kind, BlockKind::kKronecker);
  const at::Tensor dense = reference::Ggn(risk.network, risk.likelihood, risk.data.inputs);
  EXPECT_LT(Max(Matrix(bases.bases[0], bases.biased.Values()[0]) - dense), 1e-14);
}

TEST(KroneckerFactorsTest, FactorsOfALinearLayerAreTheMeansOfTheirDefinition) {
  const EmpiricalRisk risk =
      reference::MakeRisk(reference::LinearNetwork(4, 3), Likelihood{}, RandomNormal({9, 4}, 1),
                          at::arange(9, at::kLong).remainder(3));
  const CapturePlan plan = FindCapturedParameters(risk.network);
  const BlockBases bases = Bases(risk, plan, All(risk));
  const at::Tensor x = risk.data.inputs;
  const at::Tensor a = at::mm(x.t(), x) / 9;
  const at::Tensor s = reference::OutputHessian(risk.likelihood, risk.network.Forward(x)).mean(0);
  EXPECT_LT(Max(Matrix(bases.bases[0], bases.biased.Values()[0]) - at::kron(s, a)), 1e-14);
}

TEST(KroneckerFactorsTest, FactorsOfAConvolutionSumInputsAndAverageGradientsOverPositions) {
  const Network network = reference::MakeNetwork(
      reference::MakeModule({{"w", {3, 2, 2, 2}}, {"b", {3}}},
                            "  return torch.tanh(torch.conv2d(x, self.w, self.b)).sum([2, 3])\n",
                            at::kDouble),
      {2, 3, 3}, 3);
  const EmpiricalRisk risk =
      reference::MakeRisk(network, Likelihood{Likelihood::Kind::kGaussian, 1},
                          RandomNormal({5, 2, 3, 3}, 1), RandomNormal({5, 3}, 2));
  const CapturePlan plan = FindCapturedParameters(risk.network);
  const BlockBases bases = Bases(risk, plan, All(risk));
  ASSERT_EQ(bases.bases[0].kind, BlockKind::kKronecker);
  EXPECT_EQ(bases.bases[1].kind, BlockKind::kDense);
  const at::Tensor& x = risk.data.inputs;
  const at::Tensor columns = at::im2col(x, {2, 2}, {1, 1}, {0, 0}, {1, 1});  // [5, 8, 4]
  const at::Tensor a = at::bmm(columns, columns.transpose(1, 2)).mean(0);
  // f_c depends on channel c alone, and g = 1 - tanh^2 at every position.
  const at::Tensor h = at::conv2d(x, risk.network.parameters()[0].value.detach(),
                                  risk.network.parameters()[1].value.detach());
  const at::Tensor s = at::diag((1 - h.tanh().square()).square().flatten(2).mean(2).mean(0));
  EXPECT_LT(Max(Matrix(bases.bases[0], bases.biased.Values()[0]) - at::kron(s, a)), 1e-13);
  // The bias: its exact block.
  const at::Tensor dense = reference::Ggn(risk.network, risk.likelihood, x);
  EXPECT_LT(Max(Matrix(bases.bases[1], bases.biased.Values()[1]) - Block(risk, dense, 1)), 1e-13);
}

class BlocksOfANetworkTest : public ::testing::Test {
 protected:
  EmpiricalRisk risk_ =
      reference::MakeRisk(reference::ConvNet(3), Likelihood{}, RandomNormal({12, 2, 6, 6}, 1),
                          at::arange(12, at::kLong).remainder(3));
  CapturePlan plan_ = FindCapturedParameters(risk_.network);
  at::Tensor first_ = at::arange(5, at::kLong), second_ = at::arange(5, 12, at::kLong);
};

TEST_F(BlocksOfANetworkTest, BasesAreOrthonormalAndTurnThereAndBack) {
  const BlockBases bases = Bases(risk_, plan_, first_);
  for (const BlockBasis& basis : bases.bases) {
    const at::Tensor q = Basis(basis);
    EXPECT_LT(Max(at::mm(q.t(), q) - at::eye(q.size(0), at::kDouble)), 1e-12);
    const at::Tensor v = RandomNormal({4, q.size(0)}, 7);
    EXPECT_LT(Max(basis.ToBasis(v) - at::mm(v, q)), 1e-12);
    EXPECT_LT(Max(basis.FromBasis(basis.ToBasis(v)) - v), 1e-12);
  }
}

TEST_F(BlocksOfANetworkTest, ExactEigenvaluesAreTheCurvatureAlongEachBasisVector) {
  const BlockBases bases = Bases(risk_, plan_, first_);
  const BlockEigenvalues exact = Measure(risk_, plan_, second_, bases.bases, true);
  const at::Tensor dense =
      reference::Ggn(risk_.network, risk_.likelihood, risk_.data.inputs.index_select(0, second_));
  for (size_t i = 0; i < bases.bases.size(); ++i) {
    const at::Tensor q = Basis(bases.bases[i]);
    const at::Tensor expected = (q * at::mm(Block(risk_, dense, i), q)).sum(0);
    EXPECT_LT(Max(exact.Values()[i] - expected), 1e-12);
  }
}

TEST_F(BlocksOfANetworkTest, FactorEigenvaluesAreTheSecondBatchsFactorsInTheFirstOnesBases) {
  const BlockBases bases = Bases(risk_, plan_, first_);
  const BlockBases other = Bases(risk_, plan_, second_);
  const BlockEigenvalues measured = Measure(risk_, plan_, second_, bases.bases, false);
  for (size_t i = 0; i < bases.bases.size(); ++i) {
    const at::Tensor q = Basis(bases.bases[i]);
    const at::Tensor matrix = Matrix(other.bases[i], other.biased.Values()[i]);
    EXPECT_LT(Max(measured.Values()[i] - (q * at::mm(matrix, q)).sum(0)), 1e-11);
  }
}

TEST_F(BlocksOfANetworkTest, MergingIsMeasuringAllAtOnce) {
  const BlockBases bases = Bases(risk_, plan_, first_);
  for (const bool exact : {false, true}) {
    BlockEigenvalues merged = Measure(risk_, plan_, second_.narrow(0, 0, 2), bases.bases, exact);
    merged.Merge(Measure(risk_, plan_, second_.narrow(0, 2, 5), bases.bases, exact));
    const BlockEigenvalues whole = Measure(risk_, plan_, second_, bases.bases, exact);
    EXPECT_EQ(merged.count, 7);
    for (size_t i = 0; i < bases.bases.size(); ++i) {
      EXPECT_LT(Max(merged.Values()[i] - whole.Values()[i]), 1e-13);
    }
  }
}

TEST_F(BlocksOfANetworkTest, TheirKindsAndShapesAreKnownWithoutABasis) {
  const BlockBases bases = Bases(risk_, plan_, first_);
  const auto kinds = FindBlockKinds(risk_.network, plan_);
  ASSERT_TRUE(kinds.ok()) << kinds.status();
  ASSERT_EQ(kinds->size(), bases.bases.size());
  for (size_t i = 0; i < kinds->size(); ++i) {
    const BlockBasis &kind = (*kinds)[i], &basis = bases.bases[i];
    EXPECT_EQ(kind.kind, basis.kind);
    EXPECT_EQ(kind.rows, basis.rows);
    EXPECT_EQ(kind.columns, basis.columns);
    EXPECT_FALSE(kind.left.defined() || kind.right.defined());
  }
  EXPECT_EQ((*kinds)[0].kind, BlockKind::kKronecker);
}

TEST(KroneckerFactorsTest, ParametersWithoutFactorsGetDenseOrDiagonalBlocks) {
  // A weight that is used twice, a free scale, and one too large for a dense block.
  const Network network = reference::MakeNetwork(
      reference::MakeModule({{"w", {4, 4}}, {"s", {1}}, {"e", {40, 30}}},
                            "  h = torch.linear(torch.tanh(torch.linear(x, self.w)), self.w)\n"
                            "  return h * torch.exp(self.s) + torch.sin(self.e).sum() * x\n",
                            at::kDouble, 0, 0.2),
      {4}, 4);
  const EmpiricalRisk risk = reference::MakeRisk(network, Likelihood{}, RandomNormal({6, 4}, 1),
                                                 at::arange(6, at::kLong).remainder(4));
  const CapturePlan plan = FindCapturedParameters(risk.network);
  const BlockBases bases = Bases(risk, plan, All(risk));
  EXPECT_EQ(bases.bases[0].kind, BlockKind::kDense);
  EXPECT_EQ(bases.bases[1].kind, BlockKind::kDense);
  EXPECT_EQ(bases.bases[2].kind, BlockKind::kDiagonal);
  const at::Tensor dense = reference::Ggn(risk.network, risk.likelihood, risk.data.inputs);
  EXPECT_LT(Max(Matrix(bases.bases[0], bases.biased.Values()[0]) - Block(risk, dense, 0)), 1e-12);
  EXPECT_LT(Max(bases.biased.Values()[2] - Block(risk, dense, 2).diagonal()), 1e-12);
}

}  // namespace
}  // namespace laplaced
