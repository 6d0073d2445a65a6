#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/data/dataset.h"
#include "server/laplace/fit.h"
#include "server/model/field_error.h"
#include "server/model/torch_status.h"
#include "server/serving/fit_crew.h"
#include "server/serving/fit_identity.h"
#include "server/serving/fit_job.h"
#include "server/serving/fit_records.h"
#include "server/serving/fit_service.h"
#include "server/serving/fit_start.h"
#include "server/serving/loaded_posterior.h"
#include "server/serving/newton_job.h"
#include "server/serving/torch_served_model.h"

namespace laplaced {
namespace {

class TorchFitService : public FitService {
 public:
  TorchFitService(const Repository& repository, const DatasetStore& datasets, ModelHost& host,
                  Operations& operations, FitCrew* crew)
      : repository_(repository),
        datasets_(datasets),
        host_(host),
        operations_(operations),
        crew_(crew) {}

  absl::StatusOr<OperationSnapshot> Start(const FitRequest& request,
                                          const ComputeContext& caller) override {
    LAPLACED_RETURN_IF_ERROR(operations_.CheckRoom());
    LAPLACED_ASSIGN_OR_RETURN(const auto served, host_.Pin(request.model, request.version));
    const auto model = static_cast<const TorchServedModel&>(*served).model();
    const Ranks& ranks = RanksFor(request);
    LAPLACED_ASSIGN_OR_RETURN(Dataset training, LoadDataset(datasets_, "train_dataset_id",
                                                            request.train_dataset_id, ranks));
    LAPLACED_ASSIGN_OR_RETURN(Dataset validation,
                              LoadValidation(request.validation_dataset_id, ranks));
    LAPLACED_ASSIGN_OR_RETURN(
        FitJob job, PrepareFit(model, request, std::move(training), std::move(validation), ranks));
    if (ranks.size() == 1) return Launch("fit", std::move(job), "", caller);
    FitRequest pinned = request;
    pinned.version = job.record.version;
    return Launch("fit", std::move(job), "", caller, pinned);
  }

  absl::StatusOr<OperationSnapshot> StartUpdate(const UpdateRequest& request,
                                                const ComputeContext& caller) override {
    LAPLACED_RETURN_IF_ERROR(operations_.CheckRoom());
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
    const std::vector<std::string>& known_ids = old.updated_dataset_ids;
    if (old.train_dataset_id == request.dataset_id ||
        std::find(known_ids.begin(), known_ids.end(), request.dataset_id) != known_ids.end()) {
      return FieldError("dataset_id",
                        "the posterior has these examples already: an update takes new ones");
    }
    std::string validation = old.validation_dataset_id;
    const bool lost = !validation.empty() && absl::IsNotFound(datasets_.Find(validation).status());
    if (lost) validation.clear();
    LAPLACED_ASSIGN_OR_RETURN(Dataset added,
                              LoadDataset(datasets_, "dataset_id", request.dataset_id));
    LAPLACED_ASSIGN_OR_RETURN(Dataset held_out, LoadValidation(validation));
    LAPLACED_ASSIGN_OR_RETURN(
        FitJob job, MakeJob(*model, before->uncertain, std::move(added), std::move(held_out)));
    LAPLACED_ASSIGN_OR_RETURN(job.options, ToFitOptions(old));
    LAPLACED_RETURN_IF_ERROR(
        CatchTorch("new data", [&] { return CheckData(*job.risk, "dataset_id", job.risk->data); }));
    job.start = UpdateStart{before->fitted,          old.n_data,
                            old.mean_train_loss,     old.prior_precision,
                            old.ood_prior_precision, old.sigma_noise};
    job.model = model;
    job.before = before;
    if (before->ood.features) job.features = before->ood.knowledge.features->layer();
    job.record = Successor(*model, old);
    job.record.updated_examples = old.updated_examples + job.risk->size();
    job.record.updated_dataset_ids.push_back(request.dataset_id);
    job.record.ood_thresholds.clear();
    job.record.calibration_dataset_id = validation;
    job.record.warnings.clear();
    if (lost) {
      job.record.warnings.push_back(
          "the validation data of the fit are gone: prior precisions stayed, and there are no OOD "
          "thresholds");
    }
    job.activate = !request.keep_inactive;
    return Launch("update", std::move(job), request.posterior_id.empty() ? known.id : "", caller);
  }

