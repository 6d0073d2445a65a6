#include "server/serving/loaded_posterior.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "server/laplace/predictive.h"
#include "server/model/input_transform.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr char kDirections[] = "directions";

std::vector<double> ToVector(const at::Tensor& t) {
  const at::Tensor c = t.to(at::kDouble).contiguous();
  return {c.data_ptr<double>(), c.data_ptr<double>() + c.numel()};
}

}  // namespace

absl::StatusOr<std::shared_ptr<const LoadedPosterior>> LoadPosterior(const std::string& folder,
                                                                     const LoadedModel& model) {
  LAPLACED_ASSIGN_OR_RETURN(PosteriorArtifact artifact, ReadPosteriorArtifact(folder));
  const PosteriorRecord& record = artifact.record;
  if (record.checkpoint_sha256 != model.info.checkpoint_sha256) {
    return absl::FailedPreconditionError(
        absl::StrCat("posterior ", record.id, " was fitted to another checkpoint (SHA-256 ",
                     record.checkpoint_sha256.substr(0, 12), "..., the model's is ",
                     model.info.checkpoint_sha256.substr(0, 12), "...): fit again"));
  }
  if (record.manifest_fingerprint != ManifestFingerprint(model.manifest)) {
    return absl::FailedPreconditionError(
        absl::StrCat("posterior ", record.id,
                     " was fitted with another model.json (likelihood, input scaling, n_data or "
                     "weight_decay differ): fit "
                     "again"));
  }
  LAPLACED_ASSIGN_OR_RETURN(const ArrayView directions, artifact.tensors.Get(kDirections));
  const std::vector<int64_t> expected = {model.network.n_parameters(), record.rank};
  if (directions.shape != expected || directions.dtype != model.info.input_dtype ||
      static_cast<int64_t>(record.eigenvalues.size()) != record.rank ||
      !(record.prior_precision > 0) || !(record.ood_prior_precision > 0)) {
    return absl::DataLossError(absl::StrCat(
        "posterior ", record.id, ": expected ", DTypeName(model.info.input_dtype),
        " directions of shape ", ShapeString(expected), " with one eigenvalue each, got ",
        DTypeName(directions.dtype), " ", ShapeString(directions.shape), " and ",
        record.eigenvalues.size(), " eigenvalues"));
  }
  auto loaded = std::make_shared<LoadedPosterior>(LoadedPosterior{std::move(artifact), {}, {}});
  const PosteriorRecord& kept = loaded->artifact.record;
  loaded->value.directions = AliasArray(directions);
  loaded->value.curvature = at::tensor(kept.eigenvalues, at::kDouble);
  loaded->value.residual = kept.residual;
  loaded->value.n_data = kept.n_data;
  loaded->value.prior_precision = kept.prior_precision;
  loaded->ood_value = loaded->value.WithPriorPrecision(kept.ood_prior_precision);
  return loaded;
}

absl::Status SavePosterior(const std::string& folder, const FitResult& result,
                           PosteriorRecord record) {
  record.n_data = result.posterior.n_data;
  record.n_parameters = result.posterior.n_parameters();
  record.rank = result.posterior.rank();
  record.prior_precision = result.posterior.prior_precision;
  record.ood_prior_precision = result.ood_prior_precision;
  record.biased_eigenvalues = ToVector(result.biased_curvature);
  record.eigenvalues = ToVector(result.posterior.curvature);
  record.standard_errors = ToVector(result.standard_errors);
  record.lanczos_residuals = ToVector(result.lanczos_residuals);
  record.residual = result.posterior.residual;
  record.trace = result.trace;
  record.trace_standard_error = result.trace_standard_error;
  record.log_marginal_likelihood = result.log_marginal_likelihood;
  record.effective_parameters = result.effective_parameters;
  record.mean_train_loss = result.mean_train_loss;
  record.parameter_norm_squared = result.parameter_norm_squared;
  for (const PriorCandidate& candidate : result.prior_candidates) {
    record.prior_candidates.push_back({candidate.prior_precision, candidate.validation_nll});
  }
  record.validation_nll_map = result.validation_nll_map;
  record.mc_samples = kMcSamples;
  record.curvature_products = result.products;
  record.lanczos_seconds = result.lanczos_seconds;
  record.curvature_seconds = result.curvature_seconds;
  record.validation_seconds = result.validation_seconds;
  record.warnings.insert(record.warnings.end(), result.warnings.begin(), result.warnings.end());

  const at::Tensor directions = result.posterior.directions.contiguous();
  const DType dtype = directions.scalar_type() == at::kDouble ? DType::kFloat64 : DType::kFloat32;
  return WritePosteriorArtifact(
      folder, record, {{kDirections, {dtype, directions.sizes().vec(), directions.data_ptr()}}});
}

}  // namespace laplaced
