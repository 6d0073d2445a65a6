// Options of a fit: from the API's words to the core and into the artifact and back.
#include "server/serving/fit_records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/model/field_error.h"
#include "server/rpc/enum_words.h"

namespace laplaced {
namespace {

// Every word that the API can send is understood, kept in the record and read from it again.
template <typename Enum, size_t kSize>
void ExpectKnown(const EnumWord<Enum> (&words)[kSize], std::string FitRequest::*in,
                 std::string PosteriorRecord::*out, const FitRequest& base) {
  for (const auto& entry : words) {
    FitRequest request = base;
    request.*in = std::string(entry.word);
    const auto options = ToFitOptions(request);
    ASSERT_TRUE(options.ok()) << entry.word << ": " << options.status();
    PosteriorRecord record;
    FillOptions(*options, record);
    if (out == nullptr) continue;
    EXPECT_EQ(record.*out, entry.word);
    const auto again = ToFitOptions(record);
    ASSERT_TRUE(again.ok()) << again.status();
    PosteriorRecord second;
    FillOptions(*again, second);
    EXPECT_EQ(second.*out, entry.word);
  }
}

TEST(FitRecordsTest, EveryWordOfTheApiIsKnown) {
  FitRequest low_rank, kfac;
  kfac.structure = "kfac";
  ExpectKnown(kDebiasingWords, &FitRequest::debiasing, &PosteriorRecord::debiasing, low_rank);
  ExpectKnown(kResidualWords, &FitRequest::residual, &PosteriorRecord::residual_kind, low_rank);
  ExpectKnown(kStructureWords, &FitRequest::structure, &PosteriorRecord::structure, low_rank);
  ExpectKnown(kCurvatureWords, &FitRequest::curvature, &PosteriorRecord::curvature, low_rank);
  ExpectKnown(kKfacEigenvaluesWords, &FitRequest::kfac_eigenvalues,
              &PosteriorRecord::kfac_eigenvalues, kfac);
  // Methods are recorded as used, by the fit.
  ExpectKnown(kPriorMethodWords, &FitRequest::prior_method, nullptr, low_rank);
  ExpectKnown(kNoiseMethodWords, &FitRequest::noise_method, nullptr, low_rank);
}

TEST(FitRecordsTest, UnknownWordsNameTheirField) {
  FitRequest request;
  request.residual = "some";
  const absl::Status status = ToFitOptions(request).status();
  EXPECT_EQ(FieldOf(status), "options.residual");
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("layerwise"));
}

// As over gRPC, where tests/rpc/bad_requests_test.cc has every one: laplace-fit comes this way.
TEST(FitRecordsTest, OptionsWithoutAMeaningAreRefused) {
  using R = FitRequest;
  const struct {
    const char* field;
    const char* text;
    void (*change)(R&);
  } refused[] = {
      {"options.parameters", "expected none with POSTERIOR_STRUCTURE_LAST_LAYER",
       [](R& r) {
         r.structure = "last_layer";
         r.parameters = {"conv*"};
       }},
      {"options.residual", "POSTERIOR_STRUCTURE_KFAC, which leaves no residual, got RESIDUAL_KIND_",
       [](R& r) {
         r.structure = "kfac";
         r.residual = "none";
       }},
      {"options.rank", "has no meaning with POSTERIOR_STRUCTURE_KFAC: leave it out",
       [](R& r) {
         r.structure = "kfac";
         r.rank = 100;
       }},
      {"options.curvature_batch_size", "which uses all training data",
       [](R& r) {
         r.structure = "last_layer";
         r.curvature_batch_size = 100;
       }},
      {"options.fisher_samples", "got 8 with CURVATURE_KIND_GGN (the default)",
       [](R& r) { r.fisher_samples = 8; }},
      {"options.kfac_eigenvalues",
       "got KFAC_EIGENVALUES_FACTORS with POSTERIOR_STRUCTURE_LOW_RANK (the default)",
       [](R& r) { r.kfac_eigenvalues = "factors"; }},
      {"options.target_relative_standard_error", "expected 0 with DEBIASING_STRATEGY_NONE",
       [](R& r) {
         r.debiasing = "none";
         r.target_relative_standard_error = 0.1;
       }},
      {"options.curvature_batch_size", "DEBIASING_STRATEGY_FULL_PASS", [](R& r) {
         r.debiasing = "full_pass";
         r.curvature_batch_size = 10;
       }}};
  for (const auto& bad : refused) {
    FitRequest request;
    bad.change(request);
    const absl::Status status = ToFitOptions(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.text;
    EXPECT_EQ(FieldOf(status), bad.field);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(bad.text));
  }
}

TEST(FitRecordsTest, NumbersGoIntoTheRecordAndBack) {
  FitRequest request;
  request.rank = 7;
  request.direction_batch_size = 11;
  request.curvature_batch_size = 13;
  request.seed = 17;
  request.temperature = 0.5;
  request.variance_correction = true;
  request.memory_limit_bytes = 1 << 20;
  request.target_relative_standard_error = 0.1;
  request.parameters = {"a", "b.*"};
  request.curvature = "mc_fisher";
  request.fisher_samples = 3;
  const auto options = ToFitOptions(request);
  ASSERT_TRUE(options.ok());
  PosteriorRecord record;
  FillOptions(*options, record);
  const auto again = ToFitOptions(record);
  ASSERT_TRUE(again.ok());
  for (const FitOptions* o : {&*options, &*again}) {
    EXPECT_EQ(o->low_rank.rank, 7);
    EXPECT_EQ(o->low_rank.direction_batch_size, 11);
    EXPECT_EQ(o->low_rank.curvature_batch_size, 13);
    EXPECT_EQ(o->low_rank.curvature.seed, 17u);
    EXPECT_EQ(o->low_rank.curvature.fisher_samples, 3);
    EXPECT_EQ(o->temperature, 0.5);
    EXPECT_TRUE(o->low_rank.variance_correction);
    EXPECT_EQ(o->low_rank.lanczos_memory_bytes, 1 << 20);
    EXPECT_EQ(o->low_rank.target_relative_standard_error, 0.1);
    EXPECT_EQ(o->parameters, request.parameters);
  }
}

}  // namespace
}  // namespace laplaced
