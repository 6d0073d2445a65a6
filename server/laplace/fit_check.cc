#include "server/laplace/fit_check.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/curvature/kronecker_factors.h"
#include "server/laplace/fit.h"
#include "server/laplace/last_layer_fit.h"
#include "server/model/field_error.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr double kGib = 1073741824.0;

absl::Status CheckPositive(const char* field, const absl::optional<double>& value) {
  if (value && !(std::isfinite(*value) && *value > 0)) {
    return FieldError(field, absl::StrCat("expected a finite number > 0, got ", *value));
  }
  if (value && !(*value >= kLeastPrecision && *value <= kMostPrecision)) {
    return FieldError(field, absl::StrCat("expected a number from ", kLeastPrecision, " to ",
                                          kMostPrecision, ", got ", *value));
  }
  return absl::OkStatus();
}

absl::Status CheckRank(const LowRankOptions& options, int64_t p, int64_t ranks,
                       int64_t memory_limit) {
  if (options.rank < 1 || options.rank > p) {
    return FieldError(
        "options.rank",
        absl::StrCat("expected 1 to ", p, " (the uncertain parameters), got ", options.rank));
  }
  // Of a vector of Lanczos, which ranks share, and of a direction, which each has.
  const int64_t coordinates = ShareOf(p, 0, ranks).size();
  const int64_t vector_bytes = 8 * coordinates, direction_bytes = 8 * p;
  int64_t vectors = LanczosVectors(options, coordinates);
  if (vectors < options.rank + 6) {
    return FieldError(
        "options.memory_limit_bytes",
        absl::StrFormat("expected at least %d bytes (rank + 6 vectors of %d doubles), "
                        "got %d; or choose a smaller rank",
                        (options.rank + 6) * vector_bytes, coordinates,
                        options.lanczos_memory_bytes));
  }
  // The directions stand beside the vectors of Lanczos; with CROSS_FIT there are two sets.
  const int64_t sets = options.debiasing == Debiasing::kCrossFit ? 2 : 1;
  vectors = std::min(vectors, p + 12);  // more than that are never used
  const double needed = static_cast<double>(vectors) * vector_bytes +
                        static_cast<double>(sets * options.rank) * direction_bytes;
  if (memory_limit > 0 && needed > static_cast<double>(memory_limit)) {
    const int64_t most = (memory_limit - (vectors - options.rank) * vector_bytes) /
                         (vector_bytes + sets * direction_bytes);
    return FieldError(
        "options.rank",
        absl::StrFormat(
            "%d directions of %d parameters need about %.1f GiB of memory, a fit may use %.1f GiB; "
            "at most %d would fit",
            options.rank, p, needed / kGib, static_cast<double>(memory_limit) / kGib,
            std::max<int64_t>(most, 0)));
  }
  return absl::OkStatus();
}

// Numbers in the matrices of a block: one basis, or the sums that it is found from.
double MatrixNumbers(const BlockBasis& block) {
  const auto rows = static_cast<double>(block.rows), columns = static_cast<double>(block.columns);
  switch (block.kind) {
    case BlockKind::kKronecker:
      return rows * rows + columns * columns;
    case BlockKind::kDense:
      return rows * rows;
    case BlockKind::kDiagonal:
      break;
  }
  return 0;
}

