#include "server/serving/loaded_posterior.h"

#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/laplace/kronecker_fit.h"
#include "server/laplace/last_layer_fit.h"
#include "server/laplace/low_rank_structure.h"
#include "server/laplace/predictive.h"
#include "server/model/input_transform.h"
#include "server/model/torch_status.h"
#include "server/serving/fit_records.h"
#include "server/serving/ood_calibration.h"

namespace laplaced {
namespace {

std::vector<double> ToVector(const at::Tensor& t) {
  if (!t.defined()) return {};
  const at::Tensor c = t.to(at::kDouble).contiguous();
  return {c.data_ptr<double>(), c.data_ptr<double>() + c.numel()};
}

absl::Status CheckOwner(const PosteriorRecord& record, const LoadedModel& model) {
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
                     "weight_decay differ): fit again"));
  }
  return absl::OkStatus();
}

// Format 1: low rank with an isotropic residual or none, and the numbers in the record.
absl::StatusOr<std::shared_ptr<const Structure>> StructureOfFormat1(const PosteriorRecord& record,
                                                                    const TensorMap& tensors,
                                                                    const Network& network) {
  LowRankCurvature curvature;
  LAPLACED_ASSIGN_OR_RETURN(
      curvature.directions,
      FindTensor(tensors, "directions", {network.n_parameters(), record.rank}));
  if (static_cast<int64_t>(record.eigenvalues.size()) != record.rank) {
    return absl::DataLossError(
        absl::StrCat("expected ", record.rank, " eigenvalues, got ", record.eigenvalues.size()));
  }
  curvature.curvature = at::tensor(record.eigenvalues, at::kDouble);
  curvature.residual_kind = ResidualKind::kIsotropic;
  curvature.residual = at::full({1}, record.residual, at::kDouble);
  curvature.block_sizes = BlockSizes(network);
  return std::shared_ptr<const Structure>(
      std::make_shared<const LowRankStructure>(std::move(curvature)));
}

absl::StatusOr<std::shared_ptr<const FittedCurvature>> ReadFitted(const FitOptions& options,
                                                                  const TensorMap& tensors,
                                                                  const Network& network) {
  switch (options.structure) {
    case StructureKind::kLowRank:
      return LowRankFit::FromTensors(tensors, options.low_rank.debiasing, options.low_rank.residual,
                                     options.low_rank.variance_correction, BlockSizes(network));
    case StructureKind::kKfac:
      return KroneckerFit::FromTensors(
          tensors, network, options.low_rank.debiasing != Debiasing::kNone, options.kfac_exact);
    case StructureKind::kLastLayer:
      return LastLayerFit::FromTensors(tensors, network);
  }
  return absl::InternalError("unknown structure");
}

// Of the tensors that were kept with a posterior; nothing in artifacts of older formats.
absl::StatusOr<OodStatistics> ReadOodStatistics(const PosteriorRecord& record,
                                                const TensorMap& tensors, const LoadedModel& model,
                                                const Posterior& value) {
  OodStatistics ood;
  ood.knowledge.kind = model.manifest.likelihood.kind;
  ood.knowledge.has_directions = value.structure->has_directions();
  LAPLACED_ASSIGN_OR_RETURN(ClassTemplates templates,
                            TakeClassTemplates(tensors, model.info.n_outputs));
  if (!templates.empty()) {
    ood.knowledge.templates = std::make_shared<const ClassTemplates>(std::move(templates));
  }
  ood.knowledge.combined = CombinedScales(record.ood_thresholds);
  if (!HasFeatureStatistics(tensors)) return ood;
  LAPLACED_ASSIGN_OR_RETURN(ood.features, TakeFeatureStatistics(tensors));
  auto found = FindFeatureLayer(model.network, model.capture, record.features.layer);
  if (!found.ok()) return absl::FailedPreconditionError(found.status().message());
  FeatureLayer layer = *std::move(found);
  if (layer.width != ood.features->width()) {
    return absl::DataLossError(absl::StrCat("the features of ", layer.weight, " are ", layer.width,
                                            ", the statistics are of ", ood.features->width()));
  }
  ood.knowledge.features = std::make_shared<const FeatureScores>(*ood.features, std::move(layer));
  return ood;
}

