// Fits, updates, calibrations and posteriors.
#include <string>
#include <vector>

#include "client/cpp/convert.h"

namespace laplace::client {
namespace {

// The same choice on both sides; what is in no table is the default, UNSPECIFIED.
template <typename Plain, typename Proto>
struct Choice {
  Plain plain;
  Proto proto;
};

constexpr Choice<Debiasing, v1::DebiasingStrategy> kDebiasing[] = {
    {Debiasing::kNone, v1::DEBIASING_STRATEGY_NONE},
    {Debiasing::kTwoBatch, v1::DEBIASING_STRATEGY_TWO_BATCH},
    {Debiasing::kCrossFit, v1::DEBIASING_STRATEGY_CROSS_FIT},
    {Debiasing::kFullPass, v1::DEBIASING_STRATEGY_FULL_PASS}};

constexpr Choice<Residual, v1::ResidualKind> kResidual[] = {
    {Residual::kNone, v1::RESIDUAL_KIND_NONE},
    {Residual::kIsotropic, v1::RESIDUAL_KIND_ISOTROPIC},
    {Residual::kLayerwise, v1::RESIDUAL_KIND_LAYERWISE},
    {Residual::kDiagonal, v1::RESIDUAL_KIND_DIAGONAL}};

constexpr Choice<Structure, v1::PosteriorStructure> kStructure[] = {
    {Structure::kLowRank, v1::POSTERIOR_STRUCTURE_LOW_RANK},
    {Structure::kKfac, v1::POSTERIOR_STRUCTURE_KFAC},
    {Structure::kLastLayer, v1::POSTERIOR_STRUCTURE_LAST_LAYER}};

constexpr Choice<NewtonVariant, v1::NewtonVariant> kNewtonVariant[] = {
    {NewtonVariant::kDebiased, v1::NEWTON_VARIANT_DEBIASED},
    {NewtonVariant::kSingle, v1::NEWTON_VARIANT_SINGLE},
    {NewtonVariant::kEqualBudget, v1::NEWTON_VARIANT_EQUAL_BUDGET},
    {NewtonVariant::kOracle, v1::NEWTON_VARIANT_ORACLE}};

constexpr Choice<Curvature, v1::CurvatureKind> kCurvature[] = {
    {Curvature::kGgn, v1::CURVATURE_KIND_GGN},
    {Curvature::kMcFisher, v1::CURVATURE_KIND_MC_FISHER},
    {Curvature::kEmpiricalFisher, v1::CURVATURE_KIND_EMPIRICAL_FISHER},
    {Curvature::kHessian, v1::CURVATURE_KIND_HESSIAN}};

constexpr Choice<KfacEigenvalues, v1::KfacEigenvalues> kKfacEigenvalues[] = {
    {KfacEigenvalues::kFactors, v1::KFAC_EIGENVALUES_FACTORS},
    {KfacEigenvalues::kExact, v1::KFAC_EIGENVALUES_EXACT}};

constexpr Choice<PriorMethod, v1::PriorMethod> kPriorMethod[] = {
    {PriorMethod::kGiven, v1::PRIOR_METHOD_GIVEN},
    {PriorMethod::kWeightDecay, v1::PRIOR_METHOD_WEIGHT_DECAY},
    {PriorMethod::kEvidence, v1::PRIOR_METHOD_EVIDENCE},
    {PriorMethod::kValidation, v1::PRIOR_METHOD_VALIDATION}};

constexpr Choice<NoiseMethod, v1::NoiseMethod> kNoiseMethod[] = {
    {NoiseMethod::kGiven, v1::NOISE_METHOD_GIVEN},
    {NoiseMethod::kManifest, v1::NOISE_METHOD_MANIFEST},
    {NoiseMethod::kData, v1::NOISE_METHOD_DATA},
    {NoiseMethod::kEvidence, v1::NOISE_METHOD_EVIDENCE}};

template <typename Plain, typename Proto, size_t kSize>
Plain FromProto(const Choice<Plain, Proto> (&table)[kSize], Proto value) {
  for (const auto& choice : table) {
    if (choice.proto == value) return choice.plain;
  }
  return Plain::kDefault;
}

template <typename Plain, typename Proto, size_t kSize>
Proto ToProto(const Choice<Plain, Proto> (&table)[kSize], Plain value) {
  for (const auto& choice : table) {
    if (choice.plain == value) return choice.proto;
  }
  return Proto();
}

template <typename T, typename Field>
std::vector<T> List(const Field& field) {
  return std::vector<T>(field.begin(), field.end());
}

FitOptions FromProto(const v1::FitOptions& message) {
  FitOptions options;
  options.rank = message.rank();
  options.direction_batch_size = message.direction_batch_size();
  options.curvature_batch_size = message.curvature_batch_size();
  options.debiasing = FromProto(kDebiasing, message.debiasing());
  options.residual = FromProto(kResidual, message.residual());
  options.seed = message.seed();
  if (message.has_prior_precision()) options.prior_precision = message.prior_precision();
  if (message.has_ood_prior_precision()) {
    options.ood_prior_precision = message.ood_prior_precision();
  }
  options.lanczos_tolerance = message.lanczos_tolerance();
  options.max_products = message.max_products();
  options.target_id_rate = message.target_id_rate();
  options.max_validation_examples = message.max_validation_examples();
  options.structure = FromProto(kStructure, message.structure());
  options.curvature = FromProto(kCurvature, message.curvature());
  options.parameters = List<std::string>(message.parameters());
  options.kfac_eigenvalues = FromProto(kKfacEigenvalues, message.kfac_eigenvalues());
  options.prior_method = FromProto(kPriorMethod, message.prior_method());
  options.temperature = message.temperature();
  options.noise_method = FromProto(kNoiseMethod, message.noise_method());
  if (message.has_sigma_noise()) options.sigma_noise = message.sigma_noise();
  options.target_relative_standard_error = message.target_relative_standard_error();
  options.variance_correction = message.variance_correction();
  options.memory_limit_bytes = message.memory_limit_bytes();
  options.fisher_samples = message.fisher_samples();
  options.feature_layer = message.feature_layer();
  return options;
}

v1::FitOptions ToProto(const FitOptions& options) {
  v1::FitOptions message;
  message.set_rank(options.rank);
  message.set_direction_batch_size(options.direction_batch_size);
  message.set_curvature_batch_size(options.curvature_batch_size);
  message.set_debiasing(ToProto(kDebiasing, options.debiasing));
  message.set_residual(ToProto(kResidual, options.residual));
  message.set_seed(options.seed);
  if (options.prior_precision) message.set_prior_precision(*options.prior_precision);
  if (options.ood_prior_precision) message.set_ood_prior_precision(*options.ood_prior_precision);
  message.set_lanczos_tolerance(options.lanczos_tolerance);
  message.set_max_products(options.max_products);
  message.set_target_id_rate(options.target_id_rate);
  message.set_max_validation_examples(options.max_validation_examples);
  message.set_structure(ToProto(kStructure, options.structure));
  message.set_curvature(ToProto(kCurvature, options.curvature));
  message.mutable_parameters()->Add(options.parameters.begin(), options.parameters.end());
  message.set_kfac_eigenvalues(ToProto(kKfacEigenvalues, options.kfac_eigenvalues));
  message.set_prior_method(ToProto(kPriorMethod, options.prior_method));
  message.set_temperature(options.temperature);
  message.set_noise_method(ToProto(kNoiseMethod, options.noise_method));
  if (options.sigma_noise) message.set_sigma_noise(*options.sigma_noise);
  message.set_target_relative_standard_error(options.target_relative_standard_error);
  message.set_variance_correction(options.variance_correction);
  message.set_memory_limit_bytes(options.memory_limit_bytes);
  message.set_fisher_samples(options.fisher_samples);
  message.set_feature_layer(options.feature_layer);
  return message;
}

}  // namespace

v1::FitPosteriorRequest ToProto(const FitRequest& request) {
  v1::FitPosteriorRequest message;
  message.set_model(request.model);
  message.set_version(request.version);
  message.set_train_dataset_id(request.train_dataset_id);
  message.set_validation_dataset_id(request.validation_dataset_id);
  *message.mutable_options() = ToProto(request.options);
  message.set_keep_inactive(request.keep_inactive);
  return message;
}

v1::UpdatePosteriorRequest ToProto(const UpdateRequest& request) {
  v1::UpdatePosteriorRequest message;
  message.set_model(request.model);
  message.set_version(request.version);
  message.set_posterior_id(request.posterior_id);
  message.set_dataset_id(request.dataset_id);
  message.set_keep_inactive(request.keep_inactive);
  return message;
}

v1::CalibrateOodRequest ToProto(const CalibrateRequest& request) {
  v1::CalibrateOodRequest message;
  message.set_model(request.model);
  message.set_version(request.version);
  message.set_posterior_id(request.posterior_id);
  message.set_dataset_id(request.dataset_id);
  message.set_target_id_rate(request.target_id_rate);
  message.set_default_ood_score(request.default_ood_score);
  message.set_keep_inactive(request.keep_inactive);
  return message;
}

v1::NewtonStepRequest ToProto(const NewtonRequest& request) {
  v1::NewtonStepRequest message;
  message.set_model(request.model);
  message.set_version(request.version);
  message.set_train_dataset_id(request.train_dataset_id);
  message.set_held_out_dataset_id(request.held_out_dataset_id);
  message.set_keep_worse(request.keep_worse);
  v1::NewtonStepOptions& options = *message.mutable_options();
  options.set_variant(ToProto(kNewtonVariant, request.variant));
  options.set_curvature(ToProto(kCurvature, request.curvature));
  options.set_direction_batch_size(request.direction_batch_size);
  options.set_curvature_batch_size(request.curvature_batch_size);
  options.set_held_out_size(request.held_out_size);
  if (request.damping) options.set_damping(*request.damping);
  options.set_max_steps(request.max_steps);
  options.set_tolerance(request.tolerance);
  options.set_seed(request.seed);
  return message;
}

Posterior FromProto(const v1::Posterior& message) {
  Posterior posterior;
  posterior.id = message.id();
  posterior.model = message.model();
  posterior.version = message.version();
  posterior.active = message.active();
  posterior.options = FromProto(message.options());
  posterior.n_data = message.n_data();
  posterior.n_parameters = message.n_parameters();
  posterior.rank = message.rank();
  posterior.prior_precision = message.prior_precision();
  posterior.ood_prior_precision = message.ood_prior_precision();
  posterior.biased_eigenvalues = List<double>(message.biased_eigenvalues());
  posterior.eigenvalues = List<double>(message.eigenvalues());
  posterior.standard_errors = List<double>(message.standard_errors());
  posterior.lanczos_residuals = List<double>(message.lanczos_residuals());
  posterior.residual = message.residual();
  posterior.trace = message.trace();
  posterior.trace_standard_error = message.trace_standard_error();
  posterior.log_marginal_likelihood = message.log_marginal_likelihood();
  posterior.effective_parameters = message.effective_parameters();
  posterior.mean_train_loss = message.mean_train_loss();
  for (const v1::PriorCandidate& candidate : message.prior_candidates()) {
    posterior.prior_candidates.push_back({candidate.prior_precision(), candidate.validation_nll(),
                                          candidate.log_marginal_likelihood()});
  }
  posterior.validation_nll_map = message.validation_nll_map();
  for (const v1::OodThreshold& threshold : message.ood_thresholds()) {
    posterior.ood_thresholds.push_back(
        {threshold.score(), threshold.threshold(), threshold.target_id_rate(), threshold.count(),
         threshold.rate_lower(), threshold.rate_upper(), List<double>(threshold.id_quantiles())});
  }
  posterior.default_ood_score = message.default_ood_score();
  posterior.train_dataset_id = message.train_dataset_id();
  posterior.validation_dataset_id = message.validation_dataset_id();
  posterior.checkpoint_sha256 = message.checkpoint_sha256();
  posterior.code_version = message.code_version();
  posterior.create_time = message.create_time();
  const v1::FitCost& cost = message.cost();
  posterior.cost = {cost.seconds(),           cost.curvature_products(), cost.lanczos_seconds(),
                    cost.curvature_seconds(), cost.validation_seconds(), cost.peak_memory_bytes()};
  posterior.mc_samples = message.mc_samples();
  posterior.warnings = List<std::string>(message.warnings());
  for (const v1::ParameterBlock& block : message.blocks()) {
    posterior.blocks.push_back({block.name(), block.n_parameters(), block.kind(), block.trace(),
                                block.residual(), block.biased_sum(), block.debiased_sum()});
  }
  posterior.residual_share = message.residual_share();
  posterior.curvature_count = message.curvature_count();
  posterior.clipped_directions = message.clipped_directions();
  posterior.parent_posterior_id = message.parent_posterior_id();
  posterior.updated_examples = message.updated_examples();
  posterior.updated_dataset_ids = List<std::string>(message.updated_dataset_ids());
  posterior.calibration_dataset_id = message.calibration_dataset_id();
  posterior.available_ood_scores = List<std::string>(message.available_ood_scores());
  if (message.has_features()) {
    const v1::FeatureSummary& features = message.features();
    posterior.features = {features.layer(),     features.n_features(), features.count(),
                          features.bank_size(), features.knn_k(),      features.vim_dimensions()};
  }
  return posterior;
}

}  // namespace laplace::client
