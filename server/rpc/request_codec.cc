#include "server/rpc/request_codec.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/rpc/enum_words.h"
#include "server/rpc/fit_options_codec.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/tensor_codec.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

absl::Status CheckShape(const std::string& field,
                        const google::protobuf::RepeatedField<int64_t>& shape) {
  for (int i = 0; i < shape.size(); ++i) {
    if (shape[i] < 1) {
      return FieldError(absl::StrCat(field, "[", i, "]"),
                        absl::StrCat("expected a size of at least 1, got ", shape[i]));
    }
  }
  return absl::OkStatus();
}

// Draws of one request; more would keep the compute thread from everybody else.
constexpr int64_t kMostSamples = 10000;

// Each costs the answer a number for every row, so a name that is repeated a million times would
// cost a thousand times the bytes of its request.
absl::Status ReadOodScores(const google::protobuf::RepeatedPtrField<std::string>& names,
                           std::vector<std::string>* scores) {
  constexpr int kMostScores = 64;
  if (names.size() > kMostScores) {
    return FieldError("ood_scores",
                      absl::StrCat("expected at most ", kMostScores, " names, got ", names.size()));
  }
  scores->assign(names.begin(), names.end());
  for (auto name = scores->begin(); name != scores->end(); ++name) {
    if (std::find(scores->begin(), name, *name) == name) continue;
    return FieldError(absl::StrCat("ood_scores[", name - scores->begin(), "]"),
                      absl::StrCat("expected every score once, got '", *name, "' again"));
  }
  return absl::OkStatus();
}

absl::StatusOr<LinkApprox> ToLinkApprox(v1::LinkApprox link_approx) {
  switch (link_approx) {
    case v1::LINK_APPROX_UNSPECIFIED:
    case v1::LINK_APPROX_PROBIT:
      return LinkApprox::kProbit;
    case v1::LINK_APPROX_MC:
      return LinkApprox::kMonteCarlo;
    case v1::LINK_APPROX_LAPLACE_BRIDGE:
      return LinkApprox::kLaplaceBridge;
    case v1::LINK_APPROX_MEAN_FIELD:
      return LinkApprox::kMeanField;
    default:
      return UnknownNumber("link_approx", *v1::LinkApprox_descriptor(),
                           {v1::LINK_APPROX_PROBIT, v1::LINK_APPROX_MC,
                            v1::LINK_APPROX_LAPLACE_BRIDGE, v1::LINK_APPROX_MEAN_FIELD},
                           link_approx);
  }
}

absl::StatusOr<VarianceMode> ToVarianceMode(v1::VarianceMode mode) {
  switch (mode) {
    case v1::VARIANCE_MODE_UNSPECIFIED:
    case v1::VARIANCE_MODE_AUTO:
      return VarianceMode::kAuto;
    case v1::VARIANCE_MODE_EXACT:
      return VarianceMode::kExact;
    case v1::VARIANCE_MODE_TOP_CLASSES:
      return VarianceMode::kTopClasses;
    case v1::VARIANCE_MODE_SAMPLED:
      return VarianceMode::kSampled;
    case v1::VARIANCE_MODE_LAST_LAYER:
      return VarianceMode::kLastLayer;
    default:
      return UnknownNumber(
          "variance_mode", *v1::VarianceMode_descriptor(),
          {v1::VARIANCE_MODE_AUTO, v1::VARIANCE_MODE_EXACT, v1::VARIANCE_MODE_TOP_CLASSES,
           v1::VARIANCE_MODE_SAMPLED, v1::VARIANCE_MODE_LAST_LAYER},
          mode);
  }
}

absl::Status CheckCount(const std::string& field, int64_t value, int64_t most) {
  const absl::Status status = CheckNotNegative(field, value);
  if (!status.ok() || value <= most) return status;
  return FieldError(field, absl::StrCat("expected at most ", most, ", got ", value));
}

// `field`, which means something in one mode only, is given although another one is asked for.
absl::Status CheckOnlyWith(const std::string& field, bool given, VarianceMode mode,
                           VarianceMode wanted, const char* name) {
  if (!given || mode == wanted) return absl::OkStatus();
  return FieldError(field, absl::StrCat("expected only with variance_mode ", name,
                                        ", got with another one, where it means nothing"));
}

// What both requests have: the mode and the draws of SAMPLED. `other_draws`: the seed has another
// use in this request.
template <typename Request, typename Options>
absl::Status ReadMode(const Request& request, bool other_draws, Options* options) {
  const absl::StatusOr<VarianceMode> mode = ToVarianceMode(request.variance_mode());
  if (!mode.ok()) return mode.status();
  absl::Status status = CheckCount("samples", request.samples(), kMostSamples);
  if (status.ok()) {
    status = CheckOnlyWith("samples", request.samples() > 0, *mode, VarianceMode::kSampled,
                           "VARIANCE_MODE_SAMPLED");
  }
  const bool may_draw = other_draws || *mode == VarianceMode::kAuto;
  if (status.ok() && !may_draw) {
    status = CheckOnlyWith("seed", request.seed() != 0, *mode, VarianceMode::kSampled,
                           "VARIANCE_MODE_SAMPLED or return_samples");
  }
  if (!status.ok()) return status;
  options->variance_mode = *mode;
  options->samples = request.samples();
  options->seed = request.seed();
  return absl::OkStatus();
}