void FillOod(const absl::optional<FeatureStatistics>& features, const OodKnowledge& knowledge,
             PosteriorRecord& record) {
  record.available_ood_scores = OodScoreNames(knowledge);
  if (!features) return;
  record.features = {knowledge.features->layer().weight,
                     features->width(),
                     features->count(),
                     features->bank.size(0),
                     knowledge.features->knn_k(),
                     knowledge.features->vim_dimensions()};
}

absl::Status WriteTensors(const std::string& folder, const PosteriorRecord& record,
                          TensorMap tensors) {
  return WritePosteriorArtifact(folder, record, ViewsOf(tensors));
}

absl::Status Damaged(const PosteriorRecord& record, const absl::Status& status) {
  if (!absl::IsDataLoss(status)) return status;
  return absl::DataLossError(absl::StrCat("posterior ", record.id, ": ", status.message()));
}

}  // namespace

absl::StatusOr<UncertainNetwork> Uncertain(const LoadedModel& model, const FitOptions& options) {
  return CatchTorch("parameters", [&]() -> absl::StatusOr<UncertainNetwork> {
    LAPLACED_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                              ParametersOf(model.network, options));
    if (names.size() == model.network.parameters().size()) {
      return UncertainNetwork{model.network, model.capture};
    }
    // A copy, whose other parameters take no part in differentiation.
    LAPLACED_ASSIGN_OR_RETURN(Network network, model.network.Restrict(names).Clone());
    CapturePlan capture = FindCapturedParameters(network);
    return UncertainNetwork{std::move(network), std::move(capture)};
  });
}

absl::StatusOr<std::shared_ptr<const LoadedPosterior>> LoadPosterior(const std::string& folder,
                                                                     const LoadedModel& model) {
  LAPLACED_ASSIGN_OR_RETURN(PosteriorArtifact artifact, ReadPosteriorArtifact(folder));
  LAPLACED_RETURN_IF_ERROR(CheckOwner(artifact.record, model));
  using Result = absl::StatusOr<std::shared_ptr<const LoadedPosterior>>;
  return CatchTorch("posterior", [&]() -> Result {
    const PosteriorRecord& record = artifact.record;
    LAPLACED_ASSIGN_OR_RETURN(const FitOptions options, ToFitOptions(record));
    LAPLACED_ASSIGN_OR_RETURN(UncertainNetwork uncertain, Uncertain(model, options));
    LAPLACED_ASSIGN_OR_RETURN(const TensorMap tensors, AliasTensors(artifact.tensors));
    const auto directions = tensors.find("directions");
    if (directions != tensors.end() &&
        (directions->second.dim() != 2 ||
         directions->second.size(0) != uncertain.network.n_parameters() ||
         directions->second.scalar_type() != model.network.dtype())) {
      return absl::DataLossError(absl::StrCat("posterior ", record.id,
                                              ": the directions do not fit the model's ",
                                              uncertain.network.n_parameters(), " parameters"));
    }
    if (!(record.prior_precision > 0) || !(record.ood_prior_precision > 0) ||
        !(record.temperature > 0) || record.n_data < 1) {
      return absl::DataLossError(absl::StrCat("posterior ", record.id, ": impossible precisions"));
    }
    Posterior value;
    std::shared_ptr<const FittedCurvature> fitted;
    const bool format_1 =
        options.structure == StructureKind::kLowRank && tensors.count("ritz") == 0;
    if (format_1) {
      auto structure = StructureOfFormat1(record, tensors, uncertain.network);
      if (!structure.ok()) return Damaged(record, structure.status());
      value.structure = *std::move(structure);
    } else {
      auto read = ReadFitted(options, tensors, uncertain.network);
      if (!read.ok()) return Damaged(record, read.status());
      fitted = *std::move(read);
      value.structure = fitted->MakeStructure(PriorScale(uncertain.network, model.manifest));
    }
    value.n_data = record.n_data;
    value.prior_precision = record.prior_precision;
    value.temperature = record.temperature;
    Likelihood likelihood = model.manifest.likelihood;
    if (likelihood.kind == Likelihood::Kind::kGaussian) likelihood.sigma_noise = record.sigma_noise;
    const Posterior ood = value.WithPriorPrecision(record.ood_prior_precision);
    auto sampler = std::make_shared<const FunctionSampler>(uncertain.network);
    auto scores = ReadOodStatistics(record, tensors, model, value);
    if (!scores.ok()) return Damaged(record, scores.status());
    return std::make_shared<const LoadedPosterior>(
        LoadedPosterior{std::move(artifact), std::move(uncertain), likelihood, std::move(fitted),
                        std::move(value), ood, std::move(sampler), *std::move(scores)});
  });
}

