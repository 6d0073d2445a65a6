#include "server/rpc/request_codec.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
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
  absl::Status status = CheckModel("model", request.model(), request.version());
  if (status.ok() && !request.posterior_id().empty()) {
    status = CheckId("posterior_id", request.posterior_id(), "a posterior");
  }
  if (status.ok()) status = CheckId("dataset_id", request.dataset_id(), "an uploaded data set");
  if (!status.ok()) return status;
  UpdateRequest update;
  update.model = request.model();
  update.version = request.version();
  update.posterior_id = request.posterior_id();
  update.dataset_id = request.dataset_id();
  update.keep_inactive = request.keep_inactive();
  return update;
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
    const absl::Status status = CheckPositive("prior_precision", request.prior_precision());
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
