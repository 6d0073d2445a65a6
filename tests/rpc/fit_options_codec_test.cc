#include "server/rpc/fit_options_codec.h"

#include <google/protobuf/descriptor.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/rpc/enum_words.h"
#include "tests/support/status_matchers.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using test_support::IsOk;
using ::testing::ElementsAre;

// Every value of an enum but UNSPECIFIED has one word of its own, and comes back from it.
template <typename Enum, size_t kSize>
void ExpectComplete(const EnumWord<Enum> (&table)[kSize]) {
  const auto* descriptor = google::protobuf::GetEnumDescriptor<Enum>();
  SCOPED_TRACE(descriptor->name());
  EXPECT_EQ(descriptor->value_count(), static_cast<int>(kSize) + 1);
  for (int i = 1; i < descriptor->value_count(); ++i) {
    const auto value = static_cast<Enum>(descriptor->value(i)->number());
    const auto word = WordOf(table, "field", value);
    ASSERT_THAT(word, IsOk());
    EXPECT_EQ(EnumOf(table, *word), value) << *word;
  }
  EXPECT_EQ(*WordOf(table, "field", Enum()), "");
  EXPECT_EQ(EnumOf(table, ""), Enum());
  EXPECT_EQ(EnumOf(table, "nonsense"), Enum());
}

TEST(EnumWordsTest, HoldEveryValue) {
  ExpectComplete(kDebiasingWords);
  ExpectComplete(kResidualWords);
  ExpectComplete(kStructureWords);
  ExpectComplete(kCurvatureWords);
  ExpectComplete(kKfacEigenvaluesWords);
  ExpectComplete(kPriorMethodWords);
  ExpectComplete(kNoiseMethodWords);
}

// Every option that goes with LOW_RANK, none at its default.
v1::FitOptions LowRankOptions() {
  v1::FitOptions options;
  options.set_rank(7);
  options.set_direction_batch_size(8);
  options.set_curvature_batch_size(9);
  options.set_debiasing(v1::DEBIASING_STRATEGY_TWO_BATCH);
  options.set_residual(v1::RESIDUAL_KIND_DIAGONAL);
  options.set_seed(10);
  options.set_prior_precision(11);
  options.set_ood_prior_precision(12);
  options.set_lanczos_tolerance(0.5);
  options.set_max_products(13);
  options.set_target_id_rate(0.1);
  options.set_max_validation_examples(14);
  options.set_structure(v1::POSTERIOR_STRUCTURE_LOW_RANK);
  options.set_curvature(v1::CURVATURE_KIND_MC_FISHER);
  options.add_parameters("head.*");
  options.add_parameters("fc.weight");
  options.set_prior_method(v1::PRIOR_METHOD_GIVEN);
  options.set_temperature(0.25);
  options.set_noise_method(v1::NOISE_METHOD_GIVEN);
  options.set_sigma_noise(15);
  options.set_target_relative_standard_error(0.125);
  options.set_variance_correction(true);
  options.set_memory_limit_bytes(int64_t{1} << 40);
  options.set_fisher_samples(16);
  options.set_feature_layer("conv.weight");
  return options;
}

TEST(ReadFitOptionsTest, ReadsEveryOption) {
  FitRequest fit;
  ASSERT_THAT(ReadFitOptions(LowRankOptions(), &fit), IsOk());
  EXPECT_EQ(fit.rank, 7);
  EXPECT_EQ(fit.direction_batch_size, 8);
  EXPECT_EQ(fit.curvature_batch_size, 9);
  EXPECT_EQ(fit.debiasing, "two_batch");
  EXPECT_EQ(fit.residual, "diagonal");
  EXPECT_EQ(fit.seed, 10u);
  EXPECT_EQ(fit.prior_precision.value_or(0), 11);
  EXPECT_EQ(fit.ood_prior_precision.value_or(0), 12);
  EXPECT_EQ(fit.lanczos_tolerance, 0.5);
  EXPECT_EQ(fit.max_products, 13);
  EXPECT_EQ(fit.target_id_rate, 0.1);
  EXPECT_EQ(fit.max_validation_examples, 14);
  EXPECT_EQ(fit.structure, "low_rank");
  EXPECT_EQ(fit.curvature, "mc_fisher");
  EXPECT_THAT(fit.parameters, ElementsAre("head.*", "fc.weight"));
  EXPECT_EQ(fit.prior_method, "given");
  EXPECT_EQ(fit.temperature, 0.25);
  EXPECT_EQ(fit.noise_method, "given");
  EXPECT_EQ(fit.sigma_noise.value_or(0), 15);
  EXPECT_EQ(fit.target_relative_standard_error, 0.125);
  EXPECT_TRUE(fit.variance_correction);
  EXPECT_EQ(fit.memory_limit_bytes, int64_t{1} << 40);
  EXPECT_EQ(fit.fisher_samples, 16);
  EXPECT_EQ(fit.feature_layer, "conv.weight");
}

