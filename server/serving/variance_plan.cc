#include "server/serving/variance_plan.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "server/model/field_error.h"
#include "server/model/torch_status.h"
#include "server/ood/scores.h"
#include "server/serving/example_blocks.h"

namespace laplaced {
namespace {

const char* NameOf(VarianceMode mode) {
  switch (mode) {
    case VarianceMode::kAuto:
      return "AUTO";
    case VarianceMode::kExact:
      return "EXACT";
    case VarianceMode::kTopClasses:
      return "TOP_CLASSES";
    case VarianceMode::kSampled:
      return "SAMPLED";
    case VarianceMode::kLastLayer:
      return "LAST_LAYER";
  }
  return "";
}

absl::Status CheckLink(const PredictOptions& options, const VarianceNeeds& needs) {
  if (needs.kind == Likelihood::Kind::kBernoulli &&
      options.link_approx == LinkApprox::kLaplaceBridge) {
    return FieldError("link_approx",
                      "expected PROBIT, MC or MEAN_FIELD for a Bernoulli likelihood, got "
                      "LAPLACE_BRIDGE: of two classes its mean does not depend on the variance");
  }
  if (options.variance_mode != VarianceMode::kTopClasses) return absl::OkStatus();
  if (needs.kind != Likelihood::Kind::kCategorical) {
    return FieldError("variance_mode",
                      "TOP_CLASSES is for categorical likelihoods: labels and regression outputs "
                      "do not compete, so none of them can be left out");
  }
  if (options.link_approx != LinkApprox::kProbit) {
    return FieldError("link_approx",
                      "expected PROBIT in the mode TOP_CLASSES: it is the link for which the "
                      "effect of the outputs left out has a bound");
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(VarianceMode mode, double bytes, const VarianceProblem& problem) {
  if (bytes <= kMostBytes) return absl::OkStatus();
  return FieldError(
      "variance_mode",
      absl::StrFormat(
          "%s would take about %.1f GiB of memory for %d outputs and %d parameters, more "
          "than %.0f: take SAMPLED, or TOP_CLASSES with fewer classes",
          NameOf(mode), bytes / (1 << 30), problem.n_outputs, problem.n_parameters,
          kMostBytes / (1 << 30)));
}

absl::StatusOr<VarianceReport> Report(VarianceMode mode, int64_t top_classes, int64_t samples,
                                      const VarianceProblem& problem) {
  VarianceReport report;
  report.mode = mode;
  if (mode == VarianceMode::kTopClasses) {
    report.top_classes =
        std::min(top_classes > 0 ? top_classes : kDefaultTopClasses, problem.n_outputs);
  }
  if (mode == VarianceMode::kSampled) {
    report.samples = samples > 0 ? samples : kDefaultSamples;
    report.relative_error = VarianceRelativeError(report.samples);
  }
  const VarianceCost cost = CostOf(mode, report.top_classes + report.samples, problem);
  LAPLACED_RETURN_IF_ERROR(CheckMemory(mode, cost.bytes, problem));
  report.estimated_flops = cost.flops;
  return report;
}

absl::Status CheckLastLayer(VarianceMode mode, const VarianceProblem& problem) {
  if (mode != VarianceMode::kLastLayer || problem.last_layer_parameters > 0) {
    return absl::OkStatus();
  }
  return FieldError("variance_mode",
                    "LAST_LAYER: none of the last layer's parameters is uncertain under this "
                    "posterior; take EXACT");
}

}  // namespace

VarianceProblem ProblemOf(const Network& network, const CapturePlan& plan) {
  VarianceProblem problem;
  problem.block = JacobianBlock(network);
  problem.n_outputs = network.n_outputs();
  problem.n_parameters = network.n_parameters();
  problem.n_tensors = static_cast<int64_t>(network.parameters().size());
  for (size_t i = 0; i < network.parameters().size(); ++i) {
    const int64_t numel = network.parameters()[i].value.numel();
    problem.largest_parameter = std::max(problem.largest_parameter, numel);
    if (!plan.captured[i]) problem.generic_parameters += numel;
  }
  problem.gradient_numel = plan.gradient_numel;
  problem.largest_gradient = plan.largest_gradient;
  // At least one multiply-add for each parameter elsewhere.
  problem.forward_macs = plan.forward_macs + static_cast<double>(problem.generic_parameters);
  problem.element_bytes = static_cast<int64_t>(c10::elementSize(network.dtype()));
  problem.threads = at::get_num_threads();
  return problem;
}

VarianceProblem ProblemOf(const LoadedPosterior& posterior, const std::vector<bool>& last_layer) {
  const Network& network = posterior.uncertain.network;
  VarianceProblem problem = ProblemOf(network, posterior.uncertain.capture);
  for (size_t i = 0; i < last_layer.size(); ++i) {
    if (last_layer[i]) problem.last_layer_parameters += network.parameters()[i].value.numel();
  }
  problem.row_macs = posterior.value.structure->RowMacs();
  return problem;
}

absl::StatusOr<VarianceReport> PlanVariance(const PredictOptions& options,
                                            const VarianceNeeds& needs, VarianceProblem problem) {
  LAPLACED_RETURN_IF_ERROR(CheckLink(options, needs));
  LAPLACED_RETURN_IF_ERROR(CheckLastLayer(options.variance_mode, problem));
  VarianceMode mode = options.variance_mode;
  if (options.return_joint_covariance &&
      (mode == VarianceMode::kTopClasses || mode == VarianceMode::kSampled)) {
    return FieldError("return_joint_covariance",
                      absl::StrCat("expected the mode EXACT or LAST_LAYER, got ", NameOf(mode)));
  }
  problem.block = std::min(problem.block, problem.batch);
  problem.precisions = NeedsPosterior(needs.scores) ? 2 : 1;
  if (mode == VarianceMode::kAuto) {
    const auto has_scores_in = [&](VarianceMode m) {
      return CheckOodScoresIn(m, "ood_scores", needs.scores).ok();
    };
    const bool top_classes = needs.kind == Likelihood::Kind::kCategorical &&
                             options.link_approx == LinkApprox::kProbit &&
                             !options.return_covariance && has_scores_in(VarianceMode::kTopClasses);
    const bool only_exact =
        options.return_joint_covariance || !has_scores_in(VarianceMode::kSampled);
    mode = only_exact ? VarianceMode::kExact : ChooseVarianceMode(problem, top_classes);
  } else if (needs.scores_named) {
    LAPLACED_RETURN_IF_ERROR(CheckOodScoresIn(mode, "ood_scores", needs.scores));
  }
  return Report(mode, options.top_classes, options.samples, problem);
}

absl::StatusOr<VarianceReport> PlanVariance(const ScoreOptions& options, const VarianceNeeds& needs,
                                            VarianceProblem problem) {
  if (!NeedsPosterior(needs.scores)) return VarianceReport{};
  LAPLACED_RETURN_IF_ERROR(CheckLastLayer(options.variance_mode, problem));
  VarianceMode mode = options.variance_mode;
  problem.block = std::min(problem.block, problem.batch);
  if (mode == VarianceMode::kAuto) {
    const bool sampled = CheckOodScoresIn(VarianceMode::kSampled, "ood_scores", needs.scores).ok();
    mode = sampled ? ChooseVarianceMode(problem, false) : VarianceMode::kExact;
  } else {
    LAPLACED_RETURN_IF_ERROR(CheckOodScoresIn(mode, "ood_scores", needs.scores));
  }
  return Report(mode, 0, options.samples, problem);
}

}  // namespace laplaced