// What FindBlockBases, MeasureBlocks and the posterior hold at the same time, of all blocks.
double KroneckerBytes(const Network& network, const std::vector<BlockBasis>& blocks) {
  double matrices = 0, sums = 0, largest_block = 0, largest_matrix = 0;
  for (const BlockBasis& block : blocks) {
    const double numbers = MatrixNumbers(block);
    const auto rows = static_cast<double>(block.rows), columns = static_cast<double>(block.columns);
    matrices += numbers;
    sums += block.kind == BlockKind::kDiagonal ? rows : numbers;
    largest_block = std::max(largest_block, numbers);
    if (numbers > 0) largest_matrix = std::max({largest_matrix, rows * rows, columns * columns});
  }
  const auto precision = static_cast<double>(at::elementSize(network.dtype()));
  const auto threads =
      static_cast<double>(std::min<int64_t>(at::get_num_threads(), ExamplesPerStep(network)));
  // While sums are made each thread has the largest block's of its examples, and the bases may be
  // there already. Eigenvectors are found beside the sums, with workspace for one matrix.
  const double passes = 8 * sums + precision * (matrices + threads * largest_block);
  const double eigenvectors = 8 * (sums + matrices + 3 * largest_matrix);
  // Eigenvalues measured, not below zero and in one piece, and the prior's scale twice.
  const double posterior =
      precision * matrices + 8 * 5 * static_cast<double>(network.n_parameters());
  return std::max({passes, eigenvectors, posterior});
}

absl::Status CheckKroneckerMemory(const Network& network, const CapturePlan& plan,
                                  int64_t memory_limit) {
  if (memory_limit <= 0) return absl::OkStatus();
  LAPLACED_ASSIGN_OR_RETURN(const std::vector<BlockBasis> blocks, FindBlockKinds(network, plan));
  const double needed = KroneckerBytes(network, blocks);
  if (needed <= static_cast<double>(memory_limit)) return absl::OkStatus();
  const auto size = [](const BlockBasis& block) {
    return MatrixNumbers(block) + static_cast<double>(block.rows) * block.columns;
  };
  const auto largest =
      std::max_element(blocks.begin(), blocks.end(),
                       [&](const BlockBasis& a, const BlockBasis& b) { return size(a) < size(b); });
  return FieldError(
      "options.structure",
      absl::StrFormat("Kronecker factors need about %.1f GiB of memory, those of %s the most, a "
                      "fit may use %.1f GiB: leave parameters out with options.parameters or "
                      "choose LOW_RANK",
                      needed / kGib, network.parameters()[largest - blocks.begin()].name,
                      static_cast<double>(memory_limit) / kGib));
}

absl::Status CheckBatches(const LowRankOptions& options, int64_t n) {
  const bool second =
      options.debiasing == Debiasing::kTwoBatch || options.debiasing == Debiasing::kCrossFit;
  const bool measures_first = options.debiasing == Debiasing::kNone ||
                              options.debiasing == Debiasing::kCrossFit ||
                              options.debiasing == Debiasing::kFullPass;
  if (const int64_t least = measures_first ? 2 : 1; options.direction_batch_size < least) {
    return FieldError(
        "options.direction_batch_size",
        absl::StrCat("expected at least ", least, ", got ", options.direction_batch_size));
  }
  if (second && options.curvature_batch_size < 2) {
    return FieldError("options.curvature_batch_size",
                      absl::StrCat("expected at least 2, got ", options.curvature_batch_size));
  }
  // FULL_PASS: a standard error needs two examples outside B1.
  const int64_t others = second                                      ? options.curvature_batch_size
                         : options.debiasing == Debiasing::kFullPass ? 2
                                                                     : 0;
  if (options.direction_batch_size > n || others > n - options.direction_batch_size) {
    // The sum of two numbers from a request need not fit into the type of one.
    const uint64_t needed =
        static_cast<uint64_t>(options.direction_batch_size) + static_cast<uint64_t>(others);
    return FieldError(
        second ? "options.curvature_batch_size" : "options.direction_batch_size",
        absl::StrCat(
            "the batches need ", needed, " distinct examples (direction_batch_size ",
            options.direction_batch_size,
            second ? absl::StrCat(" + curvature_batch_size ", options.curvature_batch_size) : "",
            "), the training data has ", n));
  }
  return absl::OkStatus();
}

