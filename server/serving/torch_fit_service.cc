#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/data/dataset.h"
#include "server/laplace/fit.h"
#include "server/laplace/stopwatch.h"
#include "server/model/field_error.h"
#include "server/model/torch_runtime.h"
#include "server/model/torch_status.h"
#include "server/ood/scores.h"
#include "server/ood/threshold.h"
#include "server/serving/fit_records.h"
#include "server/serving/fit_service.h"
#include "server/serving/loaded_posterior.h"
#include "server/serving/torch_served_model.h"

namespace laplaced {
namespace {

// Highest resident memory of the process since it was made, above what it was then.
class MemoryWatch {
 public:
  MemoryWatch() : start_(Resident()), peak_(start_) {}
  void Look() { peak_ = std::max(peak_, Resident()); }
  int64_t rise() const { return peak_ - start_; }

 private:
  static int64_t Resident() {
    std::ifstream statm("/proc/self/statm");
    int64_t total = 0, resident = 0;
    statm >> total >> resident;
    return resident * sysconf(_SC_PAGESIZE);
  }

  int64_t start_, peak_;
};

absl::StatusOr<Dataset> LoadDataset(const DatasetStore& store, const std::string& field,
                                    const std::string& id) {
  auto files = store.Find(id);
  if (absl::IsInvalidArgument(files.status())) return FieldError(field, files.status().message());
  if (!files.ok()) {
    return absl::Status(files.status().code(), absl::StrCat(field, ": ", files.status().message()));
  }
  return ReadDataset(files->inputs_path, files->targets_path);
}

// Scores of in-distribution data, gathered batch by batch, and thresholds from them.
class ThresholdCalibration {
 public:
  explicit ThresholdCalibration(double rate) : rate_(rate) {}

  absl::Status Add(const Likelihood& likelihood, const Posterior& ood, const Linearized& batch) {
    if (names_.empty()) {
      names_ = OodScoreNames(likelihood.kind, ood.structure->has_directions());
      values_.resize(names_.size());
    }
    return CatchTorch("thresholds", [&] {
      const auto scores = ComputeOodScores(names_, ToOodInputs(batch), likelihood);
      for (size_t i = 0; i < names_.size(); ++i) {
        const at::Tensor s = scores[i].contiguous();
        values_[i].insert(values_[i].end(), s.data_ptr<double>(), s.data_ptr<double>() + s.numel());
      }
      return absl::OkStatus();
    });
  }

  std::vector<OodThresholdRecord> Thresholds() const {
    std::vector<OodThresholdRecord> thresholds;
    for (size_t i = 0; i < names_.size(); ++i) {
      const OodThreshold threshold = CalibrateThreshold(values_[i], rate_);
      thresholds.push_back({names_[i], threshold.threshold, rate_,
                            static_cast<int64_t>(values_[i].size()), threshold.rate_lower,
                            threshold.rate_upper});
    }
    return thresholds;
  }

 private:
  const double rate_;
  std::vector<std::string> names_;
  std::vector<std::vector<double>> values_;
};

class TorchFitService : public FitService {
 public:
  TorchFitService(const Repository& repository, const DatasetStore& datasets, ModelHost& host,
                  Operations& operations)
      : repository_(repository), datasets_(datasets), host_(host), operations_(operations) {}

  absl::StatusOr<OperationSnapshot> Start(const FitRequest& request) override {
    LAPLACED_ASSIGN_OR_RETURN(const auto served, host_.Pin(request.model, request.version));
    const auto model = static_cast<const TorchServedModel&>(*served).model();
    LAPLACED_ASSIGN_OR_RETURN(const FitOptions options, ToFitOptions(request));
    LAPLACED_ASSIGN_OR_RETURN(const UncertainNetwork uncertain, Uncertain(*model, options));
    LAPLACED_ASSIGN_OR_RETURN(
        Job job, MakeJob(*model, uncertain, "train_dataset_id", request.train_dataset_id,
                         request.validation_dataset_id));
    job.options = options;
    LAPLACED_RETURN_IF_ERROR(
        CatchTorch("training data", [&] { return CheckFit(*job.risk, job.validation, options); }));
    job.record = NewRecord(*model);
    FillOptions(options, job.record);
    job.record.target_id_rate =
        request.target_id_rate > 0 ? request.target_id_rate : kDefaultTargetIdRate;
    job.record.train_dataset_id = request.train_dataset_id;
    job.record.validation_dataset_id = request.validation_dataset_id;
    job.activate = !request.keep_inactive;
    return Launch("fit", std::move(job));
  }

