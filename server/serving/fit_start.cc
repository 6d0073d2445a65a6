#include "server/serving/fit_start.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/laplace/fit.h"
#include "server/model/field_error.h"
#include "server/model/torch_status.h"
#include "server/serving/fit_records.h"
#include "server/serving/loaded_posterior.h"

namespace laplaced {
namespace {

absl::Status ChooseFeatures(const std::string& requested, FitJob& job) {
  return CatchTorch("feature layer", [&]() -> absl::Status {
    auto layer = FindFeatureLayer(job.model->network, job.model->capture, requested);
    if (layer.ok()) {
      job.features = *std::move(layer);
    } else if (!absl::IsNotFound(layer.status())) {
      return layer.status();
    } else {
      job.record.warnings.push_back(
          absl::StrCat("no OOD scores from features: ", layer.status().message()));
    }
    return absl::OkStatus();
  });
}

}  // namespace

absl::StatusOr<Dataset> LoadDataset(const DatasetStore& store, const std::string& field,
                                    const std::string& id, const Ranks& ranks) {
  auto files = store.Find(id);
  if (absl::IsInvalidArgument(files.status())) return FieldError(field, files.status().message());
  if (!files.ok()) {
    return absl::Status(files.status().code(), absl::StrCat(field, ": ", files.status().message()));
  }
  if (files->info.header.n_rows < ranks.size()) {
    return FieldError(field, absl::StrCat("expected at least one example for each of ",
                                          ranks.size(), " ranks, got ", files->info.header.n_rows));
  }
  return ReadDatasetShare(files->inputs_path, files->targets_path, ranks.rank(), ranks.size());
}

PosteriorRecord NewRecord(const LoadedModel& model) {
  PosteriorRecord record;
  record.id = NewId("p");
  record.model = model.info.name;
  record.version = model.info.version;
  record.checkpoint_sha256 = model.info.checkpoint_sha256;
  record.manifest_fingerprint = ManifestFingerprint(model.manifest);
  record.code_version = LAPLACED_VERSION;
  return record;
}

absl::StatusOr<FitJob> MakeJob(const LoadedModel& model, const UncertainNetwork& uncertain,
                               Dataset training, Dataset validation, const Ranks& ranks) {
  FitJob job;
  // Fits change parameters while they differentiate: they get a network of their own.
  LAPLACED_ASSIGN_OR_RETURN(Network network, uncertain.network.Clone());
  job.risk = std::make_shared<EmpiricalRisk>(EmpiricalRisk{
      std::move(network), model.manifest.likelihood, model.manifest, std::move(training)});
  job.risk->ranks = &ranks;
  job.validation = std::move(validation);
  job.capture = uncertain.capture;
  return job;
}

absl::StatusOr<FitJob> PrepareFit(std::shared_ptr<const LoadedModel> model,
                                  const FitRequest& request, Dataset training, Dataset validation,
                                  const Ranks& ranks) {
  LAPLACED_ASSIGN_OR_RETURN(const FitOptions options, ToFitOptions(request));
  LAPLACED_ASSIGN_OR_RETURN(const UncertainNetwork uncertain, Uncertain(*model, options));
  LAPLACED_ASSIGN_OR_RETURN(
      FitJob job, MakeJob(*model, uncertain, std::move(training), std::move(validation), ranks));
  job.options = options;
  LAPLACED_RETURN_IF_ERROR(CatchTorch(
      "training data", [&] { return CheckFit(*job.risk, job.capture, job.validation, options); }));
  job.model = std::move(model);
  job.record = NewRecord(*job.model);
  FillOptions(options, job.record);
  job.record.feature_layer = request.feature_layer;
  LAPLACED_RETURN_IF_ERROR(ChooseFeatures(request.feature_layer, job));
  job.record.target_id_rate =
      request.target_id_rate > 0 ? request.target_id_rate : kDefaultTargetIdRate;
  job.record.calibration_dataset_id = request.validation_dataset_id;
  job.record.train_dataset_id = request.train_dataset_id;
  job.record.validation_dataset_id = request.validation_dataset_id;
  job.activate = !request.keep_inactive;
  return job;
}

}  // namespace laplaced
