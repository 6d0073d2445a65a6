// A ModelHost and a FitService without LibTorch, for tests of the services and of the wiring.
//
// FakeModelHost serves whatever Add was called for. Its networks take float32 inputs [B, 2] and
// give 3 outputs; scores are "energy" and "variance", of which the latter needs a mode; AUTO is
// EXACT for up to 2 examples and SAMPLED for more. `on_compute` runs on the compute thread for
// every Predict and Score, so a test can hold a computation up, fail it, or count it. Fits, updates
// and calibrations run `FakeFitService::work`. Both are thread-safe once set up.
#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/serving/fit_service.h"
#include "server/serving/model_host.h"

namespace laplaced::test_support {

using ComputeHook = std::function<absl::Status(const ComputeContext&)>;

// The only threshold of every posterior.
inline OodThresholdRecord EnergyThreshold() {
  return {"energy", 0.5, 0.05, 100, 0.01, 0.1, {-1, 0, 0.5}};
}

class FakeServedModel : public ServedModel {
 public:
  FakeServedModel(ModelInfo info, int64_t max_batch_size, ComputeHook on_compute)
      : info_(std::move(info)),
        max_batch_size_(max_batch_size),
        on_compute_(std::move(on_compute)) {}

  const ModelInfo& info() const override { return info_; }
  std::string posterior_id() const override { return info_.active_posterior_id; }

  absl::Status Validate(const ArrayView& inputs, const PredictOptions& options) const override {
    return Check(inputs, options.ood_scores);
  }
  absl::Status Validate(const ArrayView& inputs, const ScoreOptions& options) const override {
    return Check(inputs, options.ood_scores);
  }

  Batching BatchingOf(const ArrayView& inputs, const PredictOptions& options) const override {
    return {ReportFor(inputs, options), 64,
            !options.return_joint_covariance && options.return_samples == 0};
  }
  Batching BatchingOf(const ArrayView& inputs, const ScoreOptions& options) const override {
    return {ReportFor(inputs, options), 64, true};
  }

  absl::StatusOr<Prediction> Predict(const ArrayView& inputs, const PredictOptions& options,
                                     const ComputeContext& context) const override {
    const absl::Status status = on_compute_(context);
    if (!status.ok()) return status;
    Prediction prediction;
    prediction.posterior_id = posterior_id();
    prediction.batch = inputs.shape[0];
    prediction.outputs = info_.n_outputs;
    prediction.prior_precision = options.prior_precision.value_or(1);
    prediction.temperature = options.temperature.value_or(1);
    prediction.variance = ReportFor(inputs, options);
    FillVariance(options, prediction);
    const size_t size = static_cast<size_t>(prediction.batch * prediction.outputs);
    // The first input of each example, so that a test can tell whose answer it got.
    const float* values = static_cast<const float*>(inputs.data);
    prediction.mean.resize(size);
    for (size_t i = 0; i < size; ++i) prediction.mean[i] = values[i / 3 * 2];
    for (auto* part :
         {&prediction.map_mean, &prediction.functional_mean, &prediction.functional_variance}) {
      part->assign(size, options.link_approx == LinkApprox::kMonteCarlo ? 2.0f : 1.0f);
    }
    if (options.return_covariance) prediction.functional_covariance.assign(size * 3, 0.5f);
    if (options.variance_mode == VarianceMode::kTopClasses) {
      prediction.functional_variance.resize(
          static_cast<size_t>(prediction.batch * options.top_classes));
    }
    prediction.epistemic.assign(static_cast<size_t>(prediction.batch), 0.25f);
    prediction.aleatoric = prediction.epistemic;
    prediction.scores = ScoresOf(inputs, options.ood_scores);
    return prediction;
  }

  absl::StatusOr<Scores> Score(const ArrayView& inputs, const ScoreOptions& options,
                               const ComputeContext& context) const override {
    const absl::Status status = on_compute_(context);
    if (!status.ok()) return status;
    return Scores{posterior_id(), ScoresOf(inputs, options.ood_scores), ReportFor(inputs, options)};
  }

 private:
  template <typename Options>
  static VarianceReport ModeFor(const ArrayView& inputs, const Options& options) {
    VarianceReport report;
    report.mode = options.variance_mode;
    report.samples = options.samples;
    if (report.mode != VarianceMode::kAuto) return report;
    report.mode = inputs.shape[0] <= 2 ? VarianceMode::kExact : VarianceMode::kSampled;
    if (report.mode == VarianceMode::kSampled) report.samples = 64;
    return report;
  }