  absl::StatusOr<OperationSnapshot> StartUpdate(const UpdateRequest& request) override {
    LAPLACED_ASSIGN_OR_RETURN(const auto served, host_.Pin(request.model, request.version));
    const auto model = static_cast<const TorchServedModel&>(*served).model();
    LAPLACED_ASSIGN_OR_RETURN(const PosteriorRecord known,
                              GetPosterior(request.model, request.version, request.posterior_id));
    LAPLACED_ASSIGN_OR_RETURN(const std::string folder,
                              repository_.PosteriorFolder({known.model, known.version}, known.id));
    LAPLACED_ASSIGN_OR_RETURN(const auto before, LoadPosterior(folder, *model));
    const PosteriorRecord& old = before->artifact.record;
    if (before->fitted == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("posterior ", old.id,
                       " was made by a version that kept no statistics to add to: fit again"));
    }
    LAPLACED_RETURN_IF_ERROR(before->fitted->CanTakeData());
    const std::vector<std::string>& added = old.updated_dataset_ids;
    if (old.train_dataset_id == request.dataset_id ||
        std::find(added.begin(), added.end(), request.dataset_id) != added.end()) {
      return FieldError("dataset_id",
                        "the posterior has these examples already: an update takes new ones");
    }
    std::string validation = old.validation_dataset_id;
    const bool lost = !validation.empty() && absl::IsNotFound(datasets_.Find(validation).status());
    if (lost) validation.clear();
    LAPLACED_ASSIGN_OR_RETURN(
        Job job, MakeJob(*model, before->uncertain, "dataset_id", request.dataset_id, validation));
    LAPLACED_ASSIGN_OR_RETURN(job.options, ToFitOptions(old));
    LAPLACED_RETURN_IF_ERROR(
        CatchTorch("new data", [&] { return CheckData(*job.risk, "dataset_id", job.risk->data); }));
    job.start = UpdateStart{before->fitted,          old.n_data,
                            old.mean_train_loss,     old.prior_precision,
                            old.ood_prior_precision, old.sigma_noise};
    job.before = before;
    const PosteriorRecord fresh = NewRecord(*model);
    job.record = old;
    job.record.id = fresh.id;
    job.record.code_version = fresh.code_version;
    job.record.parent_posterior_id = old.id;
    job.record.updated_examples = old.updated_examples + job.risk->size();
    job.record.updated_dataset_ids.push_back(request.dataset_id);
    job.record.ood_thresholds.clear();
    job.record.warnings.clear();
    if (lost) {
      job.record.warnings.push_back(
          "the validation data of the fit are gone: prior precisions stayed, and there are no OOD "
          "thresholds");
    }
    job.activate = !request.keep_inactive;
    return Launch("update", std::move(job));
  }

  absl::StatusOr<std::vector<PosteriorRecord>> ListPosteriors(const std::string& model,
                                                              int64_t version) const override {
    LAPLACED_ASSIGN_OR_RETURN(const ModelVersion found, Find(model, version));
    LAPLACED_ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                              repository_.ListPosteriors(found));
    std::vector<PosteriorRecord> records;
    for (const std::string& id : ids) {
      auto record = ReadRecord(found, id);
      if (!record.ok()) {
        PosteriorRecord unreadable;
        unreadable.id = id;
        unreadable.model = found.name;
        unreadable.version = found.version;
        unreadable.warnings = {std::string(record.status().message())};
        record = std::move(unreadable);
      }
      record->biased_eigenvalues.clear();
      record->eigenvalues.clear();
      record->standard_errors.clear();
      record->lanczos_residuals.clear();
      record->prior_candidates.clear();
      record->blocks.clear();
      records.push_back(*std::move(record));
    }
    return records;
  }

  absl::StatusOr<PosteriorRecord> GetPosterior(const std::string& model, int64_t version,
                                               const std::string& posterior_id) const override {
    LAPLACED_ASSIGN_OR_RETURN(const ModelVersion found, Find(model, version));
    std::string id = posterior_id;
    if (id.empty()) {
      LAPLACED_ASSIGN_OR_RETURN(id, repository_.ActivePosterior(found));
      if (id.empty()) {
        return absl::FailedPreconditionError(
            absl::StrCat("model ", found.name, "/", found.version, " has no active posterior"));
      }
    }
    return ReadRecord(found, id);
  }

 private:
  absl::StatusOr<ModelVersion> Find(const std::string& model, int64_t version) const {
    LAPLACED_ASSIGN_OR_RETURN(const ModelInfo info, host_.Get(model, version));
    return ModelVersion{info.name, info.version};
  }

  absl::StatusOr<PosteriorRecord> ReadRecord(const ModelVersion& model,
                                             const std::string& id) const {
    LAPLACED_ASSIGN_OR_RETURN(const std::string folder, repository_.PosteriorFolder(model, id));
    return ReadPosteriorRecord(folder);
  }

