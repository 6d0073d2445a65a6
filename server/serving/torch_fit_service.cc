#include <algorithm>
#include <chrono>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/data/dataset.h"
#include "server/laplace/fit.h"
#include "server/model/field_error.h"
#include "server/model/torch_runtime.h"
#include "server/model/torch_status.h"
#include "server/ood/scores.h"
#include "server/ood/threshold.h"
#include "server/serving/fit_service.h"
#include "server/serving/loaded_posterior.h"
#include "server/serving/torch_served_model.h"

namespace laplaced {
namespace {

constexpr double kDefaultTargetIdRate = 0.05;

absl::Status NotNegative(const char* field, int64_t value) {
  if (value >= 0) return absl::OkStatus();
  return FieldError(field,
                    absl::StrCat("expected 0 (the default) or a positive number, got ", value));
}

absl::StatusOr<FitOptions> ToOptions(const FitRequest& request) {
  LAPLACED_RETURN_IF_ERROR(NotNegative("options.rank", request.rank));
  LAPLACED_RETURN_IF_ERROR(
      NotNegative("options.direction_batch_size", request.direction_batch_size));
  LAPLACED_RETURN_IF_ERROR(
      NotNegative("options.curvature_batch_size", request.curvature_batch_size));
  LAPLACED_RETURN_IF_ERROR(NotNegative("options.max_products", request.max_products));
  LAPLACED_RETURN_IF_ERROR(
      NotNegative("options.max_validation_examples", request.max_validation_examples));
  if (!(request.target_id_rate >= 0 && request.target_id_rate < 1)) {
    return FieldError("options.target_id_rate",
                      absl::StrCat("expected a number in (0, 1), got ", request.target_id_rate));
  }
  FitOptions options;
  if (request.rank > 0) options.rank = request.rank;
  if (request.direction_batch_size > 0) options.direction_batch_size = request.direction_batch_size;
  options.debiasing = request.debiasing == "none" ? Debiasing::kNone : Debiasing::kTwoBatch;
  if (options.debiasing == Debiasing::kNone) {
    if (request.curvature_batch_size > 0) {
      return FieldError("options.curvature_batch_size",
                        "expected 0 without debiasing: there is no second batch. Raise "
                        "direction_batch_size instead");
    }
    options.curvature_batch_size = 0;
  } else if (request.curvature_batch_size > 0) {
    options.curvature_batch_size = request.curvature_batch_size;
  }
  options.residual = request.residual == "none" ? ResidualKind::kNone : ResidualKind::kIsotropic;
  options.seed = request.seed;
  options.prior_precision = request.prior_precision;
  options.ood_prior_precision = request.ood_prior_precision;
  if (request.lanczos_tolerance != 0) options.lanczos_tolerance = request.lanczos_tolerance;
  options.max_products = request.max_products;
  options.max_validation_examples = request.max_validation_examples;
  options.memory_limit_bytes =
      MemoryLimitBytes() / 2;  // the rest is for data, serving and everybody else
  return options;
}

absl::StatusOr<Dataset> LoadDataset(const DatasetStore& store, const std::string& field,
                                    const std::string& id) {
  auto files = store.Find(id);
  if (absl::IsInvalidArgument(files.status())) return FieldError(field, files.status().message());
  if (!files.ok()) {
    return absl::Status(files.status().code(), absl::StrCat(field, ": ", files.status().message()));
  }
  return ReadDataset(files->inputs_path, files->targets_path);
}

// Thresholds of every score on the validation data; `check` may stop the work.
absl::StatusOr<std::vector<OodThresholdRecord>> CalibrateThresholds(
    const FitResult& fit, const Likelihood& likelihood, double rate,
    const std::function<absl::Status()>& check) {
  std::vector<OodThresholdRecord> thresholds;
  const LinearizedData& data = fit.validation;
  if (data.size() == 0) return thresholds;
  const LowRankPosterior ood = fit.posterior.WithPriorPrecision(fit.ood_prior_precision);
  const std::vector<std::string> names = OodScoreNames(likelihood.kind);
  std::vector<std::vector<double>> values(names.size());
  constexpr int64_t kBlock = 256;
  for (int64_t begin = 0; begin < data.size(); begin += kBlock) {
    LAPLACED_RETURN_IF_ERROR(check());
    const int64_t count = std::min(kBlock, data.size() - begin);
    const std::vector<at::Tensor> scores = ComputeOodScores(
        names,
        {data.f.narrow(0, begin, count), data.t.narrow(0, begin, count).to(at::kDouble),
         data.g.narrow(0, begin, count)},
        likelihood, &ood);
    for (size_t i = 0; i < names.size(); ++i) {
      const at::Tensor s = scores[i].contiguous();
      values[i].insert(values[i].end(), s.data_ptr<double>(), s.data_ptr<double>() + count);
    }
  }
  for (size_t i = 0; i < names.size(); ++i) {
    const OodThreshold threshold = CalibrateThreshold(values[i], rate);
    thresholds.push_back({names[i], threshold.threshold, rate, data.size(), threshold.rate_lower,
                          threshold.rate_upper});
  }
  return thresholds;
}

class TorchFitService : public FitService {
 public:
  TorchFitService(const Repository& repository, const DatasetStore& datasets, ModelHost& host,
                  Operations& operations)
      : repository_(repository), datasets_(datasets), host_(host), operations_(operations) {}

