#include "tests/bench/identity_model.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"

namespace laplaced::bench {
namespace {

ModelInfo Describe() {
  ModelInfo info;
  info.name = kIdentityName;
  info.version = 1;
  info.state = ModelState::kReady;
  info.input_shape = {kIdentityInputs};
  info.n_outputs = kIdentityOutputs;
  info.active_posterior_id = "p-1";
  return info;
}

class IdentityModel final : public ServedModel {
 public:
  const ModelInfo& info() const override { return info_; }
  std::string posterior_id() const override { return info_.active_posterior_id; }

  absl::Status Validate(const ArrayView& inputs, const PredictOptions&) const override {
    return Check(inputs);
  }
  absl::Status Validate(const ArrayView& inputs, const ScoreOptions&) const override {
    return Check(inputs);
  }

  Batching BatchingOf(const ArrayView&, const PredictOptions&) const override { return Plan(); }
  Batching BatchingOf(const ArrayView&, const ScoreOptions&) const override { return Plan(); }

  absl::StatusOr<Prediction> Predict(const ArrayView& inputs, const PredictOptions&,
                                     const ComputeContext&) const override {
    Prediction prediction;
    prediction.posterior_id = posterior_id();
    prediction.batch = inputs.shape[0];
    prediction.outputs = kIdentityOutputs;
    prediction.prior_precision = 1;
    prediction.temperature = 1;
    prediction.variance = Plan().variance;
    const auto batch = static_cast<size_t>(prediction.batch);
    const auto* values = static_cast<const float*>(inputs.data);
    prediction.mean.reserve(batch * kIdentityOutputs);
    for (size_t i = 0; i < batch; ++i) {
      const float* row = values + i * kIdentityInputs;
      prediction.mean.insert(prediction.mean.end(), row, row + kIdentityOutputs);
    }
    prediction.map_mean = prediction.mean;
    prediction.functional_mean = prediction.mean;
    prediction.functional_variance = prediction.mean;
    prediction.epistemic.assign(batch, 0.25f);
    prediction.aleatoric.assign(batch, 0.25f);
    prediction.scores = ScoresOf(batch);
    return prediction;
  }

  absl::StatusOr<Scores> Score(const ArrayView& inputs, const ScoreOptions&,
                               const ComputeContext&) const override {
    return Scores{posterior_id(), ScoresOf(static_cast<size_t>(inputs.shape[0])), Plan().variance};
  }

 private:
  static Batching Plan() {
    Batching batching;
    batching.variance.mode = VarianceMode::kExact;
    batching.variance.estimated_flops = 1;
    batching.rows = 64;
    batching.divisible = true;
    return batching;
  }

  static absl::Status Check(const ArrayView& inputs) {
    if (inputs.dtype != DType::kFloat32 || inputs.shape.size() != 2 ||
        inputs.shape[1] != kIdentityInputs) {
      return FieldError("inputs",
                        absl::StrCat("expected float32 [B, ", kIdentityInputs, "], got ",
                                     DTypeName(inputs.dtype), " ", ShapeString(inputs.shape)));
    }
    const auto* values = static_cast<const float*>(inputs.data);
    bool bad = false;
    for (int64_t i = 0; i < inputs.shape[0] * kIdentityInputs; ++i) {
      uint32_t bits;
      std::memcpy(&bits, values + i, sizeof bits);
      bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return bad ? FieldError("inputs", "expected finite values") : absl::OkStatus();
  }

  std::vector<ScoreValues> ScoresOf(size_t batch) const {
    return {{"energy", std::vector<double>(batch, 0.125), calibration_}};
  }

  const ModelInfo info_ = Describe();
  const std::shared_ptr<const OodThresholdRecord> calibration_ =
      std::make_shared<const OodThresholdRecord>(OodThresholdRecord{
          "energy", 0.5, 0.05, 1000, 0.01, 0.1, {-1, -0.5, 0, 0.1, 0.2, 0.3, 0.4, 0.5}});
};

class IdentityHost final : public ModelHost {
 public:
  absl::StatusOr<std::vector<ModelInfo>> List() const override { return Tried(); }
  std::vector<ModelInfo> Tried() const override { return {model_->info()}; }
  absl::StatusOr<ModelInfo> Get(const std::string& name, int64_t version) const override {
    const auto pinned = Pin(name, version);
    if (!pinned.ok()) return pinned.status();
    return model_->info();
  }
  absl::StatusOr<ModelInfo> Load(const std::string& name, int64_t version) override {
    return Get(name, version);
  }
  void ForgetFailure(const std::string&, int64_t) override {}
  absl::Status Unload(const std::string&, int64_t) override { return Fixed(); }
  absl::StatusOr<std::shared_ptr<const ServedModel>> Pin(const std::string& name,
                                                         int64_t version) const override {
    if (name == kIdentityName && version <= 1) return model_;
    return absl::NotFoundError(absl::StrCat("there is only ", kIdentityName));
  }
  absl::StatusOr<std::shared_ptr<const ServedModel>> PinToAnswer(const std::string& name,
                                                                 int64_t version) const override {
    return Pin(name, version);
  }
  std::vector<int64_t> LoadedVersions(const std::string&) const override { return {1}; }
  absl::Status ActivatePosterior(const std::string&, int64_t, const std::string&,
                                 const std::string&) override {
    return Fixed();
  }
  absl::Status DeletePosterior(const std::string&, int64_t, const std::string&) override {
    return Fixed();
  }
  absl::StatusOr<bool> RefreshPosterior(const std::string&, int64_t) override { return false; }

 private:
  static absl::Status Fixed() { return absl::FailedPreconditionError("the model is fixed"); }

  const std::shared_ptr<const ServedModel> model_ = std::make_shared<const IdentityModel>();
};

}  // namespace

std::unique_ptr<ModelHost> MakeIdentityHost() { return std::make_unique<IdentityHost>(); }

}  // namespace laplaced::bench