  static VarianceReport ReportFor(const ArrayView& inputs, const PredictOptions& options) {
    VarianceReport report = ModeFor(inputs, options);
    report.estimated_flops = 1e6;
    if (report.mode == VarianceMode::kTopClasses) report.top_classes = options.top_classes;
    return report;
  }

  static VarianceReport ReportFor(const ArrayView& inputs, const ScoreOptions& options) {
    for (const std::string& name : options.ood_scores) {
      if (name == "variance") return ModeFor(inputs, options);
    }
    VarianceReport report;
    report.mode = options.variance_mode;
    report.samples = options.samples;
    return report;
  }

  // What was asked for, with values that tell what it was made for.
  static void FillVariance(const PredictOptions& options, Prediction& prediction) {
    const int64_t b = prediction.batch, c = prediction.outputs;
    const bool top = options.variance_mode == VarianceMode::kTopClasses;
    if (top) {
      prediction.variance_outputs.assign(static_cast<size_t>(b * options.top_classes), 2);
      prediction.left_out_probability.assign(static_cast<size_t>(b), 0.125f);
      prediction.left_out_bound.assign(static_cast<size_t>(b), 0.25f);
    }
    if (options.return_joint_covariance) {
      prediction.joint_covariance.assign(static_cast<size_t>(b * c * b * c), 0.5f);
    }
    prediction.function_samples.assign(static_cast<size_t>(options.return_samples * b * c),
                                       static_cast<float>(options.seed));
  }

  absl::Status Check(const ArrayView& inputs, const std::vector<std::string>& scores) const {
    if (info_.active_posterior_id.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat("model ", info_.name, " has no active posterior; fit one first"));
    }
    if (inputs.dtype != DType::kFloat32) {
      return FieldError("inputs.dtype",
                        absl::StrCat("expected float32, got ", DTypeName(inputs.dtype)));
    }
    if (inputs.shape.size() != 2 || inputs.shape[1] != 2) {
      return FieldError("inputs.shape",
                        absl::StrCat("expected [B, 2], got ", ShapeString(inputs.shape)));
    }
    if (inputs.shape[0] > max_batch_size_) {
      return FieldError("inputs.shape[0]", absl::StrCat("expected at most ", max_batch_size_,
                                                        " examples, got ", inputs.shape[0]));
    }
    const float* values = static_cast<const float*>(inputs.data);
    for (int64_t i = 0; i < inputs.shape[0] * 2; ++i) {
      if (!std::isfinite(values[i])) {
        return FieldError("inputs", absl::StrCat("expected finite values, got ", values[i],
                                                 " in example ", i / 2));
      }
    }
    for (const std::string& score : scores) {
      if (score != "energy" && score != "variance") {
        return FieldError("ood_scores",
                          absl::StrCat("expected energy or variance, got '", score, "'"));
      }
    }
    return absl::OkStatus();
  }

  static std::vector<ScoreValues> ScoresOf(const ArrayView& inputs,
                                           std::vector<std::string> names) {
    if (names.empty()) names = {"energy"};
    std::vector<ScoreValues> scores;
    for (const std::string& name : names) {
      ScoreValues score;
      score.name = name;
      for (int64_t i = 0; i < inputs.shape[0]; ++i) score.values.push_back(static_cast<double>(i));
      if (name == "energy")
        score.calibration = std::make_shared<OodThresholdRecord>(EnergyThreshold());
      scores.push_back(std::move(score));
    }
    return scores;
  }

  const ModelInfo info_;
  const int64_t max_batch_size_;
  const ComputeHook on_compute_;
};

class FakeModelHost : public ModelHost {
 public:
  explicit FakeModelHost(ModelHostOptions options = {}) : options_(options) {}

  // Makes a model ready; an empty `posterior_id` leaves it without posterior.
  void Add(const std::string& name, int64_t version, const std::string& posterior_id) {
    std::lock_guard<std::mutex> lock(mutex_);
    ModelInfo& info = models_[{name, version}];
    info.name = name;
    info.version = version;
    info.state = ModelState::kReady;
    info.input_shape = {2};
    info.n_outputs = 3;
    info.active_posterior_id = posterior_id;
  }
  // Makes a model ready whose active posterior cannot be used.
  void AddWithoutUsablePosterior(const std::string& name, int64_t version) {
    std::lock_guard<std::mutex> lock(mutex_);
    ModelInfo& info = models_[{name, version}];
    info.name = name;
    info.version = version;
    info.state = ModelState::kReady;
    info.active_posterior_id.clear();
    info.lacks_posterior = true;
  }
  void SetComputeHook(ComputeHook hook) {
    std::lock_guard<std::mutex> lock(mutex_);
    on_compute_ = std::move(hook);
  }
  // Runs in Load, on the thread that calls it.
  void SetLoadHook(std::function<absl::Status(const std::string& name)> hook) {
    std::lock_guard<std::mutex> lock(mutex_);
    on_load_ = std::move(hook);
  }