// What every request that brings new data to a posterior has.
template <typename Request>
absl::Status CheckNewDataFor(const Request& request) {
  absl::Status status = CheckModel("model", request.model(), request.version());
  if (status.ok() && !request.posterior_id().empty()) {
    status = CheckId("posterior_id", request.posterior_id(), "a posterior");
  }
  if (status.ok()) status = CheckId("dataset_id", request.dataset_id(), "an uploaded data set");
  return status;
}

}  // namespace

absl::StatusOr<FitRequest> ToFitRequest(const v1::FitPosteriorRequest& request) {
  absl::Status status = CheckModel("model", request.model(), request.version());
  if (status.ok()) {
    status = CheckId("train_dataset_id", request.train_dataset_id(), "an uploaded data set");
  }
  if (status.ok() && !request.validation_dataset_id().empty()) {
    status =
        CheckId("validation_dataset_id", request.validation_dataset_id(), "an uploaded data set");
  }
  if (status.ok() && request.validation_dataset_id().empty() &&
      request.options().prior_method() == v1::PRIOR_METHOD_VALIDATION) {
    status = FieldError("validation_dataset_id",
                        "expected a data set with PRIOR_METHOD_VALIDATION, got none");
  }
  FitRequest fit;
  if (status.ok()) status = ReadFitOptions(request.options(), &fit);
  if (!status.ok()) return status;
  fit.model = request.model();
  fit.version = request.version();
  fit.train_dataset_id = request.train_dataset_id();
  fit.validation_dataset_id = request.validation_dataset_id();
  fit.keep_inactive = request.keep_inactive();
  return fit;
}

absl::StatusOr<UpdateRequest> ToUpdateRequest(const v1::UpdatePosteriorRequest& request) {
  const absl::Status status = CheckNewDataFor(request);
  if (!status.ok()) return status;
  UpdateRequest update;
  update.model = request.model();
  update.version = request.version();
  update.posterior_id = request.posterior_id();
  update.dataset_id = request.dataset_id();
  update.keep_inactive = request.keep_inactive();
  return update;
}

absl::StatusOr<NewtonRequest> ToNewtonRequest(const v1::NewtonStepRequest& request) {
  const v1::NewtonStepOptions& options = request.options();
  NewtonRequest newton;
  absl::Status status = CheckModel("model", request.model(), request.version());
  if (status.ok()) {
    status = CheckId("train_dataset_id", request.train_dataset_id(), "an uploaded data set");
  }
  if (status.ok() && !request.held_out_dataset_id().empty()) {
    status = CheckId("held_out_dataset_id", request.held_out_dataset_id(), "an uploaded data set");
  }
  status.Update(CheckNotNegative("options.direction_batch_size", options.direction_batch_size()));
  status.Update(CheckNotNegative("options.curvature_batch_size", options.curvature_batch_size()));
  status.Update(CheckNotNegative("options.held_out_size", options.held_out_size()));
  status.Update(CheckNotNegative("options.max_steps", options.max_steps()));
  status.Update(CheckBelow("options.tolerance", options.tolerance(), 1));
  if (options.has_damping() && options.damping() != 0) {
    status.Update(CheckPositive("options.damping", options.damping()));
  }
  if (status.ok() && options.curvature() != v1::CURVATURE_KIND_UNSPECIFIED &&
      options.curvature() != v1::CURVATURE_KIND_GGN &&
      options.curvature() != v1::CURVATURE_KIND_HESSIAN) {
    status =
        UnknownNumber("options.curvature", *v1::CurvatureKind_descriptor(),
                      {v1::CURVATURE_KIND_GGN, v1::CURVATURE_KIND_HESSIAN}, options.curvature());
  }
  if (!status.ok()) return status;
  absl::StatusOr<std::string> variant =
      WordOf(kNewtonVariantWords, "options.variant", options.variant());
  if (!variant.ok()) return variant.status();
  absl::StatusOr<std::string> curvature =
      WordOf(kCurvatureWords, "options.curvature", options.curvature());
  if (!curvature.ok()) return curvature.status();
  newton.variant = *std::move(variant);
  newton.curvature = *std::move(curvature);
  newton.model = request.model();
  newton.version = request.version();
  newton.train_dataset_id = request.train_dataset_id();
  newton.held_out_dataset_id = request.held_out_dataset_id();
  newton.keep_worse = request.keep_worse();
  newton.direction_batch_size = options.direction_batch_size();
  newton.curvature_batch_size = options.curvature_batch_size();
  newton.held_out_size = options.held_out_size();
  if (options.has_damping()) newton.damping = options.damping();
  newton.max_steps = options.max_steps();
  newton.tolerance = options.tolerance();
  newton.seed = options.seed();
  return newton;
}

