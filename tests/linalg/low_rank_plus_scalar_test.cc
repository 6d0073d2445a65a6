#include "server/linalg/low_rank_plus_scalar.h"

#include <gtest/gtest.h>

#include "tests/reference/networks.h"

namespace laplaced {
namespace {

LowRankPlusScalar Example(int64_t n, int64_t k) {
  const at::Tensor u = std::get<0>(at::linalg_qr(reference::RandomNormal({n, k}, 1)));
  return {u, at::arange(1, k + 1, at::kDouble) - 1.2,
          1.5};  // one weight is negative: 1.5 - 0.2 is still positive
}

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

TEST(LowRankPlusScalarTest, AlgebraAgreesWithDenseMatrices) {
  for (int64_t k : {0, 1, 4, 9}) {
    const LowRankPlusScalar a = Example(9, k);
    const at::Tensor dense =
        a.scalar * at::eye(9, at::kDouble) + at::mm(a.directions * a.weights, a.directions.t());
    EXPECT_LT(Max(a.Dense() - dense), 1e-13);
    EXPECT_LT(Max(a.Inverse().Dense() - at::inverse(dense)), 1e-12);
    const at::Tensor root = a.SquareRoot().Dense();
    EXPECT_LT(Max(at::mm(root, root) - dense), 1e-12);
    EXPECT_NEAR(a.LogDet(), at::logdet(dense).item<double>(), 1e-12);
  }
}

}  // namespace
}  // namespace laplaced