  // Everything that a running fit or update owns.
  struct Job {
    std::shared_ptr<EmpiricalRisk> risk;
    CapturePlan capture;
    Dataset validation;
    FitOptions options;
    PosteriorRecord record;
    absl::optional<UpdateStart> start;              // updates only
    std::shared_ptr<const LoadedPosterior> before;  // keeps the memory that `start` points into
    bool activate = true;
  };

  absl::StatusOr<Job> MakeJob(const LoadedModel& model, const UncertainNetwork& uncertain,
                              const std::string& data_field, const std::string& data_id,
                              const std::string& validation_id) const {
    Job job;
    LAPLACED_ASSIGN_OR_RETURN(Dataset data, LoadDataset(datasets_, data_field, data_id));
    if (!validation_id.empty()) {
      LAPLACED_ASSIGN_OR_RETURN(job.validation,
                                LoadDataset(datasets_, "validation_dataset_id", validation_id));
    }
    // Fits change parameters while they differentiate: they get a network of their own.
    LAPLACED_ASSIGN_OR_RETURN(Network network, uncertain.network.Clone());
    job.risk = std::make_shared<EmpiricalRisk>(EmpiricalRisk{
        std::move(network), model.manifest.likelihood, model.manifest, std::move(data)});
    job.capture = uncertain.capture;
    return job;
  }

  static PosteriorRecord NewRecord(const LoadedModel& model) {
    PosteriorRecord record;
    record.id = NewId("p");
    record.model = model.info.name;
    record.version = model.info.version;
    record.default_ood_score = DefaultOodScore(model.manifest.likelihood.kind);
    record.checkpoint_sha256 = model.info.checkpoint_sha256;
    record.manifest_fingerprint = ManifestFingerprint(model.manifest);
    record.code_version = LAPLACED_VERSION;
    return record;
  }

  absl::StatusOr<OperationSnapshot> Launch(const std::string& what, Job job) {
    const std::string description =
        absl::StrCat(what, " ", job.record.model, "/", job.record.version);
    return operations_.Start(description, [this, job = std::move(job)](OperationHandle& handle) {
      return Run(job, handle);
    });
  }

  absl::StatusOr<std::string> Run(const Job& job, OperationHandle& handle) {
    const Stopwatch time;
    InitTorchThread();
    MemoryWatch memory;
    const FitProgressFn progress = [&](const std::string& phase, int64_t done, int64_t total,
                                       double fraction) {
      if (handle.cancelled()) return absl::CancelledError("the fit was cancelled");
      memory.Look();
      handle.Report(phase, done, total, fraction);
      return absl::OkStatus();
    };
    PosteriorRecord record = job.record;
    ThresholdCalibration calibration(record.target_id_rate);
    const ValidationFn on_validation = [&](const Likelihood& likelihood, const Posterior& ood,
                                           const Linearized& batch) {
      return calibration.Add(likelihood, ood, batch);
    };
    LAPLACED_ASSIGN_OR_RETURN(
        const FitResult result,
        job.start
            ? RunUpdate(*job.risk, job.capture, job.validation, job.options, *job.start, progress,
                        on_validation)
            : RunFit(*job.risk, job.capture, job.validation, job.options, progress, on_validation));
    record.ood_thresholds = calibration.Thresholds();
    LAPLACED_RETURN_IF_ERROR(progress("saving", 0, 1, 0.98));
    record.create_time = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
    record.fit_seconds = time.Seconds();
    record.peak_memory_bytes = memory.rise();
    LAPLACED_ASSIGN_OR_RETURN(
        const std::string folder,
        repository_.PosteriorFolder({record.model, record.version}, record.id));
    LAPLACED_RETURN_IF_ERROR(SavePosterior(folder, job.risk->network, result, record));
    if (job.activate) {
      const absl::Status status = host_.ActivatePosterior(record.model, record.version, record.id);
      if (!status.ok()) {
        return absl::Status(status.code(), absl::StrCat("posterior ", record.id,
                                                        " was fitted and saved, but activating it "
                                                        "failed: ",
                                                        status.message()));
      }
    }
    return record.id;
  }

  const Repository& repository_;
  const DatasetStore& datasets_;
  ModelHost& host_;
  Operations& operations_;
};

}  // namespace

std::unique_ptr<FitService> MakeFitService(const Repository& repository,
                                           const DatasetStore& datasets, ModelHost& host,
                                           Operations& operations) {
  return std::make_unique<TorchFitService>(repository, datasets, host, operations);
}

}  // namespace laplaced
