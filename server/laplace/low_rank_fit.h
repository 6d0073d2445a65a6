// Lanczos directions, the curvature along them by the chosen debiasing strategy, and the residual.
//
//   NONE       directions and curvature from B1: Ritz values, the biased baseline
//   TWO_BATCH  directions from B1, curvature from B2
//   CROSS_FIT  directions from each batch, curvature along them from the other; each set counts
//              half: H = 1/2 U1 diag(lambda1) U1' + 1/2 U2 diag(lambda2) U2' (NERCOME, Lam 2016)
//   FULL_PASS  directions from B1, curvature from everything else, and the exact mix over the whole
//              training set of N examples: |B1|/N u'G_1 u + (1 - |B1|/N) u'G_rest u. Standard
//              errors are those of this mix: zero when everything was measured. (After an early
//              stop, updates join what was measured of the rest example by example.)
//
// Traces (and the diagonal, for that residual) come from the examples that measure the curvature.
// The residual takes what the directions leave over: isotropic max(0, tr G - sum) / (P - K),
// layerwise max(0, tr_l G - tr_l U W U') / P_l, diagonal max(0, diag G - diag U W U').
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/curvature/directional_curvature.h"
#include "server/laplace/fitted_curvature.h"
#include "server/laplace/lanczos_checkpoint.h"
#include "server/laplace/low_rank_structure.h"

namespace laplaced {

enum class Debiasing { kNone, kTwoBatch, kCrossFit, kFullPass };

struct LowRankOptions {
  int64_t rank = 50;
  int64_t direction_batch_size = 1024;
  int64_t curvature_batch_size = 4096;  // TWO_BATCH and CROSS_FIT
  Debiasing debiasing = Debiasing::kTwoBatch;
  ResidualKind residual = ResidualKind::kLayerwise;
  bool variance_correction = false;
  CurvatureSpec curvature;
  uint64_t seed = 0;
  double lanczos_tolerance = 1e-3;
  int64_t max_products = 0;          // 0: 10 * rank
  int64_t lanczos_memory_bytes = 0;  // 0: rank + 12 vectors; of each rank
  double target_relative_standard_error = 0;
};

// Progress of two phases, "directions" and "curvature".
struct LowRankProgress {
  ProgressFn directions;
  ProgressFn curvature;
  LanczosCheckpoint* checkpoint = nullptr;  // keeps and finds states of Lanczos, if there is one
};

struct LowRankCost {
  int64_t products = 0;
  double lanczos_seconds = 0;
  double curvature_seconds = 0;
};

class LowRankFit : public FittedCurvature {
 public:
  struct Parts {
    Debiasing debiasing = Debiasing::kTwoBatch;
    ResidualKind residual = ResidualKind::kLayerwise;
    bool variance_correction = false;
    at::Tensor directions;         // [P, K]; CROSS_FIT: both sets, the first one's come first
    at::Tensor ritz;               // [K] fp64
    at::Tensor lanczos_residuals;  // [K] fp64
    // NONE: on B1. TWO_BATCH: on B2. CROSS_FIT: set 1 on B2, set 2 on B1. FULL_PASS: on B1, on the
    // rest.
    std::vector<CurvatureStatistics> statistics;
    int64_t population = 0;            // FULL_PASS: N
    std::vector<int64_t> block_sizes;  // elements of each parameter tensor
  };

  explicit LowRankFit(Parts parts);
  // Errors: DATA_LOSS if tensors are missing or do not fit together.
  static absl::StatusOr<std::shared_ptr<const LowRankFit>> FromTensors(
      const TensorMap& tensors, Debiasing debiasing, ResidualKind residual,
      bool variance_correction, std::vector<int64_t> block_sizes);

  std::shared_ptr<const Structure> MakeStructure(
      const std::vector<double>& prior_scale) const override;
  CurvatureReport Report() const override;
  absl::Status CanTakeData() const override;
  absl::StatusOr<std::shared_ptr<const FittedCurvature>> WithData(
      const EmpiricalRisk& risk, const CapturePlan& plan, const CurvatureSpec& curvature,
      const ProgressFn& progress) const override;
  std::shared_ptr<const FittedCurvature> ScaledBy(double factor) const override;
  TensorMap ToTensors() const override;

  const Parts& parts() const { return parts_; }

 private:
  // One estimate out of all statistics.
  struct Combined {
    at::Tensor along;            // [K], not yet clipped
    at::Tensor standard_errors;  // [K]
    double trace = 0, trace_standard_error = 0;
    at::Tensor blocks;    // [parameter tensors]
    at::Tensor diagonal;  // [P] or undefined
    int64_t count = 0;
  };
  Combined Combine() const;
  at::Tensor Residual(const Combined& combined, const at::Tensor& curvature) const;
  // CROSS_FIT: dimensions that both sets of directions span.
  int64_t Overlap() const;
  double share() const { return parts_.debiasing == Debiasing::kCrossFit ? 0.5 : 1; }
  // Columns of the directions that statistics[i] belong to.
  at::Tensor DirectionsOf(size_t i) const;

  Parts parts_;
};

// FAILED_PRECONDITION if the curvature of the direction batch is zero; errors of progress.
// `warnings` receives what a user should know.
absl::StatusOr<std::shared_ptr<const LowRankFit>> FitLowRank(
    const EmpiricalRisk& risk, const CapturePlan& plan, const LowRankOptions& options,
    const LowRankProgress& progress, LowRankCost* cost, std::vector<std::string>* warnings);

// Elements of each parameter tensor.
std::vector<int64_t> BlockSizes(const Network& network);

// Vectors that Lanczos keeps at the most, on a rank that keeps `coordinates` doubles of each.
int64_t LanczosVectors(const LowRankOptions& options, int64_t coordinates);

}  // namespace laplaced
