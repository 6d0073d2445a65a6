#include "server/laplace/fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/curvature/ggn_operator.h"
#include "server/data/sampler.h"
#include "server/laplace/low_rank_structure.h"
#include "server/model/field_error.h"
#include "tests/reference/dense.h"
#include "tests/reference/networks.h"

namespace laplaced {
namespace {

using reference::RandomNormal;
using ::testing::HasSubstr;

double Max(const at::Tensor& t) { return t.abs().max().item<double>(); }

class FitTest : public ::testing::Test {
 protected:
  FitTest() {
    options_.low_rank.rank = 6;
    options_.low_rank.direction_batch_size = 30;
    options_.low_rank.curvature_batch_size = 60;
    options_.low_rank.lanczos_tolerance = 1e-8;
    options_.prior_precision = 2.0;
  }

  absl::StatusOr<FitResult> Fit(const FitProgressFn& progress = nullptr) {
    const CapturePlan plan = FindCapturedParameters(risk_.network);
    const absl::Status status = CheckFit(risk_, plan, validation_, options_);
    return status.ok() ? RunFit(risk_, plan, validation_, options_, progress) : status;
  }

  void ExpectRefused(const std::string& field, const std::string& text) {
    const absl::Status status = Fit().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(FieldOf(status), field);
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }

  EmpiricalRisk risk_ =
      reference::MakeRisk(reference::TanhMlp(4, 6, 3), Likelihood{}, RandomNormal({120, 4}, 1),
                          at::arange(120, at::kLong).remainder(3));
  Dataset validation_;
  FitOptions options_;
};

TEST_F(FitTest, EveryNumberAgreesWithADenseComputation) {
  options_.low_rank.residual = ResidualKind::kIsotropic;
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok()) << fit.status();
  const auto batches = DisjointBatches(120, {30, 60}, 0);
  const at::Tensor x = risk_.data.inputs;
  const at::Tensor g1 =
      reference::Ggn(risk_.network, risk_.likelihood, x.index_select(0, batches[0]));
  const at::Tensor g2 =
      reference::Ggn(risk_.network, risk_.likelihood, x.index_select(0, batches[1]));
  const at::Tensor top = std::get<0>(at::linalg_eigh(g1, "L")).flip(0).narrow(0, 0, 6);
  const CurvatureReport& report = fit->report;
  EXPECT_LT(Max(report.biased - top), 1e-9);
  const auto& structure = static_cast<const LowRankStructure&>(*fit->posterior.structure);
  const at::Tensor u = structure.curvature().directions;
  EXPECT_LT(Max(report.eigenvalues - (u * at::mm(g2, u)).sum(0)), 1e-12);
  const double trace = g2.trace().item<double>();
  EXPECT_NEAR(report.trace, trace, 1e-11);
  const int64_t p = risk_.network.n_parameters();
  const double rho = (trace - report.eigenvalues.sum().item<double>()) / (p - 6);
  EXPECT_NEAR(report.residual, rho, 1e-12);
  EXPECT_EQ(fit->posterior.n_data, 120);

