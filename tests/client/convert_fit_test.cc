// Every option of a fit and every field of a posterior crosses the wire.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/cpp/convert.h"

namespace laplace::client {
namespace {

using ::testing::ElementsAre;

// Sets every field to something else than its default; of an enum, the value `turn` after it.
void Fill(google::protobuf::Message& message, int turn) {
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const auto* field = message.GetDescriptor()->field(i);
    const bool many = field->is_repeated();
    const auto set = [&](auto add, auto set_one, auto value) {
      many ? (reflection->*add)(&message, field, value)
           : (reflection->*set_one)(&message, field, value);
    };
    using R = google::protobuf::Reflection;
    switch (field->cpp_type()) {
      case field->CPPTYPE_MESSAGE:
        Fill(many ? *reflection->AddMessage(&message, field)
                  : *reflection->MutableMessage(&message, field),
             turn);
        break;
      case field->CPPTYPE_ENUM: {
        const int values = field->enum_type()->value_count() - 1;
        set(&R::AddEnumValue, &R::SetEnumValue,
            field->enum_type()->value(1 + turn % values)->number());
        break;
      }
      case field->CPPTYPE_STRING:
        set(&R::AddString, &R::SetString, std::string("text ") + field->name());
        break;
      case field->CPPTYPE_DOUBLE:
        set(&R::AddDouble, &R::SetDouble, 0.5 + i);
        break;
      case field->CPPTYPE_BOOL:
        set(&R::AddBool, &R::SetBool, true);
        break;
      case field->CPPTYPE_INT32:
        set(&R::AddInt32, &R::SetInt32, 1 + i);
        break;
      case field->CPPTYPE_INT64:
        set(&R::AddInt64, &R::SetInt64, int64_t{1} + i);
        break;
      case field->CPPTYPE_UINT64:
        set(&R::AddUInt64, &R::SetUInt64, uint64_t{1} + i);
        break;
      default:
        FAIL() << "a type that this test does not know: " << field->full_name();
    }
  }
}

// Four turns reach every value of every enum.
TEST(FitOptionsTest, ComeBackAsTheyWere) {
  for (int turn = 0; turn < 4; ++turn) {
    v1::Posterior message;
    Fill(message, turn);
    FitRequest request;
    request.options = FromProto(message).options;
    EXPECT_EQ(ToProto(request).options().DebugString(), message.options().DebugString());
  }
  EXPECT_EQ(ToProto(FitRequest()).options().ByteSizeLong(), 0u);
}

TEST(PosteriorTest, HasEveryField) {
  v1::Posterior message;
  Fill(message, 0);
  const Posterior posterior = FromProto(message);
  ASSERT_EQ(posterior.blocks.size(), 1u);
  const ParameterBlock& block = posterior.blocks[0];
  EXPECT_EQ(block.name, message.blocks(0).name());
  EXPECT_EQ(block.n_parameters, message.blocks(0).n_parameters());
  EXPECT_EQ(block.kind, message.blocks(0).kind());
  EXPECT_EQ(block.trace, message.blocks(0).trace());
  EXPECT_EQ(block.residual, message.blocks(0).residual());
  EXPECT_EQ(block.biased_sum, message.blocks(0).biased_sum());
  EXPECT_EQ(block.debiased_sum, message.blocks(0).debiased_sum());
  EXPECT_EQ(posterior.residual_share, message.residual_share());
  EXPECT_EQ(posterior.curvature_count, message.curvature_count());
  EXPECT_EQ(posterior.clipped_directions, message.clipped_directions());
  EXPECT_EQ(posterior.parent_posterior_id, message.parent_posterior_id());
  EXPECT_EQ(posterior.updated_examples, message.updated_examples());
  ASSERT_EQ(static_cast<int>(posterior.updated_dataset_ids.size()),
            message.updated_dataset_ids_size());
  EXPECT_EQ(posterior.cost.peak_memory_bytes, message.cost().peak_memory_bytes());
  EXPECT_EQ(posterior.cost.validation_seconds, message.cost().validation_seconds());
  ASSERT_EQ(posterior.prior_candidates.size(), 1u);
  EXPECT_EQ(posterior.prior_candidates[0].log_marginal_likelihood,
            message.prior_candidates(0).log_marginal_likelihood());
  EXPECT_THAT(posterior.warnings, ElementsAre("text warnings"));
  EXPECT_EQ(posterior.calibration_dataset_id, message.calibration_dataset_id());
  EXPECT_THAT(posterior.available_ood_scores, ElementsAre("text available_ood_scores"));
  ASSERT_EQ(posterior.ood_thresholds.size(), 1u);
  EXPECT_EQ(posterior.ood_thresholds[0].rate_upper, message.ood_thresholds(0).rate_upper());
  EXPECT_THAT(posterior.ood_thresholds[0].id_quantiles,
              ElementsAre(message.ood_thresholds(0).id_quantiles(0)));
  ASSERT_TRUE(posterior.features.has_value());
  EXPECT_EQ(posterior.features->layer, message.features().layer());
  EXPECT_EQ(posterior.features->n_features, message.features().n_features());
  EXPECT_EQ(posterior.features->count, message.features().count());
  EXPECT_EQ(posterior.features->bank_size, message.features().bank_size());
  EXPECT_EQ(posterior.features->knn_k, message.features().knn_k());
  EXPECT_EQ(posterior.features->vim_dimensions, message.features().vim_dimensions());
  EXPECT_FALSE(FromProto(v1::Posterior()).features.has_value());
}

TEST(CalibrateRequestTest, HasEveryField) {
  const v1::CalibrateOodRequest message =
      ToProto(CalibrateRequest{"net", 2, "p-1", "sha256-0", 0.125, "msp", true});
  EXPECT_EQ(message.model(), "net");
  EXPECT_EQ(message.version(), 2);
  EXPECT_EQ(message.posterior_id(), "p-1");
  EXPECT_EQ(message.dataset_id(), "sha256-0");
  EXPECT_EQ(message.target_id_rate(), 0.125);
  EXPECT_EQ(message.default_ood_score(), "msp");
  EXPECT_TRUE(message.keep_inactive());
}

}  // namespace
}  // namespace laplace::client
