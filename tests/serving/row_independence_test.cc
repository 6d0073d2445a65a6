// The answer of a row does not depend on the rows that it is computed with.
//
// Other neighbours in a computation of the same size change no bit; another size, or another place
// among the rows, changes rounding only.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <future>
#include <vector>

#include "server/serving/batcher.h"
#include "tests/serving/served_network.h"

namespace laplaced {
namespace {

class RowIndependenceTest : public ::testing::TestWithParam<VarianceMode> {
 protected:
  static constexpr int64_t kNumel = 3 * 12 * 12;

  void SetUp() override {
    served_ = test_support::Serve(
        reference::MakeNetwork(
            reference::MakeModule(
                {{"w1", {8, 3, 3, 3}}, {"w2", {16, 8, 3, 3}}, {"w3", {10, 16}}},
                "  h = torch.relu(torch.conv2d(x, self.w1, None, [1, 1], [1, 1]))\n"
                "  h = torch.relu(torch.conv2d(h, self.w2, None, [2, 2], [1, 1]))\n"
                "  return torch.linear(h.mean([2, 3]), self.w3)\n",
                at::kFloat),
            {3, 12, 12}, 10),
        {"w3"}, 20);
    rows_ = reference::RandomNormal({64, 3, 12, 12}, 5, at::kFloat);
    options_.variance_mode = GetParam();
    options_.return_covariance = true;
    options_.samples = 16;
    options_.ood_scores = {"energy"};
    if (GetParam() != VarianceMode::kTopClasses) options_.ood_scores.push_back("laplace_entropy");
    if (GetParam() == VarianceMode::kTopClasses) options_.return_covariance = false;
  }

  Prediction Predict(const at::Tensor& inputs) const {
    const at::Tensor x = inputs.contiguous();
    const ArrayView view{DType::kFloat32, x.sizes().vec(), x.data_ptr()};
    EXPECT_TRUE(served_->Validate(view, options_).ok()) << served_->Validate(view, options_);
    ComputeContext context;
    auto answer = served_->Predict(view, options_, context);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *std::move(answer) : Prediction();
  }

  // Everything that an answer says of one row.
  static std::vector<double> Row(const Prediction& p, int64_t row) {
    std::vector<double> all;
    for (const auto* array :
         {&p.mean, &p.map_mean, &p.functional_mean, &p.functional_variance,
          &p.functional_covariance, &p.epistemic, &p.aleatoric, &p.left_out_bound}) {
      const auto stride = static_cast<int64_t>(array->size()) / p.batch;
      all.insert(all.end(), array->begin() + row * stride, array->begin() + (row + 1) * stride);
    }
    for (const ScoreValues& score : p.scores) {
      all.push_back(score.values[static_cast<size_t>(row)]);
    }
    return all;
  }

  static void ExpectNear(const std::vector<double>& a, const std::vector<double>& b) {
    ASSERT_EQ(a.size(), b.size());
    double largest = 0;
    for (const double v : b) largest = std::max(largest, std::abs(v));
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(a[i], b[i], 1e-6 * std::max(1.0, largest)) << i;
    }
  }

  std::unique_ptr<TorchServedModel> served_;
  at::Tensor rows_;
  PredictOptions options_;
};

TEST_P(RowIndependenceTest, NeighboursChangeNoBit) {
  for (const int64_t size : {2, 4, 8, 32}) {
    const int64_t place = size - 1;
    at::Tensor a = rows_.narrow(0, 0, size).clone(), b = rows_.narrow(0, 64 - size, size).clone();
    // Large ones, too.
    b.mul_(30);
    b[place].copy_(a[place]);
    EXPECT_EQ(Row(Predict(a), place), Row(Predict(b), place)) << size;
  }
}

TEST_P(RowIndependenceTest, SizesAndPlacesChangeRoundingOnly) {
  const Prediction all = Predict(rows_);
  for (const int64_t row : {0, 1, 17, 63}) {
    SCOPED_TRACE(row);
    ExpectNear(Row(Predict(rows_.narrow(0, row, 1)), 0), Row(all, row));
  }
  ExpectNear(Row(Predict(rows_.narrow(0, 8, 5)), 4), Row(all, 12));
}

TEST_P(RowIndependenceTest, TheBatcherAddsNothing) {
  const Prediction all = Predict(rows_);
  Metrics metrics;
  ServingMetrics serving_metrics(metrics);
  Batcher batcher({}, serving_metrics, nullptr);
  std::vector<std::promise<absl::StatusOr<Prediction>>> answers(64);
  for (int64_t row = 0; row < 64; ++row) {
    const ArrayView view{DType::kFloat32, {1, 3, 12, 12}, rows_.data_ptr<float>() + row * kNumel};
    const std::shared_ptr<const ServedModel> model(served_.get(), [](const ServedModel*) {});
    ASSERT_TRUE(
        batcher
            .Submit({model, view, std::make_shared<ComputeContext>(), Priority::kInteractive, "c"},
                    options_,
                    [&answers, row](absl::StatusOr<Prediction> answer, const BatchTiming&) {
                      answers[static_cast<size_t>(row)].set_value(std::move(answer));
                    })
            .ok());
  }
  for (int64_t row = 0; row < 64; ++row) {
    SCOPED_TRACE(row);
    const auto answer = answers[static_cast<size_t>(row)].get_future().get();
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->variance.mode, GetParam());
    ExpectNear(Row(*answer, 0), Row(all, row));
  }
}

// Others have their turn between the parts of a large request, whatever it asks for of single rows.
TEST_P(RowIndependenceTest, RequestsAreDivisibleUnlessRowsAreAskedForTogether) {
  const ArrayView view{DType::kFloat32, {64, 3, 12, 12}, rows_.data_ptr()};
  EXPECT_TRUE(served_->BatchingOf(view, options_).divisible);
  options_.return_samples = 2;
  EXPECT_FALSE(served_->BatchingOf(view, options_).divisible);
  options_.return_samples = 0;
  options_.return_joint_covariance = true;
  EXPECT_FALSE(served_->BatchingOf(view, options_).divisible);
}

INSTANTIATE_TEST_SUITE_P(Modes, RowIndependenceTest,
                         ::testing::Values(VarianceMode::kExact, VarianceMode::kTopClasses,
                                           VarianceMode::kSampled, VarianceMode::kLastLayer),
                         [](const auto& info) {
                           switch (info.param) {
                             case VarianceMode::kExact:
                               return "exact";
                             case VarianceMode::kTopClasses:
                               return "top_classes";
                             case VarianceMode::kSampled:
                               return "sampled";
                             default:
                               return "last_layer";
                           }
                         });

}  // namespace
}  // namespace laplaced