absl::StatusOr<CalibrateRequest> ToCalibrateRequest(const v1::CalibrateOodRequest& request) {
  absl::Status status = CheckNewDataFor(request);
  if (status.ok()) status = CheckBelow("target_id_rate", request.target_id_rate(), 1);
  if (status.ok() && !request.default_ood_score().empty()) {
    status = CheckId("default_ood_score", request.default_ood_score(), "a score");
  }
  if (!status.ok()) return status;
  CalibrateRequest calibrate;
  calibrate.model = request.model();
  calibrate.version = request.version();
  calibrate.posterior_id = request.posterior_id();
  calibrate.dataset_id = request.dataset_id();
  calibrate.target_id_rate = request.target_id_rate();
  calibrate.default_ood_score = request.default_ood_score();
  calibrate.keep_inactive = request.keep_inactive();
  return calibrate;
}

absl::StatusOr<DatasetHeader> ToDatasetHeader(const v1::DatasetHeader& header) {
  const absl::StatusOr<DType> input = ToDType(header.input_dtype(), "header.input_dtype");
  if (!input.ok()) return input.status();
  const absl::StatusOr<DType> target = ToDType(header.target_dtype(), "header.target_dtype");
  if (!target.ok()) return target.status();
  absl::Status status = CheckShape("header.example_shape", header.example_shape());
  if (status.ok()) status = CheckShape("header.target_shape", header.target_shape());
  if (!status.ok()) return status;
  if (header.n_rows() < 1) {
    return FieldError("header.n_rows",
                      absl::StrCat("expected at least 1 row, got ", header.n_rows()));
  }
  DatasetHeader result;
  result.input_dtype = *input;
  result.example_shape.assign(header.example_shape().begin(), header.example_shape().end());
  result.target_dtype = *target;
  result.target_shape.assign(header.target_shape().begin(), header.target_shape().end());
  result.n_rows = header.n_rows();
  return result;
}

absl::StatusOr<Priority> ToPriority(v1::Priority priority, Priority standard) {
  switch (priority) {
    case v1::PRIORITY_UNSPECIFIED:
      return standard;
    case v1::PRIORITY_INTERACTIVE:
      return Priority::kInteractive;
    case v1::PRIORITY_BULK:
      return Priority::kBulk;
    default:
      return UnknownNumber("priority", *v1::Priority_descriptor(),
                           {v1::PRIORITY_INTERACTIVE, v1::PRIORITY_BULK}, priority);
  }
}

absl::StatusOr<PredictOptions> ToPredictOptions(const v1::PredictRequest& request) {
  PredictOptions options;
  if (request.has_prior_precision()) {
    const absl::Status status = CheckPositive("prior_precision", request.prior_precision());
    if (!status.ok()) return status;
    options.prior_precision = request.prior_precision();
  }
  const absl::StatusOr<LinkApprox> link = ToLinkApprox(request.link_approx());
  if (!link.ok()) return link.status();
  options.link_approx = *link;
  absl::Status scores = ReadOodScores(request.ood_scores(), &options.ood_scores);
  if (!scores.ok()) return scores;
  options.return_covariance = request.return_covariance();
  if (request.has_temperature()) {
    const absl::Status status = CheckPositive("temperature", request.temperature());
    if (!status.ok()) return status;
    options.temperature = request.temperature();
  }
  absl::Status status = CheckCount("return_samples", request.return_samples(), kMostSamples);
  if (status.ok()) status = ReadMode(request, request.return_samples() > 0, &options);
  if (status.ok()) status = CheckNotNegative("top_classes", request.top_classes());
  if (status.ok()) {
    status = CheckOnlyWith("top_classes", request.top_classes() > 0, options.variance_mode,
                           VarianceMode::kTopClasses, "VARIANCE_MODE_TOP_CLASSES");
  }
  if (!status.ok()) return status;
  options.top_classes = request.top_classes();
  options.return_joint_covariance = request.return_joint_covariance();
  options.return_samples = request.return_samples();
  return options;
}

absl::StatusOr<ScoreOptions> ToScoreOptions(const v1::ScoreRequest& request) {
  ScoreOptions options;
  absl::Status status = ReadMode(request, false, &options);
  if (status.ok()) status = ReadOodScores(request.ood_scores(), &options.ood_scores);
  if (!status.ok()) return status;
  return options;
}

}  // namespace laplaced