  absl::StatusOr<OperationSnapshot> StartCalibrate(const CalibrateRequest& request,
                                                   const ComputeContext& caller) override {
    LAPLACED_RETURN_IF_ERROR(operations_.CheckRoom());
    LAPLACED_ASSIGN_OR_RETURN(const auto served, host_.Pin(request.model, request.version));
    CalibrationJob job;
    job.model = static_cast<const TorchServedModel&>(*served).model();
    LAPLACED_ASSIGN_OR_RETURN(const PosteriorRecord known,
                              GetPosterior(request.model, request.version, request.posterior_id));
    LAPLACED_ASSIGN_OR_RETURN(const std::string folder,
                              repository_.PosteriorFolder({known.model, known.version}, known.id));
    LAPLACED_ASSIGN_OR_RETURN(job.before, LoadPosterior(folder, *job.model));
    LAPLACED_ASSIGN_OR_RETURN(job.data, LoadDataset(datasets_, "dataset_id", request.dataset_id));
    LAPLACED_RETURN_IF_ERROR(CheckExamples(job.model->manifest, "dataset_id", job.data));
    const PosteriorRecord& old = job.before->artifact.record;
    job.record = Successor(*job.model, old);
    job.record.ood_thresholds.clear();
    job.record.calibration_dataset_id = request.dataset_id;
    if (request.target_id_rate > 0) job.record.target_id_rate = request.target_id_rate;
    if (!request.default_ood_score.empty()) {
      OodKnowledge knowledge = job.before->ood.knowledge;
      // What there will be from these data.
      if (knowledge.features != nullptr && knowledge.features->has_head()) {
        for (const std::string& part : CombinedParts()) knowledge.combined.push_back({part, 0, 0});
      }
      if (knowledge.kind == Likelihood::Kind::kCategorical && knowledge.templates == nullptr) {
        knowledge.templates = std::make_shared<const ClassTemplates>(job.model->info.n_outputs);
      }
      LAPLACED_RETURN_IF_ERROR(
          CheckOodScores("default_ood_score", {request.default_ood_score}, knowledge));
      job.record.default_ood_score = request.default_ood_score;
    }
    job.activate = !request.keep_inactive;
    const std::string description =
        absl::StrCat("calibrate ", job.record.model, "/", job.record.version);
    LAPLACED_ASSIGN_OR_RETURN(
        const std::string made,
        repository_.PosteriorFolder({job.record.model, job.record.version}, job.record.id));
    const std::string instead_of = request.posterior_id.empty() ? known.id : "";
    return Begin(caller, description,
                 [this, made, instead_of, job = std::move(job)](OperationHandle& handle) {
                   return Activate(job.record, job.activate, instead_of,
                                   RunCalibrationJob(job, made, handle));
                 });
  }