  const at::Tensor identity = at::eye(p, at::kDouble);
  const at::Tensor precision =
      120 * (at::mm(u * report.eigenvalues, u.t()) + rho * (identity - at::mm(u, u.t()))) +
      2 * identity;
  const at::Tensor theta = risk_.network.FlatParameters();
  const double sum_loss = -at::log_softmax(risk_.network.Forward(x), 1)
                               .gather(1, risk_.data.targets.unsqueeze(1))
                               .sum()
                               .item<double>();
  const double evidence = -sum_loss - theta.square().sum().item<double>() +
                          0.5 * p * std::log(2.0) - 0.5 * at::logdet(precision).item<double>();
  EXPECT_NEAR(fit->log_marginal_likelihood, evidence, 1e-8 * std::abs(evidence));
  EXPECT_NEAR(fit->effective_parameters, p - 2 * at::inverse(precision).trace().item<double>(),
              1e-8);
  EXPECT_TRUE(fit->warnings.empty());
}

// The same for the other two structures, end to end.
TEST_F(FitTest, TheLastLayersPosteriorIsTheDenseOneOfItsParameters) {
  options_.structure = StructureKind::kLastLayer;
  const auto names = ParametersOf(risk_.network, options_);
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_EQ(*names, (std::vector<std::string>{"w2", "b2"}));
  const at::Tensor dense = reference::Ggn(risk_.network, risk_.likelihood, risk_.data.inputs);
  const Parameter first = risk_.network.parameters()[2];  // a copy: the network is replaced below
  const int64_t p = risk_.network.n_parameters() - first.offset;
  risk_.network = risk_.network.Restrict(*names);
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok()) << fit.status();
  const at::Tensor block = dense.narrow(0, first.offset, p).narrow(1, first.offset, p);
  const at::Tensor covariance = at::inverse(120 * block + 2 * at::eye(p, at::kDouble));
  const at::Tensor root = fit->posterior.Deviations(at::eye(p, at::kDouble));
  EXPECT_LT(Max(at::mm(root, root.t()) - covariance), 1e-10);
  EXPECT_NEAR(fit->report.trace, block.trace().item<double>(), 1e-12);
  EXPECT_EQ(fit->report.count, 120);
}

TEST_F(FitTest, AKroneckerPosteriorMeasuresOnTheSecondBatch) {
  options_.structure = StructureKind::kKfac;
  const auto exact = Fit();
  ASSERT_TRUE(exact.ok()) << exact.status();
  options_.kfac_exact = false;
  const auto factors = Fit();
  options_.low_rank.debiasing = Debiasing::kNone;
  const auto biased = Fit();
  ASSERT_TRUE(factors.ok() && biased.ok());
  const auto batches = DisjointBatches(120, {30, 60}, 0);
  const at::Tensor g2 = reference::Ggn(risk_.network, risk_.likelihood,
                                       risk_.data.inputs.index_select(0, batches[1]));
  // Exact eigenvalues keep every block's trace.
  for (size_t i = 0; i < exact->report.blocks.size(); ++i) {
    const Parameter& parameter = risk_.network.parameters()[i];
    EXPECT_NEAR(
        exact->report.blocks[i].trace,
        g2.diagonal().narrow(0, parameter.offset, parameter.value.numel()).sum().item<double>(),
        1e-12);
    EXPECT_DOUBLE_EQ(biased->report.blocks[i].debiased_sum, biased->report.blocks[i].biased_sum);
    EXPECT_DOUBLE_EQ(factors->report.blocks[i].biased_sum, biased->report.blocks[i].biased_sum);
  }
  EXPECT_NE(factors->report.trace, biased->report.trace);
}

TEST_F(FitTest, UpdatingEqualsHavingHadTheDataAtOnce) {
  const auto extra = reference::MakeRisk(risk_.network, Likelihood{}, RandomNormal({40, 4}, 3),
                                         at::zeros({40}, at::kLong));
  for (const auto kind :
       {StructureKind::kLowRank, StructureKind::kKfac, StructureKind::kLastLayer}) {
    options_.structure = kind;
    const auto fit = Fit();
    ASSERT_TRUE(fit.ok()) << fit.status();
    const CapturePlan plan = FindCapturedParameters(risk_.network);
    const UpdateStart start{fit->fitted, 120, fit->mean_train_loss, 2.0, 2.0, 0};
    const auto updated = RunUpdate(extra, plan, validation_, options_, start, nullptr);
    ASSERT_TRUE(updated.ok()) << updated.status();
    EXPECT_EQ(updated->posterior.n_data, 160);
    EXPECT_DOUBLE_EQ(updated->posterior.prior_precision, 2);
    EmpiricalRisk all = risk_;
    all.data = {at::cat({risk_.data.inputs, extra.data.inputs}),
                at::cat({risk_.data.targets, extra.data.targets})};
    EXPECT_NEAR(updated->mean_train_loss, *all.MeanLoss(), 1e-13);
    // In two portions: the same.
    EmpiricalRisk part = extra;
    part.data = extra.data.Slice(0, 15);
    const auto first = RunUpdate(part, plan, validation_, options_, start, nullptr);
    part.data = extra.data.Slice(15, 40);
    const UpdateStart next{
        first->fitted, first->posterior.n_data, first->mean_train_loss, 2.0, 2.0, 0};
    const auto second = RunUpdate(part, plan, validation_, options_, next, nullptr);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_NEAR(second->log_marginal_likelihood, updated->log_marginal_likelihood, 1e-9);
    EXPECT_NEAR(second->report.trace, updated->report.trace, 1e-13);
    if (kind == StructureKind::kLastLayer) {
      risk_.data = all.data;
      const auto whole = Fit();
      EXPECT_NEAR(updated->log_marginal_likelihood, whole->log_marginal_likelihood, 1e-9);
      EXPECT_NEAR(updated->effective_parameters, whole->effective_parameters, 1e-9);
    }
  }
}

