#include "server/rpc/request_codec.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/rpc/request_checks.h"
#include "server/rpc/tensor_codec.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

absl::Status ReadDebiasing(v1::DebiasingStrategy debiasing, FitRequest* fit) {
  switch (debiasing) {
    case v1::DEBIASING_STRATEGY_UNSPECIFIED:
      return absl::OkStatus();
    case v1::DEBIASING_STRATEGY_NONE:
      fit->debiasing = "none";
      return absl::OkStatus();
    case v1::DEBIASING_STRATEGY_TWO_BATCH:
      fit->debiasing = "two_batch";
      return absl::OkStatus();
    default:
      return FieldError("options.debiasing",
                        absl::StrCat("expected DEBIASING_STRATEGY_NONE or "
                                     "DEBIASING_STRATEGY_TWO_BATCH, got the unknown number ",
                                     static_cast<int>(debiasing)));
  }
}

absl::Status ReadResidual(v1::ResidualKind residual, FitRequest* fit) {
  switch (residual) {
    case v1::RESIDUAL_KIND_UNSPECIFIED:
      return absl::OkStatus();
    case v1::RESIDUAL_KIND_NONE:
      fit->residual = "none";
      return absl::OkStatus();
    case v1::RESIDUAL_KIND_ISOTROPIC:
      fit->residual = "isotropic";
      return absl::OkStatus();
    default:
      return FieldError("options.residual",
                        absl::StrCat("expected RESIDUAL_KIND_NONE or RESIDUAL_KIND_ISOTROPIC, ",
                                     "got the unknown number ", static_cast<int>(residual)));
  }
}

absl::Status CheckSizes(const v1::FitOptions& options) {
  const struct {
    const char* field;
    int64_t value;
  } sizes[] = {{"options.rank", options.rank()},
               {"options.direction_batch_size", options.direction_batch_size()},
               {"options.curvature_batch_size", options.curvature_batch_size()},
               {"options.max_products", options.max_products()},
               {"options.max_validation_examples", options.max_validation_examples()}};
  for (const auto& size : sizes) {
    absl::Status status = CheckNotNegative(size.field, size.value);
    if (!status.ok()) return status;
  }
  if (options.debiasing() == v1::DEBIASING_STRATEGY_NONE && options.curvature_batch_size() != 0) {
    return FieldError("options.curvature_batch_size",
                      absl::StrCat("expected 0 with DEBIASING_STRATEGY_NONE, which measures on the "
                                   "batch that chose the directions, got ",
                                   options.curvature_batch_size()));
  }
  return absl::OkStatus();
}

absl::Status CheckRates(const v1::FitOptions& options) {
  absl::Status status = CheckBelow("options.lanczos_tolerance", options.lanczos_tolerance(), 1);
  if (status.ok()) status = CheckBelow("options.target_id_rate", options.target_id_rate(), 1);
  if (status.ok() && options.has_prior_precision()) {
    status = CheckPrecision("options.prior_precision", options.prior_precision());
  }
  if (status.ok() && options.has_ood_prior_precision()) {
    status = CheckPrecision("options.ood_prior_precision", options.ood_prior_precision());
  }
  return status;
}

absl::Status ReadOptions(const v1::FitOptions& options, FitRequest* fit) {
  absl::Status status = CheckSizes(options);
  if (status.ok()) status = CheckRates(options);
  if (status.ok()) status = ReadDebiasing(options.debiasing(), fit);
  if (status.ok()) status = ReadResidual(options.residual(), fit);
  if (!status.ok()) return status;
  fit->rank = options.rank();
  fit->direction_batch_size = options.direction_batch_size();
  fit->curvature_batch_size = options.curvature_batch_size();
  fit->seed = options.seed();
  if (options.has_prior_precision()) fit->prior_precision = options.prior_precision();
  if (options.has_ood_prior_precision()) fit->ood_prior_precision = options.ood_prior_precision();
  fit->lanczos_tolerance = options.lanczos_tolerance();
  fit->max_products = options.max_products();
  fit->target_id_rate = options.target_id_rate();
  fit->max_validation_examples = options.max_validation_examples();
  return absl::OkStatus();
}

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

absl::StatusOr<LinkApprox> ToLinkApprox(v1::LinkApprox link_approx) {
  switch (link_approx) {
    case v1::LINK_APPROX_UNSPECIFIED:
    case v1::LINK_APPROX_PROBIT:
      return LinkApprox::kProbit;
    case v1::LINK_APPROX_MC:
      return LinkApprox::kMonteCarlo;
    default:
      return FieldError("link_approx",
                        absl::StrCat("expected LINK_APPROX_PROBIT or LINK_APPROX_MC, got the ",
                                     "unknown number ", static_cast<int>(link_approx)));
  }
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
  FitRequest fit;
  if (status.ok()) status = ReadOptions(request.options(), &fit);
  if (!status.ok()) return status;
  fit.model = request.model();
  fit.version = request.version();
  fit.train_dataset_id = request.train_dataset_id();
  fit.validation_dataset_id = request.validation_dataset_id();
  fit.keep_inactive = request.keep_inactive();
  return fit;
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

absl::StatusOr<PredictOptions> ToPredictOptions(const v1::PredictRequest& request) {
  PredictOptions options;
  if (request.has_prior_precision()) {
    const absl::Status status = CheckPrecision("prior_precision", request.prior_precision());
    if (!status.ok()) return status;
    options.prior_precision = request.prior_precision();
  }
  const absl::StatusOr<LinkApprox> link = ToLinkApprox(request.link_approx());
  if (!link.ok()) return link.status();
  options.link_approx = *link;
  options.ood_scores.assign(request.ood_scores().begin(), request.ood_scores().end());
  options.return_covariance = request.return_covariance();
  return options;
}

}  // namespace laplaced