  absl::StatusOr<OperationSnapshot> StartNewton(const NewtonRequest& request,
                                                const ComputeContext& caller) override {
    LAPLACED_RETURN_IF_ERROR(operations_.CheckRoom());
    LAPLACED_ASSIGN_OR_RETURN(const auto served, host_.Pin(request.model, request.version));
    const auto model = static_cast<const TorchServedModel&>(*served).model();
    LAPLACED_ASSIGN_OR_RETURN(Dataset training,
                              LoadDataset(datasets_, "train_dataset_id", request.train_dataset_id));
    Dataset held_out;
    if (!request.held_out_dataset_id.empty()) {
      LAPLACED_ASSIGN_OR_RETURN(
          held_out, LoadDataset(datasets_, "held_out_dataset_id", request.held_out_dataset_id));
    }
    LAPLACED_ASSIGN_OR_RETURN(
        NewtonJob job, PrepareNewton(model, request, std::move(training), std::move(held_out)));
    const std::string description =
        absl::StrCat("newton step ", model->info.name, "/", model->info.version);
    return Begin(
        caller, description,
        [this, job = std::move(job)](OperationHandle& handle) -> absl::StatusOr<OperationResult> {
          LAPLACED_ASSIGN_OR_RETURN(const NewtonOutcome outcome,
                                    RunNewtonJob(job, repository_, handle));
          return OperationResult(outcome.version, outcome.summary);
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
    LAPLACED_ASSIGN_OR_RETURN(PosteriorRecord record, ReadPosteriorRecord(folder));
    // It may have been copied with its checkpoint.
    record.model = model.name;
    record.version = model.version;
    return record;
  }

  // Those of the crew if each of them gets examples of its own.
  const Ranks& RanksFor(const FitRequest& request) const {
    if (crew_ == nullptr) return OneRank();
    for (const std::string& id : {request.train_dataset_id, request.validation_dataset_id}) {
      const auto files = datasets_.Find(id);
      const bool few = files.ok() && files->info.header.n_rows < crew_->planned().size();
      if (few) return OneRank();
    }
    return crew_->planned();
  }

  // None for an empty id.
  absl::StatusOr<Dataset> LoadValidation(const std::string& id,
                                         const Ranks& ranks = OneRank()) const {
    if (id.empty()) return Dataset();
    return LoadDataset(datasets_, "validation_dataset_id", id, ranks);
  }

  // A posterior made from `old` with what the caller changes.
  static PosteriorRecord Successor(const LoadedModel& model, const PosteriorRecord& old) {
    const PosteriorRecord fresh = NewRecord(model);
    PosteriorRecord record = old;
    record.id = fresh.id;
    record.model = fresh.model;  // that of a copied posterior is where it was fitted
    record.version = fresh.version;
    record.code_version = fresh.code_version;
    record.parent_posterior_id = old.id;
    return record;
  }

  absl::StatusOr<OperationSnapshot> Begin(const ComputeContext& caller,
                                          const std::string& description, Operations::Work work) {
    LAPLACED_RETURN_IF_ERROR(caller.Check());
    return operations_.Start(description, std::move(work));
  }

  // On the ranks of the crew if there is a request for them. `instead_of` as in Activate.
  absl::StatusOr<OperationSnapshot> Launch(const std::string& what, FitJob job,
                                           const std::string& instead_of,
                                           const ComputeContext& caller,
                                           absl::optional<FitRequest> request = absl::nullopt) {
    const std::string description =
        absl::StrCat(what, " ", job.record.model, "/", job.record.version);
    LAPLACED_ASSIGN_OR_RETURN(
        const std::string folder,
        repository_.PosteriorFolder({job.record.model, job.record.version}, job.record.id));
    return Begin(caller, description,
                 [this, folder, instead_of, job = std::move(job),
                  request = std::move(request)](OperationHandle& handle) {
                   const absl::Status saved = request ? FitTogether(job, *request, folder, handle)
                                                      : RunFitJob(job, folder, handle);
                   return Activate(job.record, job.activate, instead_of, saved);
                 });
  }

  // A job that was prepared for the crew's planned ranks.
  absl::Status FitTogether(const FitJob& planned, const FitRequest& request,
                           const std::string& folder, OperationHandle& handle) {
    return crew_->Fit(
        request, IdentityOf(*planned.model, request), [&] { return handle.cancelled(); },
        [&](const Ranks& ranks) {
          FitJob job = planned;
          job.risk = std::make_shared<EmpiricalRisk>(*planned.risk);
          job.risk->ranks = &ranks;
          return RunFitJob(job, folder, handle);
        });
  }

  // The end of an operation that has saved a posterior, or has not: its id. `instead_of`: the
  // posterior that it takes the place of; empty: whichever is active.
  absl::StatusOr<std::string> Activate(const PosteriorRecord& record, bool activate,
                                       const std::string& instead_of, const absl::Status& saved) {
    if (!saved.ok()) return saved;
    if (!activate) return record.id;
    const absl::Status status =
        host_.ActivatePosterior(record.model, record.version, record.id, instead_of);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("posterior ", record.id,
                                                      " was made and saved, but activating it "
                                                      "failed: ",
                                                      status.message()));
    }
    return record.id;
  }

  const Repository& repository_;
  const DatasetStore& datasets_;
  ModelHost& host_;
  Operations& operations_;
  FitCrew* const crew_;
};

}  // namespace

std::unique_ptr<FitService> MakeFitService(const Repository& repository,
                                           const DatasetStore& datasets, ModelHost& host,
                                           Operations& operations) {
  return std::make_unique<TorchFitService>(repository, datasets, host, operations, nullptr);
}

std::unique_ptr<FitService> MakeCrewFitService(const Repository& repository,
                                               const DatasetStore& datasets, ModelHost& host,
                                               Operations& operations, FitCrew& crew) {
  return std::make_unique<TorchFitService>(repository, datasets, host, operations, &crew);
}

}  // namespace laplaced
