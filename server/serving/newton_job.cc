#include "server/serving/newton_job.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/model/field_error.h"
#include "server/model/torch_runtime.h"
#include "server/model/torch_status.h"
#include "server/observe/log.h"
#include "server/serving/model_version_writer.h"

namespace laplaced {
namespace {

// By number; the first is what "" stands for.
const std::vector<std::pair<std::string, NewtonVariant>> kVariants = {
    {"debiased", NewtonVariant::kDebiased},
    {"single", NewtonVariant::kSingle},
    {"equal_budget", NewtonVariant::kEqualBudget},
    {"oracle", NewtonVariant::kOracle}};
const std::vector<std::pair<std::string, CurvatureKind>> kCurvatures = {
    {"ggn", CurvatureKind::kGgn}, {"hessian", CurvatureKind::kHessian}};

template <typename Enum>
absl::StatusOr<Enum> Find(const std::vector<std::pair<std::string, Enum>>& names,
                          const std::string& field, const std::string& name) {
  if (name.empty()) return names[0].second;
  for (const auto& [known, value] : names) {
    if (name == known) return value;
  }
  const auto format = [](std::string* out, const auto& entry) { out->append(entry.first); };
  return FieldError(field, absl::StrCat("expected one of ", absl::StrJoin(names, ", ", format),
                                        ", got \"", name, "\""));
}

template <typename Enum>
const std::string& NameIn(const std::vector<std::pair<std::string, Enum>>& names, Enum value) {
  for (const auto& entry : names) {
    if (entry.second == value) return entry.first;
  }
  return names[0].first;
}

absl::Status TakeSize(const char* field, int64_t value, int64_t& into) {
  if (value < 0) {
    return FieldError(field,
                      absl::StrCat("expected 0 (the default) or a positive number, got ", value));
  }
  if (value > 0) into = value;
  return absl::OkStatus();
}

absl::StatusOr<NewtonOptions> ToNewtonOptions(const NewtonRequest& request) {
  NewtonOptions options;
  LAPLACED_ASSIGN_OR_RETURN(options.variant, Find(kVariants, "options.variant", request.variant));
  LAPLACED_ASSIGN_OR_RETURN(options.curvature,
                            Find(kCurvatures, "options.curvature", request.curvature));
  LAPLACED_RETURN_IF_ERROR(TakeSize("options.direction_batch_size", request.direction_batch_size,
                                    options.direction_batch_size));
  if (!UsesSecondBatch(options.variant) && request.curvature_batch_size != 0) {
    return FieldError(
        "options.curvature_batch_size",
        absl::StrCat("expected 0 with the variant ", NameIn(kVariants, options.variant),
                     ", which has no second "
                     "batch, got ",
                     request.curvature_batch_size));
  }
  LAPLACED_RETURN_IF_ERROR(TakeSize("options.curvature_batch_size", request.curvature_batch_size,
                                    options.curvature_batch_size));
  if (!request.held_out_dataset_id.empty() && request.held_out_size != 0) {
    return FieldError("options.held_out_size",
                      "expected 0 with a data set of held-out examples, all of which are used");
  }
  LAPLACED_RETURN_IF_ERROR(
      TakeSize("options.held_out_size", request.held_out_size, options.held_out_size));
  LAPLACED_RETURN_IF_ERROR(TakeSize("options.max_steps", request.max_steps, options.max_steps));
  if (request.damping) options.damping = *request.damping;
  if (request.tolerance != 0) options.tolerance = request.tolerance;
  options.seed = request.seed;
  return options;
}

const char* NameOf(CgEnd end) {
  switch (end) {
    case CgEnd::kSteps:
      return "max_steps";
    case CgEnd::kResidual:
      return "tolerance";
    case CgEnd::kIndefinite:
      break;
  }
  return "no positive curvature";
}

// Tells the log of every step, whether a version comes of it or not.
void LogSteps(const NewtonResult& result) {
  for (const NewtonTrace& row : result.trace) {
    LogFields fields = {
        {"number", row.step}, {"batch_loss", row.batch_loss}, {"held_out_loss", row.choosing_loss}};
    const auto add = [&](const char* name, double value) {
      if (std::isfinite(value)) fields.emplace_back(name, value);
    };
    add("slope_b1", row.slope_b1);
    add("slope_b2", row.slope_b2);
    add("curvature_b1", row.curvature_b1);
    add("curvature_b2", row.curvature_b2);
    LogInfo("step of conjugate gradients", fields);
  }
}

}  // namespace

absl::StatusOr<NewtonJob> PrepareNewton(std::shared_ptr<const LoadedModel> model,
                                        const NewtonRequest& request, Dataset training,
                                        Dataset held_out) {
  NewtonJob job;
  LAPLACED_ASSIGN_OR_RETURN(job.options, ToNewtonOptions(request));
  // Products replace parameters while they differentiate: they get a network of their own.
  LAPLACED_ASSIGN_OR_RETURN(Network network, model->network.Clone());
  job.risk = std::make_shared<EmpiricalRisk>(EmpiricalRisk{
      std::move(network), model->manifest.likelihood, model->manifest, std::move(training)});
  job.held_out = std::move(held_out);
  LAPLACED_RETURN_IF_ERROR(CatchTorch(
      "training data", [&] { return CheckNewton(*job.risk, job.held_out, job.options); }));
  job.model = std::move(model);
  job.request = request;
  return job;
}

absl::StatusOr<NewtonOutcome> RunNewtonJob(const NewtonJob& job, const Repository& repository,
                                           OperationHandle& handle) {
  InitTorchThread();
  const FitProgressFn progress = [&](const std::string& phase, int64_t done, int64_t total,
                                     double fraction) {
    if (handle.cancelled()) return absl::CancelledError("the Newton step was cancelled");
    handle.Report(phase, done, total, fraction);
    return absl::OkStatus();
  };
  NewtonOutcome outcome;
  LAPLACED_ASSIGN_OR_RETURN(outcome.result,
                            RunNewton(*job.risk, job.held_out, job.options, progress));
  const NewtonResult& result = outcome.result;
  outcome.summary = Summary(result);
  LogSteps(result);
  if (result.chosen == 0 || (!result.improved && !job.request.keep_worse)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "nothing was written, because the model would not get better: ", outcome.summary,
        result.chosen == 0
            ? "; give more examples or more damping, or take the model as it is"
            : "; give more examples or more damping, or ask to keep the step all the same"));
  }
  LAPLACED_RETURN_IF_ERROR(progress("saving", 0, 1, 0.98));
  LAPLACED_ASSIGN_OR_RETURN(
      outcome.version,
      WriteModelVersion(repository, *job.model, result.parameters, NewtonRecord(job, result)));
  return outcome;
}

