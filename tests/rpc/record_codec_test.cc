#include "server/rpc/record_codec.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/registry/posterior_record_fields.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;
using ::testing::ElementsAre;

// Names of fields that hold nothing but their default, those of nested messages too.
void CollectUnset(const google::protobuf::Message& message, const std::string& prefix,
                  std::vector<std::string>* unset) {
  const auto* descriptor = message.GetDescriptor();
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    const std::string name = prefix + field->name();
    const bool is_message = field->cpp_type() == field->CPPTYPE_MESSAGE;
    if (field->is_repeated() ? reflection->FieldSize(message, field) == 0
                             : !reflection->HasField(message, field)) {
      unset->push_back(name);
    } else if (is_message && field->is_repeated()) {
      CollectUnset(reflection->GetRepeatedMessage(message, field, 0), name + ".", unset);
    } else if (is_message) {
      CollectUnset(reflection->GetMessage(message, field), name + ".", unset);
    }
  }
}

std::vector<std::string> UnsetFields(const google::protobuf::Message& message) {
  std::vector<std::string> unset;
  CollectUnset(message, "", &unset);
  return unset;
}

// Gives every field another value than its default.
struct Filler {
  void operator()(const std::string&, std::string& value) { value = "text"; }
  void operator()(const std::string&, double& value) { value = 0.5; }
  void operator()(const std::string&, bool& value) { value = true; }
  void operator()(const std::string&, int64_t& value) { value = 3; }
  void operator()(const std::string&, uint64_t& value) { value = 4; }
  template <typename T>
  void operator()(const std::string& name, std::vector<T>& values) {
    values.resize(1);
    (*this)(name, values[0]);
  }
  template <typename Record>
  void operator()(const std::string&, Record& record) {
    VisitFields(record, *this);
  }
};

TEST(FillPosteriorTest, FillsEveryField) {
  PosteriorRecord record;
  Filler fill;
  VisitFields(record, fill);
  record.debiasing = "cross_fit";
  record.residual_kind = "layerwise";
  record.structure = "kfac";
  record.curvature = "hessian";
  record.kfac_eigenvalues = "exact";
  record.prior_method = "evidence";
  record.noise_method = "data";
  v1::Posterior posterior;
  FillPosterior(record, record.id, &posterior);
  EXPECT_THAT(UnsetFields(posterior), ElementsAre());
  EXPECT_EQ(posterior.options().debiasing(), v1::DEBIASING_STRATEGY_CROSS_FIT);
  EXPECT_EQ(posterior.options().residual(), v1::RESIDUAL_KIND_LAYERWISE);
  EXPECT_THAT(posterior.ood_thresholds(0).id_quantiles(), ElementsAre(0.5));
  EXPECT_EQ(posterior.features().layer(), "text");
}

TEST(FillPosteriorTest, HasNoFeaturesWithoutALayer) {
  v1::Posterior posterior;
  FillPosterior(PosteriorRecord(), "", &posterior);
  EXPECT_FALSE(posterior.has_features());
}

TEST(FillModelTest, FillsEveryField) {
  ModelInfo info;
  info.name = "net";
  info.version = 1;
  info.state = ModelState::kReady;
  info.state_message = "note";
  info.input_shape = {2};
  info.accepts_uint8 = true;
  info.n_outputs = 3;
  info.n_parameters = 4;
  info.class_names = {"a"};
  info.n_data = 5;
  info.weight_decay = 0.1;
  info.bias_weight_decay = 0.2;
  info.sigma_noise = 0.3;
  info.checkpoint_sha256 = "01";
  info.active_posterior_id = "p-1";
  info.captured_parameters = {"fc.weight"};
  info.generic_parameters = {"scale"};
  info.last_layer_parameters = {"fc.weight", "fc.bias"};
  info.description = "for tests";
  info.memory_bytes = 7;
  for (const auto& [kind, likelihood] :
       {std::pair(LikelihoodKind::kCategorical, v1::LIKELIHOOD_CATEGORICAL),
        std::pair(LikelihoodKind::kGaussian, v1::LIKELIHOOD_GAUSSIAN),
        std::pair(LikelihoodKind::kBernoulli, v1::LIKELIHOOD_BERNOULLI)}) {
    info.likelihood = kind;
    v1::Model model;
    FillModel(info, &model);
    EXPECT_THAT(UnsetFields(model), ElementsAre());
    EXPECT_EQ(model.likelihood(), likelihood);
    EXPECT_EQ(model.bias_weight_decay(), 0.2);
    EXPECT_THAT(model.last_layer_parameters(), ElementsAre("fc.weight", "fc.bias"));
  }
}

TEST(FillPredictionTest, SplitsUncertaintyPerOutputUnlessCategorical) {
  Prediction prediction;
  prediction.batch = 2;
  prediction.outputs = 3;
  prediction.mean.assign(6, 0.5f);
  prediction.map_mean = prediction.functional_mean = prediction.functional_variance =
      prediction.mean;
  for (const LikelihoodKind likelihood : {LikelihoodKind::kGaussian, LikelihoodKind::kBernoulli}) {
    prediction.likelihood = likelihood;
    prediction.epistemic = prediction.aleatoric = prediction.mean;
    v1::PredictResponse response;
    FillPrediction(prediction, &response);
    EXPECT_THAT(response.epistemic().shape(), ElementsAre(2, 3));
    EXPECT_THAT(response.aleatoric().shape(), ElementsAre(2, 3));
  }
  prediction.likelihood = LikelihoodKind::kCategorical;
  prediction.epistemic = prediction.aleatoric = {0.1f, 0.2f};
  v1::PredictResponse response;
  FillPrediction(prediction, &response);
  EXPECT_THAT(response.epistemic().shape(), ElementsAre(2));
}

TEST(FillScoreTest, FlagsWhatIsAboveTheThresholdAndWhatIsNoNumber) {
  const double infinity = std::numeric_limits<double>::infinity();
  ScoreValues values;
  values.name = "energy";
  OodThresholdRecord calibration;
  calibration.threshold = 0.5;
  calibration.target_id_rate = 0.05;
  values.calibration = std::make_shared<OodThresholdRecord>(calibration);
  values.values = {0.4, 0.5, 0.6, std::nan(""), infinity, -infinity};
  laplace::v1::OodScore score;
  FillScore(values, &score);
  EXPECT_THAT(score.is_ood(), ElementsAre(false, false, true, true, true, false));
  EXPECT_EQ(score.threshold(), 0.5);
  EXPECT_EQ(score.target_id_rate(), 0.05);
}

TEST(FillScoreTest, FlagsNothingWithoutAThreshold) {
  ScoreValues values;
  values.name = "energy";
  values.values = {1.0, std::nan("")};
  laplace::v1::OodScore score;
  FillScore(values, &score);
  EXPECT_EQ(score.values_size(), 2);
  EXPECT_EQ(score.is_ood_size(), 0);
  EXPECT_FALSE(score.has_threshold());
}

}  // namespace
}  // namespace laplaced