TEST_F(FitTest, WithoutDebiasingTheCurvatureIsTheRitzValues) {
  options_.low_rank.debiasing = Debiasing::kNone;
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok());
  EXPECT_TRUE(at::equal(fit->report.eigenvalues, fit->report.biased));
}

TEST_F(FitTest, TheDirectionBatchOverestimatesWhatAnIndependentBatchMeasures) {
  double biased = 0, debiased = 0;
  options_.low_rank.direction_batch_size = 8;
  options_.low_rank.curvature_batch_size = 100;
  for (options_.low_rank.seed = 0; options_.low_rank.seed < 10; ++options_.low_rank.seed) {
    const auto fit = Fit();
    ASSERT_TRUE(fit.ok());
    biased += fit->report.biased[0].item<double>();
    debiased += fit->report.eigenvalues[0].item<double>();
  }
  EXPECT_GT(biased, 1.2 * debiased);
}

TEST_F(FitTest, TheSameSeedGivesTheSameDigits) {
  const auto first = Fit(), again = Fit();
  options_.low_rank.seed = 1;
  const auto other = Fit();
  const at::Tensor noise = at::eye(risk_.network.n_parameters(), at::kDouble);
  EXPECT_TRUE(at::equal(first->posterior.Deviations(noise), again->posterior.Deviations(noise)));
  EXPECT_TRUE(at::equal(first->report.eigenvalues, again->report.eigenvalues));
  EXPECT_FALSE(at::equal(first->report.eigenvalues, other->report.eigenvalues));
}

TEST_F(FitTest, PriorPrecisionComesFromWeightDecayOrValidationData) {
  options_.prior_precision = absl::nullopt;
  risk_.manifest.n_data = 1000;
  risk_.manifest.weight_decay = 0.01;
  const auto decay = Fit();
  ASSERT_TRUE(decay.ok()) << decay.status();
  EXPECT_DOUBLE_EQ(decay->posterior.prior_precision, 10);
  EXPECT_EQ(decay->posterior.n_data, 1000);

  validation_ = {RandomNormal({50, 4}, 8), at::arange(50, at::kLong).remainder(3)};
  const auto tuned = Fit();
  ASSERT_TRUE(tuned.ok());
  EXPECT_EQ(tuned->prior_candidates.size(), 57u);
  EXPECT_DOUBLE_EQ(tuned->ood_prior_precision, 10);
  EXPECT_EQ(tuned->validation_count, 50);
  EXPECT_EQ(tuned->prior_method, PriorMethod::kValidation);
  // The candidates' NLL by a pass of its own.
  const CapturePlan plan = FindCapturedParameters(risk_.network);
  double best = INFINITY;
  for (const PriorCandidate& candidate : tuned->prior_candidates) {
    LinearizeRequest request;
    request.variance_at = {
        tuned->posterior.WithPriorPrecision(candidate.prior_precision).precisions()};
    const auto batch =
        tuned->posterior.structure->Linearize(risk_.network, plan, validation_.inputs, request);
    const double nll =
        PredictiveLoss(risk_.likelihood, batch->f, batch->variance[0], validation_.targets)
            .mean()
            .item<double>();
    EXPECT_NEAR(candidate.validation_nll, nll, 1e-12);
    if (nll < best) {
      best = nll;
      EXPECT_LE(candidate.prior_precision, tuned->posterior.prior_precision);
    }
  }
}