// What a server must not refuse.
TEST(ReadFitOptionsTest, TakesWhatGoesTogether) {
  using O = v1::FitOptions;
  const std::vector<void (*)(O&)> changes = {
      [](O&) {},
      [](O& o) {
        o.set_structure(v1::POSTERIOR_STRUCTURE_KFAC);
        o.set_kfac_eigenvalues(v1::KFAC_EIGENVALUES_FACTORS);
        o.set_debiasing(v1::DEBIASING_STRATEGY_TWO_BATCH);
        o.set_curvature_batch_size(100);
        o.set_curvature(v1::CURVATURE_KIND_EMPIRICAL_FISHER);
        o.add_parameters("*");
      },
      [](O& o) {
        o.set_structure(v1::POSTERIOR_STRUCTURE_KFAC);
        o.set_debiasing(v1::DEBIASING_STRATEGY_NONE);
      },
      [](O& o) {
        o.set_structure(v1::POSTERIOR_STRUCTURE_LAST_LAYER);
        o.set_temperature(2);
      },
      [](O& o) { o.set_debiasing(v1::DEBIASING_STRATEGY_CROSS_FIT); },
      [](O& o) {
        o.set_debiasing(v1::DEBIASING_STRATEGY_FULL_PASS);
        o.set_target_relative_standard_error(0.5);
      },
      [](O& o) { o.set_target_relative_standard_error(0.5); },
      [](O& o) { o.set_curvature(v1::CURVATURE_KIND_HESSIAN); },
      [](O& o) { o.set_prior_precision(1); },
      [](O& o) { o.set_sigma_noise(1); },
      [](O& o) {
        o.set_prior_method(v1::PRIOR_METHOD_EVIDENCE);
        o.set_noise_method(v1::NOISE_METHOD_EVIDENCE);
      }};
  for (const auto& change : changes) {
    O options;
    change(options);
    FitRequest fit;
    EXPECT_THAT(ReadFitOptions(options, &fit), IsOk()) << options.ShortDebugString();
  }
}

TEST(FillFitOptionsTest, FillsEveryOptionWithWhatWasUsed) {
  PosteriorRecord record;
  record.requested_rank = 7;
  record.direction_batch_size = 8;
  record.curvature_batch_size = 9;
  record.debiasing = "two_batch";
  record.residual_kind = "diagonal";
  record.seed = 10;
  record.prior_precision = 11;
  record.ood_prior_precision = 12;
  record.lanczos_tolerance = 0.5;
  record.max_products = 13;
  record.target_id_rate = 0.1;
  record.max_validation_examples = 14;
  record.structure = "low_rank";
  record.curvature = "mc_fisher";
  record.parameters = {"head.*", "fc.weight"};
  record.prior_method = "given";
  record.temperature = 0.25;
  record.noise_method = "given";
  record.sigma_noise = 15;
  record.target_relative_standard_error = 0.125;
  record.variance_correction = true;
  record.memory_limit_bytes = int64_t{1} << 40;
  record.fisher_samples = 16;
  record.feature_layer = "conv.weight";
  v1::FitOptions options;
  FillFitOptions(record, &options);
  EXPECT_EQ(options.DebugString(), LowRankOptions().DebugString());
  // Two of them go with other options only.
  record.kfac_eigenvalues = "exact";
  FillFitOptions(record, &options);
  EXPECT_EQ(options.kfac_eigenvalues(), v1::KFAC_EIGENVALUES_EXACT);
  FillFitOptions(PosteriorRecord(), &options);
  EXPECT_EQ(options.temperature(), 1);
}

}  // namespace
}  // namespace laplaced
