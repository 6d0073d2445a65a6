// Feature and template scores against NumPy, SciPy and scikit-learn (tests/reference), statistics
// against plain sums.
#include "server/ood/feature_scores.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/ood/scores.h"
#include "tests/reference/networks.h"
#include "tests/support/python.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tensor_files.h"

namespace laplaced {
namespace {

using reference::RandomNormal;

constexpr int64_t kClasses = 5, kWidth = 12, kExamples = 2300;

struct Data {
  at::Tensor phi, f, y;
};

// Features around class means, with a class that is missing, a feature that is constant and one
// that follows from others.
Data MakeData(int64_t n, uint64_t seed, const at::Tensor& w, const at::Tensor& b) {
  Data data;
  data.y = (RandomNormal({n}, seed).abs() * 10).to(at::kLong).remainder(kClasses - 1);
  const at::Tensor mix = RandomNormal({kWidth, kWidth}, 3) * 0.4;
  data.phi = (at::matmul(RandomNormal({n, kWidth}, seed + 1), mix) +
              RandomNormal({kClasses, kWidth}, 4).index_select(0, data.y))
                 .relu();
  data.phi.select(1, 7).fill_(0.25);
  data.phi.select(1, 8).copy_(data.phi.select(1, 0) + 2 * data.phi.select(1, 1));
  data.f = at::matmul(data.phi, w.t()) + b;
  return data;
}

class FeatureScoresTest : public ::testing::Test {
 protected:
  FeatureLayer Layer() const { return {"head.weight", 0, kWidth, w_, b_}; }

  FeatureStatistics Gather(const std::vector<int64_t>& batches) const {
    FeatureGatherer gatherer(kClasses, kWidth, 9);
    int64_t begin = 0;
    for (const int64_t n : batches) {
      gatherer.Add(train_.phi.narrow(0, begin, n), train_.f.narrow(0, begin, n),
                   train_.y.narrow(0, begin, n));
      begin += n;
    }
    EXPECT_EQ(begin, kExamples);
    return gatherer.Finish();
  }