TEST_F(FitTest, EvidenceChoosesThePrecisionThatMaximisesIt) {
  options_.prior_precision = absl::nullopt;
  options_.prior_method = PriorMethod::kEvidence;
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok()) << fit.status();
  for (const PriorCandidate& candidate : fit->prior_candidates) {
    EXPECT_LE(candidate.log_marginal_likelihood, fit->log_marginal_likelihood + 1e-8);
  }
  EXPECT_GT(fit->prior_candidates.size(), 57u);
  EXPECT_NEAR(fit->effective_parameters,
              fit->posterior.prior_precision * fit->parameter_norm_squared, 1e-4);
}

TEST_F(FitTest, BiasesMayHaveAPriorOfTheirOwn) {
  options_.prior_precision = absl::nullopt;
  risk_.manifest.weight_decay = 0.1;
  risk_.manifest.bias_weight_decay = 0.025;
  options_.low_rank.residual = ResidualKind::kNone;
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_NEAR(fit->posterior.prior_precision, 12, 1e-12);
  const auto& structure = static_cast<const LowRankStructure&>(*fit->posterior.structure);
  const at::Tensor u = structure.curvature().directions;
  at::Tensor prior = at::full({u.size(0)}, 12.0, at::kDouble);
  for (const Parameter& p : risk_.network.parameters()) {
    if (p.value.dim() == 1) prior.narrow(0, p.offset, p.value.numel()).fill_(3.0);
  }
  const at::Tensor precision = 120 * at::mm(u * fit->report.eigenvalues, u.t()) + at::diag(prior);
  const at::Tensor theta = risk_.network.FlatParameters();
  const double evidence =
      -120 * fit->mean_train_loss - 0.5 * (prior * theta.square()).sum().item<double>() +
      0.5 * prior.log().sum().item<double>() - 0.5 * at::logdet(precision).item<double>();
  EXPECT_NEAR(fit->log_marginal_likelihood, evidence, 1e-9 * std::abs(evidence));
}

class RegressionFitTest : public FitTest {
 protected:
  RegressionFitTest() {
    risk_.likelihood = risk_.manifest.likelihood = {Likelihood::Kind::kGaussian, 0.7};
    risk_.data.targets =
        risk_.network.Forward(risk_.data.inputs) + 0.4 * RandomNormal({120, 3}, 77);
  }
};

TEST_F(RegressionFitTest, NoiseFromTheDataIsTheRootMeanSquareOfTheResiduals) {
  options_.noise_method = NoiseMethod::kData;
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok()) << fit.status();
  const at::Tensor residuals = risk_.data.targets - risk_.network.Forward(risk_.data.inputs);
  const double rms = std::sqrt(residuals.square().mean().item<double>());
  EXPECT_NEAR(fit->sigma_noise, rms, 1e-12);
  // The same as if it had been given.
  options_.noise_method = absl::nullopt;
  options_.sigma_noise = rms;
  const auto given = Fit();
  EXPECT_NEAR(given->log_marginal_likelihood, fit->log_marginal_likelihood, 1e-9);
  EXPECT_NEAR(given->mean_train_loss, fit->mean_train_loss, 1e-12);
  EXPECT_LT(Max(given->report.eigenvalues - fit->report.eigenvalues), 1e-9);
}