  // Whether the repository can be read.
  void SetListStatus(absl::Status status) {
    std::lock_guard<std::mutex> lock(mutex_);
    list_status_ = std::move(status);
  }

  absl::StatusOr<std::vector<ModelInfo>> List() const override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!list_status_.ok()) return list_status_;
    }
    return Tried();
  }
  std::vector<ModelInfo> Tried() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<ModelInfo> infos;
    for (const auto& model : models_) infos.push_back(model.second);
    return infos;
  }
  absl::StatusOr<ModelInfo> Get(const std::string& name, int64_t version) const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return Find(name, version);
  }
  absl::StatusOr<ModelInfo> Load(const std::string& name, int64_t version) override {
    std::function<absl::Status(const std::string&)> hook;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      hook = on_load_;
    }
    const absl::Status hooked = hook ? hook(name) : absl::OkStatus();
    if (!hooked.ok()) return hooked;
    TellOfChange(name);
    return Get(name, version);
  }
  void ForgetFailure(const std::string&, int64_t) override {}
  absl::Status Unload(const std::string& name, int64_t version) override {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto found = Find(name, version);
    if (!found.ok()) return found.status();
    models_.erase({found->name, found->version});
    lock.unlock();
    TellOfChange(name);
    return absl::OkStatus();
  }
  absl::StatusOr<std::shared_ptr<const ServedModel>> Pin(const std::string& name,
                                                         int64_t version) const override {
    std::lock_guard<std::mutex> lock(mutex_);
    auto info = Find(name, version);
    if (!info.ok()) return info.status();
    std::shared_ptr<const ServedModel> model =
        std::make_shared<FakeServedModel>(*std::move(info), options_.max_batch_size, on_compute_);
    return model;
  }
  absl::StatusOr<std::shared_ptr<const ServedModel>> PinToAnswer(const std::string& name,
                                                                 int64_t version) const override {
    const std::vector<int64_t> versions =
        version == 0 ? LoadedVersions(name) : std::vector<int64_t>();
    for (auto it = versions.rbegin(); it != versions.rend(); ++it) {
      auto model = Pin(name, *it);
      if (model.ok() && !(*model)->posterior_id().empty()) return model;
    }
    return Pin(name, version);
  }
  std::vector<int64_t> LoadedVersions(const std::string& name) const override {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<int64_t> versions;
    for (const auto& model : models_) {
      if (model.first.first == name) versions.push_back(model.first.second);
    }
    return versions;
  }
  absl::Status ActivatePosterior(const std::string& name, int64_t version,
                                 const std::string& posterior_id, const std::string&) override {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto found = Find(name, version);
    if (!found.ok()) return found.status();
    if (posterior_id.rfind("p-", 0) != 0) {
      return absl::NotFoundError(absl::StrCat("there is no posterior '", posterior_id, "'"));
    }
    models_[{found->name, found->version}].active_posterior_id = posterior_id;
    lock.unlock();
    TellOfChange(name);
    return absl::OkStatus();
  }
  absl::Status DeletePosterior(const std::string& name, int64_t version,
                               const std::string& posterior_id) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = Find(name, version);
    if (!found.ok()) return found.status();
    if (posterior_id == found->active_posterior_id) {
      return absl::FailedPreconditionError(absl::StrCat(posterior_id, " is the active one"));
    }
    if (posterior_id.rfind("p-", 0) != 0 || !deleted_.insert(posterior_id).second) {
      return absl::NotFoundError(absl::StrCat("there is no posterior '", posterior_id, "'"));
    }
    return absl::OkStatus();
  }
  absl::StatusOr<bool> RefreshPosterior(const std::string& name, int64_t version) override {
    const auto found = Get(name, version);
    if (!found.ok()) return found.status();
    return false;
  }

 private:
  void TellOfChange(const std::string& name) const {
    if (options_.on_change) options_.on_change(name);
  }

  // REQUIRES: mutex_ held.
  absl::StatusOr<ModelInfo> Find(const std::string& name, int64_t version) const {
    const ModelInfo* found = nullptr;
    for (const auto& model : models_) {
      const bool matches =
          model.first.first == name && (version == 0 || model.first.second == version);
      if (matches) found = &model.second;
    }
    if (found != nullptr) return *found;
    return absl::NotFoundError(absl::StrCat("model ", name, "/", version, " is not loaded"));
  }

  const ModelHostOptions options_;
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int64_t>, ModelInfo> models_;
  std::set<std::string> deleted_;  // posteriors
  absl::Status list_status_;
  ComputeHook on_compute_ = [](const ComputeContext&) { return absl::OkStatus(); };
  std::function<absl::Status(const std::string&)> on_load_;
};