  at::Tensor w_ = RandomNormal({kClasses, kWidth}, 1), b_ = RandomNormal({kClasses}, 2);
  Data train_ = MakeData(kExamples, 10, w_, b_), test_ = MakeData(200, 20, w_, b_);
};

TEST_F(FeatureScoresTest, StatisticsAreThoseOfAllExamples) {
  const FeatureStatistics s = Gather({1000, 1, 299, 1000});
  at::Tensor scatter = at::zeros({kWidth, kWidth}, at::kDouble);
  for (int64_t c = 0; c < kClasses; ++c) {
    const at::Tensor rows = (train_.y == c).nonzero().squeeze(1);
    EXPECT_EQ(s.counts[c].item<double>(), rows.numel());
    if (rows.numel() == 0) continue;
    const at::Tensor members = train_.phi.index_select(0, rows), mean = members.mean(0);
    EXPECT_LT((s.means[c] - mean).abs().max().item<double>(), 1e-12);
    scatter += at::matmul((members - mean).t(), members - mean);
  }
  EXPECT_EQ(s.counts[kClasses - 1].item<double>(), 0);
  EXPECT_LT((s.scatter - scatter).abs().max().item<double>(), 1e-9);
  const at::Tensor centred = train_.phi - train_.phi.mean(0);
  EXPECT_LT((s.TotalScatter() - at::matmul(centred.t(), centred)).abs().max().item<double>(), 1e-9);
  EXPECT_EQ(s.count(), kExamples);
  EXPECT_EQ(s.bank.size(0), kExamples);
}

TEST_F(FeatureScoresTest, ABankOfASampleIsTheSameHoweverTheDataCame) {
  const int64_t n = 3 * kBankRows;
  const at::Tensor phi = at::arange(2 * n, at::kDouble).view({n, 2});
  const at::Tensor f = phi, y = at::zeros({n}, at::kLong);
  const auto gather = [&](const std::vector<int64_t>& cuts) {
    FeatureGatherer gatherer(1, 2, 3);
    int64_t begin = 0;
    for (const int64_t end : cuts) {
      gatherer.Add(phi.slice(0, begin, end), f.slice(0, begin, end), y.slice(0, begin, end));
      begin = end;
    }
    return gatherer.Finish();
  };
  const FeatureStatistics one = gather({n});
  ASSERT_EQ(one.bank.size(0), kBankRows);
  const FeatureStatistics many = gather({100, 5000, 17000, 17001, n});
  EXPECT_TRUE(
      std::get<0>(one.bank.select(1, 0).sort()).equal(std::get<0>(many.bank.select(1, 0).sort())));
  EXPECT_TRUE(many.bank_max_logits.equal(many.bank.select(1, 1)));
  // In two passes, by way of what is stored.
  TensorMap tensors;
  gather({8000}).PutInto(tensors);
  const auto stored = TakeFeatureStatistics(tensors);
  ASSERT_TRUE(stored.ok()) << stored.status();
  FeatureGatherer later(*stored, 3);
  later.Add(phi.slice(0, 8000), f.slice(0, 8000), y.slice(0, 8000));
  EXPECT_TRUE(std::get<0>(one.bank.select(1, 0).sort())
                  .equal(std::get<0>(later.Finish().bank.select(1, 0).sort())));
  // A fair sample: its mean is that of all within four standard errors.
  const double mean = one.bank.select(1, 0).to(at::kDouble).mean().item<double>();
  const double spread = 2.0 * static_cast<double>(n) / std::sqrt(12.0 * kBankRows);
  EXPECT_NEAR(mean, static_cast<double>(n - 1), 4 * spread);
}

TEST_F(FeatureScoresTest, DamagedStatisticsAreRefused) {
  TensorMap tensors;
  EXPECT_FALSE(HasFeatureStatistics(tensors));
  Gather({kExamples}).PutInto(tensors);
  EXPECT_TRUE(HasFeatureStatistics(tensors));
  for (const std::string name : {"features.counts", "features.scatter", "features.bank",
                                 "features.bank_max_logits", "features.bank_priorities"}) {
    TensorMap damaged = tensors;
    damaged[name] = damaged[name].narrow(0, 0, 1);
    EXPECT_TRUE(absl::IsDataLoss(TakeFeatureStatistics(damaged).status())) << name;
    damaged.erase(name);
    EXPECT_TRUE(absl::IsDataLoss(TakeFeatureStatistics(damaged).status())) << name;
  }
}

TEST_F(FeatureScoresTest, EveryScoreMatchesScikitLearn) {
  const std::string python = test_support::FindPython("numpy, scipy, sklearn");
  if (python.empty()) GTEST_SKIP() << "needs Debian's package python3-sklearn";
  const Data validation = MakeData(400, 30, w_, b_);
  // Half of the test examples are something else.
  at::Tensor phi = test_.phi.clone();
  phi.narrow(0, 100, 100).copy_(RandomNormal({100, kWidth}, 40).abs() * 2);
  const at::Tensor f = at::matmul(phi, w_.t()) + b_;
  const at::Tensor half = RandomNormal({200, kClasses, kClasses}, 41);
  const at::Tensor v = at::matmul(half, half.transpose(1, 2));

  OodKnowledge knowledge;
  knowledge.features = std::make_shared<const FeatureScores>(Gather({1300, 1000}), Layer());
  ClassTemplates templates(kClasses);
  templates.Add(validation.f.narrow(0, 0, 150));
  templates.Add(validation.f.narrow(0, 150, 250));
  knowledge.templates = std::make_shared<const ClassTemplates>(templates);
  OodInputs inputs;
  inputs.f = f;
  inputs.features = phi;
  inputs.covariance = v;

  const test_support::TempFolder folder;
  test_support::WriteTensors(folder.path() + "/in.npz", {{"train_phi", train_.phi},
                                                         {"train_y", train_.y},
                                                         {"train_f", train_.f},
                                                         {"val_f", validation.f},
                                                         {"head_w", w_},
                                                         {"head_b", b_},
                                                         {"phi", phi},
                                                         {"f", f},
                                                         {"v", v}});
  const auto run = test_support::RunPython(
      python, "import runpy, sys; runpy.run_path(sys.argv[3], run_name='__main__')",
      {folder.path() + "/in.npz", folder.path() + "/out.npz",
       LAPLACED_SOURCE_DIR "/tests/reference/ood_reference.py"});
  ASSERT_EQ(run.exit_status, 0) << run.output;
  const auto expected = test_support::ReadTensors(folder.path() + "/out.npz");
  ASSERT_EQ(expected.size(), 16u);
  for (const auto& [name, values] : expected) {
    const at::Tensor mine = ComputeOodScores({name}, inputs, Likelihood(), knowledge)[0];
    const double scale = std::max(1.0, values.abs().max().item<double>());
    // The bank is fp32; the oracle draws its own samples.
    const double tolerance = name == "mutual_information"                        ? 0.08
                             : name == "knn" || name == "vim" || name == "react" ? 1e-6
                                                                                 : 1e-9;
    EXPECT_LT((mine - values).abs().max().item<double>() / scale, tolerance) << name;
  }
  // The sign, where the others are far from everything that was seen.
  for (const std::string name : {"mahalanobis", "relative_mahalanobis", "knn", "vim"}) {
    const at::Tensor mine = ComputeOodScores({name}, inputs, Likelihood(), knowledge)[0];
    EXPECT_GT(mine.narrow(0, 100, 100).median().item<double>(),
              mine.narrow(0, 0, 100).median().item<double>())
        << name;
  }
}

TEST_F(FeatureScoresTest, CombinedIsTheSoftMaximumOfItsPartsInTheirOwnSpreads) {
  OodKnowledge knowledge;
  knowledge.features = std::make_shared<const FeatureScores>(Gather({kExamples}), Layer());
  EXPECT_EQ(DefaultOodScore(knowledge), "moderated_energy");
  knowledge.combined = {{"knn", .5, .25}, {"react", -3, 2}, {"moderated_energy", 1, 0}};
  EXPECT_EQ(DefaultOodScore(knowledge), "combined");
  EXPECT_TRUE(NeedsFeatures({"combined"}) && NeedsPosterior({"combined"}));
  EXPECT_EQ(NeededFor({"combined"}, {}).variance_at.size(), 1u);
  OodInputs inputs;
  inputs.f = test_.f;
  inputs.features = test_.phi;
  inputs.variance = RandomNormal({200, kClasses}, 50).square();
  const auto scores =
      ComputeOodScores({"combined", "knn", "react"}, inputs, Likelihood(), knowledge);
  const at::Tensor expected =
      0.5 * ((2 * (scores[1] - .5) / .25).exp() + (2 * (scores[2] + 3) / 2).exp() + 1).log();
  EXPECT_LT((scores[0] - expected).abs().max().item<double>(), 1e-12);
}

TEST_F(FeatureScoresTest, WhatIsKnownDecidesWhichScoresThereAre) {
  OodKnowledge knowledge;
  const auto has = [&](const std::string& name) {
    const auto names = OodScoreNames(knowledge);
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  EXPECT_FALSE(has("knn") || has("kl_matching") || has("vim"));
  FeatureLayer inner = Layer();
  inner.head_weight = inner.head_bias = at::Tensor();
  knowledge.features = std::make_shared<const FeatureScores>(Gather({kExamples}), inner);
  EXPECT_TRUE(has("knn") && has("mahalanobis") && has("relative_mahalanobis"));
  EXPECT_FALSE(has("vim") || has("react"));
  knowledge.features = std::make_shared<const FeatureScores>(Gather({kExamples}), Layer());
  EXPECT_TRUE(has("vim") && has("react"));
  knowledge.kind = Likelihood::Kind::kGaussian;
  EXPECT_TRUE(has("knn") && has("mahalanobis"));
  EXPECT_FALSE(has("vim") || has("relative_mahalanobis"));
}

}  // namespace
}  // namespace laplaced