  absl::StatusOr<OperationSnapshot> Start(const FitRequest& request) override {
    LAPLACED_ASSIGN_OR_RETURN(const auto served, host_.Pin(request.model, request.version));
    LAPLACED_ASSIGN_OR_RETURN(const FitOptions options, ToOptions(request));
    LAPLACED_ASSIGN_OR_RETURN(Dataset train,
                              LoadDataset(datasets_, "train_dataset_id", request.train_dataset_id));
    Dataset validation;
    if (!request.validation_dataset_id.empty()) {
      LAPLACED_ASSIGN_OR_RETURN(validation, LoadDataset(datasets_, "validation_dataset_id",
                                                        request.validation_dataset_id));
    }
    const auto model = static_cast<const TorchServedModel&>(*served).model();
    // The fit changes parameters while it differentiates: it gets a network of its own.
    LAPLACED_ASSIGN_OR_RETURN(Network network, model->network.Clone());
    auto risk = std::make_shared<EmpiricalRisk>(EmpiricalRisk{
        std::move(network), model->manifest.likelihood, model->manifest, std::move(train)});
    LAPLACED_RETURN_IF_ERROR(
        CatchTorch("training data", [&] { return CheckFit(*risk, validation, options); }));

    PosteriorRecord record = NewRecord(request, options, *model);
    const std::string description = absl::StrCat("fit ", record.model, "/", record.version);
    return operations_.Start(
        description, [this, risk, validation, options, record = std::move(record), model,
                      activate = !request.keep_inactive](OperationHandle& handle) {
          return Run(*risk, validation, options, record, *model, activate, handle);
        });
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

  static PosteriorRecord NewRecord(const FitRequest& request, const FitOptions& options,
                                   const LoadedModel& model) {
    PosteriorRecord record;
    record.id = NewId("p");
    record.model = model.info.name;
    record.version = model.info.version;
    record.requested_rank = options.rank;
    record.direction_batch_size = options.direction_batch_size;
    record.curvature_batch_size = options.curvature_batch_size;
    record.debiasing = options.debiasing == Debiasing::kNone ? "none" : "two_batch";
    record.residual_kind = options.residual == ResidualKind::kNone ? "none" : "isotropic";
    record.seed = options.seed;
    record.lanczos_tolerance = options.lanczos_tolerance;
    record.max_products = options.max_products > 0 ? options.max_products : 10 * options.rank;
    record.target_id_rate =
        request.target_id_rate > 0 ? request.target_id_rate : kDefaultTargetIdRate;
    record.max_validation_examples = options.max_validation_examples;
    record.sigma_noise = model.info.sigma_noise;
    record.default_ood_score = DefaultOodScore(model.manifest.likelihood.kind);
    record.train_dataset_id = request.train_dataset_id;
    record.validation_dataset_id = request.validation_dataset_id;
    record.checkpoint_sha256 = model.info.checkpoint_sha256;
    record.manifest_fingerprint = ManifestFingerprint(model.manifest);
    record.code_version = LAPLACED_VERSION;
    return record;
  }

  absl::StatusOr<std::string> Run(const EmpiricalRisk& risk, const Dataset& validation,
                                  const FitOptions& options, PosteriorRecord record,
                                  const LoadedModel& model, bool activate,
                                  OperationHandle& handle) {
    const auto start = std::chrono::steady_clock::now();
    InitTorchThread();
    const FitProgressFn progress = [&](const std::string& phase, int64_t done, int64_t total,
                                       double fraction) {
      if (handle.cancelled()) return absl::CancelledError("the fit was cancelled");
      handle.Report(phase, done, total, fraction);
      return absl::OkStatus();
    };
    LAPLACED_ASSIGN_OR_RETURN(const FitResult result,
                              RunFit(risk, model.capture, validation, options, progress));
    const auto check = [&] { return progress("thresholds", 0, 0, 0.96); };
    LAPLACED_RETURN_IF_ERROR(CatchTorch("thresholds", [&]() -> absl::Status {
      LAPLACED_ASSIGN_OR_RETURN(
          record.ood_thresholds,
          CalibrateThresholds(result, risk.likelihood, record.target_id_rate, check));
      return absl::OkStatus();
    }));
    LAPLACED_RETURN_IF_ERROR(progress("saving", 0, 1, 0.98));
    record.create_time = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
    record.fit_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    LAPLACED_ASSIGN_OR_RETURN(
        const std::string folder,
        repository_.PosteriorFolder({record.model, record.version}, record.id));
    LAPLACED_RETURN_IF_ERROR(SavePosterior(folder, result, record));
    if (activate) {
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