absl::Status CheckCombination(const FitOptions& options) {
  const LowRankOptions& low_rank = options.low_rank;
  const bool is_low_rank = options.structure == StructureKind::kLowRank;
  if (low_rank.curvature.kind == CurvatureKind::kHessian && !is_low_rank) {
    return FieldError("options.curvature", "HESSIAN needs structure LOW_RANK");
  }
  constexpr int64_t kMostSamples = 1024;
  const int64_t samples = low_rank.curvature.fisher_samples;
  if (samples < 1 || samples > kMostSamples) {
    return FieldError("options.fisher_samples",
                      absl::StrCat("expected 1 to ", kMostSamples, ", got ", samples));
  }
  if (options.structure == StructureKind::kKfac && low_rank.debiasing != Debiasing::kNone &&
      low_rank.debiasing != Debiasing::kTwoBatch) {
    return FieldError("options.debiasing", "with structure KFAC, expected NONE or TWO_BATCH");
  }
  if (low_rank.variance_correction && !is_low_rank) {
    return FieldError("options.variance_correction", "needs structure LOW_RANK");
  }
  const double target = low_rank.target_relative_standard_error;
  if (!(target >= 0 && target < 1)) {
    return FieldError("options.target_relative_standard_error",
                      absl::StrCat("expected a number in [0, 1), got ", target));
  }
  LAPLACED_RETURN_IF_ERROR(CheckPositive("options.temperature", options.temperature));
  if (is_low_rank && !(low_rank.lanczos_tolerance > 0 && low_rank.lanczos_tolerance < 1)) {
    return FieldError("options.lanczos_tolerance", absl::StrCat("expected a number in (0, 1), got ",
                                                                low_rank.lanczos_tolerance));
  }
  return absl::OkStatus();
}

absl::Status CheckPrior(const EmpiricalRisk& risk, const Dataset& validation,
                        const FitOptions& options) {
  LAPLACED_RETURN_IF_ERROR(CheckPositive("options.prior_precision", options.prior_precision));
  LAPLACED_RETURN_IF_ERROR(
      CheckPositive("options.ood_prior_precision", options.ood_prior_precision));
  const PriorMethod method = PriorMethodOf(options, validation.total() > 0);
  if (method == PriorMethod::kGiven && !options.prior_precision) {
    return FieldError("options.prior_precision", "is required with prior_method GIVEN");
  }
  if (method != PriorMethod::kGiven && options.prior_precision) {
    return FieldError("options.prior_precision",
                      "another prior_method was asked for: leave this out, or choose GIVEN");
  }
  if (method == PriorMethod::kValidation && validation.total() == 0) {
    return FieldError("options.prior_method", "VALIDATION needs validation data");
  }
  if (method == PriorMethod::kWeightDecay && !WeightDecayPrecision(risk)) {
    return FieldError("options.prior_precision",
                      "is required, because the model's manifest states no weight_decay and there "
                      "is no validation data to tune it on (or choose prior_method EVIDENCE)");
  }
  return absl::OkStatus();
}

absl::Status CheckNoise(const EmpiricalRisk& risk, const FitOptions& options) {
  LAPLACED_RETURN_IF_ERROR(CheckPositive("options.sigma_noise", options.sigma_noise));
  const bool gaussian = risk.likelihood.kind == Likelihood::Kind::kGaussian;
  if (!gaussian && (options.noise_method || options.sigma_noise)) {
    return FieldError(options.noise_method ? "options.noise_method" : "options.sigma_noise",
                      "only a Gaussian likelihood has noise; leave it out");
  }
  const NoiseMethod method = NoiseMethodOf(options);
  if (method == NoiseMethod::kGiven && !options.sigma_noise) {
    return FieldError("options.sigma_noise", "is required with noise_method GIVEN");
  }
  if (method != NoiseMethod::kGiven && options.sigma_noise) {
    return FieldError("options.sigma_noise",
                      "another noise_method was asked for: leave this out, or choose GIVEN");
  }
  if (method == NoiseMethod::kEvidence &&
      options.low_rank.curvature.kind == CurvatureKind::kEmpiricalFisher) {
    return FieldError("options.noise_method",
                      "EVIDENCE moves the noise after the curvature has been measured, and the "
                      "empirical Fisher does not follow in proportion: choose another curvature or "
                      "DATA");
  }
  if (gaussian && method == NoiseMethod::kManifest && !(risk.manifest.likelihood.sigma_noise > 0)) {
    return FieldError(
        "options.noise_method",
        "the model's manifest states no sigma_noise: choose DATA or EVIDENCE, or give "
        "options.sigma_noise");
  }
  return absl::OkStatus();
}

}  // namespace