std::string NewtonRecord(const NewtonJob& job, const NewtonResult& result) {
  using Json = nlohmann::ordered_json;
  const NewtonOptions& options = job.options;
  const bool own = job.held_out.size() == 0;
  Json steps = Json::array();
  for (const NewtonTrace& row : result.trace) {
    steps.push_back({{"step", row.step},
                     {"slope_b1", row.slope_b1},
                     {"curvature_b1", row.curvature_b1},
                     {"slope_b2", row.slope_b2},
                     {"curvature_b2", row.curvature_b2},
                     {"skipped", row.skipped},
                     {"batch_loss", row.batch_loss},
                     {"choosing_loss", row.choosing_loss}});
  }
  Json record = {
      {"format_version", 1},
      {"code_version", LAPLACED_VERSION},
      {"create_time", absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone())},
      {"from_version", job.model->info.version},
      {"from_checkpoint_sha256", job.model->info.checkpoint_sha256},
      {"train_dataset_id", job.request.train_dataset_id},
      {"held_out_dataset_id", job.request.held_out_dataset_id},
      {"options",
       {{"variant", NameIn(kVariants, options.variant)},
        {"curvature", NameIn(kCurvatures, options.curvature)},
        {"direction_batch_size", options.direction_batch_size},
        {"curvature_batch_size",
         UsesSecondBatch(options.variant) ? options.curvature_batch_size : 0},
        {"held_out_size", own ? options.held_out_size : 0},
        {"damping", options.damping},
        {"max_steps", options.max_steps},
        {"tolerance", options.tolerance},
        {"seed", options.seed}}},
      {"weight_decay", job.risk->manifest.weight_decay},
      {"chosen_steps", result.chosen},
      {"ended_by", NameOf(result.end)},
      {"skipped_directions", result.skipped},
      {"relative_length", result.relative_length},
      {"held_out",
       {{"choosing_count", result.choosing_count},
        {"judging_count", result.judging_count},
        {"loss_before", result.before.loss},
        {"loss_after", result.after.loss},
        {"change", result.change},
        {"change_standard_error", result.change_standard_error},
        {"accuracy_before", result.before.accuracy},
        {"accuracy_after", result.after.accuracy}}},
      {"warnings", result.warnings},
      {"steps", std::move(steps)}};
  if (options.variant == NewtonVariant::kOracle)
    record["options"]["direction_batch_size"] = nullptr;
  return record.dump(2) + "\n";  // what is not a number becomes null
}

}  // namespace laplaced