TEST_F(RegressionFitTest, NoiseByEvidenceIsConsistentWithAFitAtThatNoise) {
  options_.noise_method = NoiseMethod::kEvidence;
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_GT(fit->sigma_noise, 0.3);
  EXPECT_LT(fit->sigma_noise, 0.5);
  options_.noise_method = absl::nullopt;
  for (const double factor : {0.97, 1.0, 1.03}) {
    options_.sigma_noise = fit->sigma_noise * factor;
    const auto given = Fit();
    ASSERT_TRUE(given.ok());
    if (factor == 1.0) {
      EXPECT_NEAR(given->log_marginal_likelihood, fit->log_marginal_likelihood, 1e-7);
      EXPECT_LT(Max(given->report.eigenvalues - fit->report.eigenvalues), 1e-7);
    } else {
      EXPECT_LT(given->log_marginal_likelihood, fit->log_marginal_likelihood);
    }
  }
}

TEST_F(RegressionFitTest, NoiseByEvidenceNeedsACurvatureInProportionToIt) {
  options_.noise_method = NoiseMethod::kEvidence;
  options_.low_rank.curvature.kind = CurvatureKind::kEmpiricalFisher;
  ExpectRefused("options.noise_method", "empirical Fisher");
}

TEST_F(RegressionFitTest, WithoutNoiseInTheManifestASourceMustBeNamed) {
  risk_.likelihood.sigma_noise = risk_.manifest.likelihood.sigma_noise = 0;
  ExpectRefused("options.noise_method", "states no sigma_noise");
  options_.noise_method = NoiseMethod::kData;
  EXPECT_TRUE(Fit().ok());
}

TEST_F(FitTest, MultiLabelDataFit) {
  risk_.likelihood = risk_.manifest.likelihood = {Likelihood::Kind::kBernoulli, 1};
  risk_.data.targets = (RandomNormal({120, 3}, 5) > 0).to(at::kFloat);
  for (const auto kind :
       {StructureKind::kLowRank, StructureKind::kKfac, StructureKind::kLastLayer}) {
    options_.structure = kind;
    const auto fit = Fit();
    ASSERT_TRUE(fit.ok()) << fit.status();
    EXPECT_GT(fit->report.trace, 0);
  }
}

TEST_F(FitTest, NumbersThatOverflowAreRefusedAndNeverCrash) {
  options_.low_rank.direction_batch_size = options_.low_rank.curvature_batch_size = int64_t{1}
                                                                                    << 62;
  ExpectRefused("options.curvature_batch_size", "distinct examples");
  options_.low_rank.direction_batch_size = 30;
  options_.low_rank.curvature_batch_size = 60;
  options_.low_rank.lanczos_memory_bytes = INT64_MAX;
  EXPECT_TRUE(Fit().ok());
  options_.prior_precision = 1e300;
  ExpectRefused("options.prior_precision", "1e+30");
  options_.prior_precision = 1;
  options_.temperature = 1e-300;
  ExpectRefused("options.temperature", "1e-30");
  options_.temperature = 1;
  options_.low_rank.curvature = {CurvatureKind::kMcFisher, 100000, 0};
  ExpectRefused("options.fisher_samples", "1 to 1024");
}

TEST_F(FitTest, CurvatureThatIsNotFiniteIsAnErrorNotAPosterior) {
  // sqrt has no derivative at zero; the loss is finite all the same.
  risk_ = reference::MakeRisk(
      reference::MakeNetwork(
          reference::MakeModule({{"w", {3, 4}}},
                                "  return torch.sqrt(torch.abs(torch.linear(x, self.w)))\n",
                                at::kDouble),
          {4}, 3),
      Likelihood{}, RandomNormal({120, 4}, 1), at::arange(120, at::kLong).remainder(3));
  risk_.data.inputs[7].zero_();
  for (const auto kind : {StructureKind::kLowRank, StructureKind::kKfac}) {
    options_.structure = kind;
    options_.low_rank.direction_batch_size = 59;
    options_.low_rank.curvature_batch_size = 61;
    const absl::Status status = Fit().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("not finite"));
  }
}