int64_t NumData(const EmpiricalRisk& risk) {
  return risk.manifest.n_data > 0 ? risk.manifest.n_data : risk.size();
}

absl::optional<double> WeightDecayPrecision(const EmpiricalRisk& risk) {
  if (!(risk.manifest.weight_decay > 0)) return absl::nullopt;
  return static_cast<double>(NumData(risk)) * risk.manifest.weight_decay;
}

absl::Status CheckExamples(const Manifest& manifest, const std::string& field,
                           const Dataset& data) {
  const std::vector<int64_t> example(data.inputs.sizes().begin() + 1, data.inputs.sizes().end());
  if (example != manifest.input_shape) {
    return FieldError(field,
                      absl::StrCat("examples have shape ", ShapeString(example), ", expected ",
                                   ShapeString(manifest.input_shape), " (the model's input)"));
  }
  if (data.inputs.scalar_type() == at::kByte && !manifest.accepts_uint8) {
    return FieldError(field,
                      "inputs are uint8, expected float32 or float64: the model's manifest does "
                      "not say how to scale raw pixels (input.uint8_scale)");
  }
  return absl::OkStatus();
}

absl::Status CheckData(const EmpiricalRisk& risk, const std::string& field, const Dataset& data) {
  LAPLACED_RETURN_IF_ERROR(CheckExamples(risk.manifest, field, data));
  return risk.likelihood.CheckTargets(field, data.targets, risk.network.n_outputs(), data.first);
}

absl::Status CheckFit(const EmpiricalRisk& risk, const CapturePlan& plan, const Dataset& validation,
                      const FitOptions& options) {
  LAPLACED_RETURN_IF_ERROR(CheckData(risk, "train_dataset_id", risk.data));
  if (validation.size() > 0)
    LAPLACED_RETURN_IF_ERROR(CheckData(risk, "validation_dataset_id", validation));
  const int64_t p = risk.network.n_parameters();
  LAPLACED_RETURN_IF_ERROR(CheckCombination(options));
  switch (options.structure) {
    case StructureKind::kLowRank:
      LAPLACED_RETURN_IF_ERROR(
          CheckRank(options.low_rank, p, risk.ranks->size(), options.memory_limit_bytes));
      LAPLACED_RETURN_IF_ERROR(CheckBatches(options.low_rank, risk.size()));
      break;
    case StructureKind::kKfac:
      LAPLACED_RETURN_IF_ERROR(
          CheckKroneckerMemory(risk.network, plan, options.memory_limit_bytes));
      LAPLACED_RETURN_IF_ERROR(CheckBatches(options.low_rank, risk.size()));
      break;
    case StructureKind::kLastLayer:
      if (p > kLastLayerLimit) {
        return FieldError("options.structure",
                          absl::StrCat("LAST_LAYER takes at most ", kLastLayerLimit,
                                       " parameters, the last layer has ", p,
                                       ": choose LOW_RANK or KFAC with options.parameters"));
      }
      if (risk.size() < 2) {
        return FieldError("train_dataset_id", "expected at least 2 examples, got 1");
      }
      break;
  }
  LAPLACED_RETURN_IF_ERROR(CheckPrior(risk, validation, options));
  return CheckNoise(risk, options);
}

}  // namespace laplaced