class FakeFitService : public FitService {
 public:
  FakeFitService(ModelHost& host, Operations& operations) : host_(host), operations_(operations) {}

  absl::StatusOr<OperationSnapshot> Start(const FitRequest& request,
                                          const ComputeContext& caller) override {
    const auto info = host_.Get(request.model, request.version);
    if (!info.ok()) return info.status();
    if (on_prepare_) on_prepare_();
    if (absl::Status wanted = caller.Check(); !wanted.ok()) return wanted;
    std::lock_guard<std::mutex> lock(mutex_);
    last_request_ = request;
    return operations_.Start(absl::StrCat("fit ", info->name, "/", info->version), work_);
  }
  absl::StatusOr<OperationSnapshot> StartUpdate(const UpdateRequest& request,
                                                const ComputeContext&) override {
    const auto record = GetPosterior(request.model, request.version, request.posterior_id);
    if (!record.ok()) return record.status();
    std::lock_guard<std::mutex> lock(mutex_);
    last_update_ = request;
    return operations_.Start(absl::StrCat("update ", record->id), work_);
  }
  absl::StatusOr<OperationSnapshot> StartCalibrate(const CalibrateRequest& request,
                                                   const ComputeContext&) override {
    const auto record = GetPosterior(request.model, request.version, request.posterior_id);
    if (!record.ok()) return record.status();
    std::lock_guard<std::mutex> lock(mutex_);
    last_calibrate_ = request;
    return operations_.Start(absl::StrCat("calibrate ", record->id), work_);
  }
  absl::StatusOr<OperationSnapshot> StartNewton(const NewtonRequest& request,
                                                const ComputeContext&) override {
    const auto info = host_.Get(request.model, request.version);
    if (!info.ok()) return info.status();
    std::lock_guard<std::mutex> lock(mutex_);
    last_newton_ = request;
    return operations_.Start(absl::StrCat("newton step ", info->name, "/", info->version),
                             [](OperationHandle&) -> absl::StatusOr<OperationResult> {
                               return OperationResult(2, "held-out loss 0.5 -> 0.4 nats");
                             });
  }
  absl::StatusOr<std::vector<PosteriorRecord>> ListPosteriors(const std::string& model,
                                                              int64_t version) const override {
    auto record = GetPosterior(model, version, "p-1");
    if (!record.ok()) return record.status();
    return std::vector<PosteriorRecord>{*std::move(record)};
  }
  absl::StatusOr<PosteriorRecord> GetPosterior(const std::string& model, int64_t version,
                                               const std::string& posterior_id) const override {
    const auto info = host_.Get(model, version);
    if (!info.ok()) return info.status();
    const std::string id = posterior_id.empty() ? info->active_posterior_id : posterior_id;
    if (id.empty()) return absl::FailedPreconditionError("no posterior is active");
    if (id.rfind("p-", 0) != 0) {
      return absl::NotFoundError(absl::StrCat("there is no posterior '", id, "'"));
    }
    PosteriorRecord record;
    record.id = id;
    record.model = info->name;
    record.version = info->version;
    record.debiasing = "none";
    record.residual_kind = "isotropic";
    record.rank = 2;
    record.eigenvalues = {2.0, 1.0};
    record.prior_candidates = {{0.5, 1.25, -3.5}};
    record.ood_thresholds = {EnergyThreshold()};
    record.warnings = {"rank exhausted"};
    return record;
  }

  void SetWork(Operations::Work work) {
    std::lock_guard<std::mutex> lock(mutex_);
    work_ = std::move(work);
  }
  // Runs in every Start of a fit, before the operation begins: what reads the data would take so
  // long.
  void SetPrepare(std::function<void()> prepare) { on_prepare_ = std::move(prepare); }
  FitRequest last_request() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return last_request_;
  }
  NewtonRequest last_newton() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return last_newton_;
  }
  UpdateRequest last_update() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return last_update_;
  }
  CalibrateRequest last_calibrate() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return last_calibrate_;
  }

 private:
  ModelHost& host_;
  Operations& operations_;
  mutable std::mutex mutex_;
  Operations::Work work_ = [](OperationHandle&) { return std::string("p-1"); };
  std::function<void()> on_prepare_;
  FitRequest last_request_;
  UpdateRequest last_update_;
  NewtonRequest last_newton_;
  CalibrateRequest last_calibrate_;
};

}  // namespace laplaced::test_support
