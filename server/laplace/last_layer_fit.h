// The exact curvature matrix of few parameters, in practice those of the last layer: written out,
// over all training data, and diagonalised.
//
// The network must be restricted to these parameters (Network::Restrict). Nothing is chosen on a
// batch, so there is nothing to debias; more data join exactly.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "server/curvature/running_moments.h"
#include "server/laplace/fitted_curvature.h"

namespace laplaced {

// A dense matrix of more parameters costs minutes to diagonalise.
inline constexpr int64_t kLastLayerLimit = 4096;

class LastLayerFit : public FittedCurvature {
 public:
  struct Parts {
    at::Tensor matrix;       // mean curvature, [P, P] fp64
    RunningMoments trace;    // [1]
    at::Tensor directions;   // eigenvectors, [P, P], network precision, largest eigenvalue first
    at::Tensor eigenvalues;  // [P] fp64
    std::vector<int64_t> block_sizes;
  };

  // Diagonalises `matrix`.
  LastLayerFit(at::Tensor matrix, RunningMoments trace, at::ScalarType precision,
               std::vector<int64_t> block_sizes);
  // Errors: DATA_LOSS if tensors are missing or do not fit together.
  static absl::StatusOr<std::shared_ptr<const LastLayerFit>> FromTensors(const TensorMap& tensors,
                                                                         const Network& network);

  std::shared_ptr<const Structure> MakeStructure(
      const std::vector<double>& prior_scale) const override;
  CurvatureReport Report() const override;
  absl::Status CanTakeData() const override;
  absl::StatusOr<std::shared_ptr<const FittedCurvature>> WithData(
      const EmpiricalRisk& risk, const CapturePlan& plan, const CurvatureSpec& curvature,
      const ProgressFn& progress) const override;
  std::shared_ptr<const FittedCurvature> ScaledBy(double factor) const override;
  TensorMap ToTensors() const override;

 private:
  explicit LastLayerFit(Parts parts) : parts_(std::move(parts)) {}

  Parts parts_;
};

absl::StatusOr<std::shared_ptr<const LastLayerFit>> FitLastLayer(const EmpiricalRisk& risk,
                                                                 const CapturePlan& plan,
                                                                 const CurvatureSpec& curvature,
                                                                 const ProgressFn& progress);

}  // namespace laplaced