TEST_F(FitTest, WhatDoesNotGoTogetherIsRefused) {
  options_.low_rank.curvature.kind = CurvatureKind::kHessian;
  options_.structure = StructureKind::kKfac;
  ExpectRefused("options.curvature", "LOW_RANK");
  options_.low_rank.curvature.kind = CurvatureKind::kGgn;
  options_.low_rank.debiasing = Debiasing::kFullPass;
  ExpectRefused("options.debiasing", "NONE or TWO_BATCH");
  options_.structure = StructureKind::kLowRank;
  options_.low_rank.direction_batch_size = 119;
  ExpectRefused("options.direction_batch_size", "need 121 distinct examples");
  options_.low_rank.direction_batch_size = 30;
  options_.temperature = -1;
  ExpectRefused("options.temperature", "> 0");
  options_.temperature = 1;
  options_.sigma_noise = 1;
  ExpectRefused("options.sigma_noise", "Gaussian");
  options_.sigma_noise = absl::nullopt;
  options_.prior_method = PriorMethod::kEvidence;
  ExpectRefused("options.prior_precision", "another prior_method");
  options_.prior_precision = absl::nullopt;
  options_.prior_method = PriorMethod::kValidation;
  ExpectRefused("options.prior_method", "needs validation data");
  options_.prior_method = PriorMethod::kGiven;
  ExpectRefused("options.prior_precision", "is required with prior_method GIVEN");
  options_.prior_precision = 1;
  options_.low_rank.lanczos_memory_bytes = 1000;
  ExpectRefused("options.memory_limit_bytes", "rank + 6 vectors");
}

TEST_F(FitTest, CancellingStopsAtTheNextStepOfAnyPhase) {
  for (const std::string phase : {"training loss", "directions", "curvature", "validation"}) {
    validation_ = {RandomNormal({10, 4}, 8), at::zeros({10}, at::kLong)};
    const auto fit = Fit([&](const std::string& now, int64_t, int64_t, double) {
      return now == phase ? absl::CancelledError("stop") : absl::OkStatus();
    });
    EXPECT_EQ(fit.status().code(), absl::StatusCode::kCancelled) << phase;
  }
}

TEST_F(FitTest, ProgressNeverFalls) {
  double last = 0;
  const auto fit = Fit([&](const std::string&, int64_t, int64_t, double fraction) {
    EXPECT_GE(fraction, last);
    EXPECT_LE(fraction, 1);
    last = fraction;
    return absl::OkStatus();
  });
  ASSERT_TRUE(fit.ok());
  EXPECT_GE(last, 0.7);  // saving comes after it
}

TEST_F(FitTest, ImpossibleSizesAreRefusedBeforeWorkStarts) {
  options_.low_rank.rank = 1000;
  ExpectRefused("options.rank", "expected 1 to 51");
  options_.low_rank.rank = 6;
  options_.low_rank.curvature_batch_size = 100;
  ExpectRefused("options.curvature_batch_size", "need 130 distinct examples");
  options_.low_rank.debiasing = Debiasing::kNone;
  options_.low_rank.direction_batch_size = 121;
  ExpectRefused("options.direction_batch_size", "the training data has 120");
}

TEST_F(FitTest, ARankThatMemoryCannotHoldIsRefused) {
  options_.low_rank.rank = 20;
  options_.memory_limit_bytes = 51 * 8 * 40;
  ExpectRefused("options.rank", "at most 14 would fit");
  options_.low_rank.rank = 14;
  EXPECT_TRUE(Fit().ok());
}