absl::Status SavePosterior(const std::string& folder, const Network& network,
                           const FitResult& result, const OodStatistics& ood,
                           PosteriorRecord record) {
  const CurvatureReport& report = result.report;
  record.n_data = result.posterior.n_data;
  record.n_parameters = result.posterior.n_parameters();
  record.rank = report.eigenvalues.defined() ? report.eigenvalues.size(0) : 0;
  record.prior_precision = result.posterior.prior_precision;
  record.ood_prior_precision = result.ood_prior_precision;
  record.prior_method = NameOf(result.prior_method);
  record.sigma_noise = result.sigma_noise;
  if (result.sigma_noise > 0) record.noise_method = NameOf(result.noise_method);
  record.biased_eigenvalues = ToVector(report.biased);
  record.eigenvalues = ToVector(report.eigenvalues);
  record.standard_errors = ToVector(report.standard_errors);
  record.lanczos_residuals = ToVector(report.lanczos_residuals);
  record.residual = report.residual;
  record.residual_share = report.residual_share;
  record.trace = report.trace;
  record.trace_standard_error = report.trace_standard_error;
  record.curvature_count = report.count;
  record.clipped_directions = report.clipped;
  record.blocks.clear();
  for (size_t i = 0; i < report.blocks.size(); ++i) {
    const BlockReport& block = report.blocks[i];
    record.blocks.push_back({network.parameters()[i].name, block.n_parameters, block.kind,
                             block.trace, block.residual, block.biased_sum, block.debiased_sum});
  }
  record.log_marginal_likelihood = result.log_marginal_likelihood;
  record.effective_parameters = result.effective_parameters;
  record.mean_train_loss = result.mean_train_loss;
  record.parameter_norm_squared = result.parameter_norm_squared;
  record.prior_candidates.clear();
  for (const PriorCandidate& candidate : result.prior_candidates) {
    record.prior_candidates.push_back(
        {candidate.prior_precision, candidate.validation_nll, candidate.log_marginal_likelihood});
  }
  record.validation_nll_map = result.validation_nll_map;
  record.mc_samples = kMcSamples;
  record.curvature_products = result.cost.products;
  record.lanczos_seconds = result.cost.lanczos_seconds;
  record.curvature_seconds = result.cost.curvature_seconds;
  record.validation_seconds = result.validation_seconds;
  record.warnings.insert(record.warnings.end(), result.warnings.begin(), result.warnings.end());

  TensorMap tensors = result.fitted->ToTensors();
  if (ood.features) ood.features->PutInto(tensors);
  if (ood.knowledge.templates != nullptr) ood.knowledge.templates->PutInto(tensors);
  FillOod(ood.features, ood.knowledge, record);
  return WriteTensors(folder, record, std::move(tensors));
}

absl::Status SaveCalibrated(const std::string& folder, const LoadedPosterior& before,
                            const OodKnowledge& knowledge, PosteriorRecord record) {
  return CatchTorch("posterior", [&]() -> absl::Status {
    LAPLACED_ASSIGN_OR_RETURN(TensorMap tensors, AliasTensors(before.artifact.tensors));
    if (knowledge.templates != nullptr) knowledge.templates->PutInto(tensors);
    FillOod(before.ood.features, knowledge, record);
    return WriteTensors(folder, record, std::move(tensors));
  });
}

}  // namespace laplaced