TEST_F(FitTest, TheKroneckerFactorsOfAllLayersCountTogether) {
  // Four layers of 80 x 80: sums and eigenvectors of 2 x 80 x 80 numbers each, 205 kB.
  std::string body = "  h = torch.tanh(torch.linear(x, self.first))\n";
  std::vector<std::pair<std::string, std::vector<int64_t>>> weights = {{"first", {80, 4}}};
  for (const std::string name : {"a", "b", "c", "d"}) {
    weights.push_back({name, {80, 80}});
    body += "  h = torch.tanh(torch.linear(h, self." + name + "))\n";
  }
  weights.push_back({"last", {3, 80}});
  risk_ = reference::MakeRisk(
      reference::MakeNetwork(
          reference::MakeModule(weights, body + "  return torch.linear(h, self.last)\n",
                                at::kDouble, 0, 0.1),
          {4}, 3),
      Likelihood{}, risk_.data.inputs, risk_.data.targets);
  options_.structure = StructureKind::kKfac;
  // More than any one of them needs, and less than the sums and eigenvectors of all.
  options_.memory_limit_bytes = 900'000;
  ExpectRefused("options.structure", "those of a the most");
  options_.memory_limit_bytes = 100'000'000;
  EXPECT_TRUE(Fit().ok());
}

TEST_F(FitTest, ATableThatHasNoKroneckerFactorsNeedsNoMemoryForThem) {
  // Square matrices of 3,000 rows would take 144 MB; what is kept are 12,000 numbers.
  risk_ = reference::MakeRisk(
      reference::MakeNetwork(
          reference::MakeModule({{"table", {3000, 4}}, {"head", {3, 4}}},
                                "  i = (torch.abs(x[:, 0]) * 900.0).clamp(0.0, 2999.0).long()\n"
                                "  h = torch.tanh(torch.embedding(self.table, i))\n"
                                "  return torch.linear(h, self.head)\n",
                                at::kDouble),
          {4}, 3),
      Likelihood{}, risk_.data.inputs, risk_.data.targets);
  options_.structure = StructureKind::kKfac;
  options_.memory_limit_bytes = 10'000'000;
  const auto fit = Fit();
  ASSERT_TRUE(fit.ok()) << fit.status();
  EXPECT_EQ(fit->report.blocks[0].kind, "diagonal");
}

TEST_F(FitTest, NoCurvatureAtAllIsAnErrorNotAnEmptyPosterior) {
  risk_.data.inputs.fill_(0);
  for (const Parameter& p : risk_.network.parameters()) {
    at::NoGradGuard no_grad;
    if (p.name == "b2") at::Tensor(p.value).copy_(at::tensor({1e4, 0.0, 0.0}, at::kDouble));
  }
  risk_.data.targets.fill_(0);
  const absl::Status status = Fit().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("curvature of the direction batch is zero"));
}

TEST_F(FitTest, UnusableOptionsAreRefused) {
  options_.prior_precision = -1.0;
  ExpectRefused("options.prior_precision", "expected a finite number > 0, got -1");
  options_.prior_precision = absl::nullopt;
  ExpectRefused("options.prior_precision", "is required");
  options_.prior_precision = 1;
  options_.low_rank.lanczos_tolerance = 2;
  ExpectRefused("options.lanczos_tolerance", "(0, 1)");
}

TEST_F(FitTest, UnusableDataAreRefused) {
  risk_.data.targets = at::arange(120, at::kLong).remainder(4);
  ExpectRefused("train_dataset_id", "row 3 has label 3, expected 0 to 2");
  risk_.data.targets = at::zeros({120}, at::kLong);
  risk_.data.inputs = RandomNormal({120, 5}, 1);
  ExpectRefused("train_dataset_id", "examples have shape [5], expected [4]");
  risk_.data.inputs = RandomNormal({120, 4}, 1);
  validation_ = {at::zeros({3, 4}, at::kByte), at::zeros({3}, at::kLong)};
  ExpectRefused("validation_dataset_id", "uint8_scale");
}

TEST_F(FitTest, ALossThatIsNotFiniteNamesTheExample) {
  risk_.data.inputs[17][0] = INFINITY;
  risk_.data.inputs[17][1] = -INFINITY;
  const absl::Status status = Fit().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("training example 17"));
}

}  // namespace
}  // namespace laplaced
