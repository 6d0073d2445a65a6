// Kronecker-factored curvature: eigenbases from B1, eigenvalues from B2 (kronecker_factors.h).
//
// Without debiasing the eigenvalues come from B1 as well: from its factors (the usual K-FAC), or
// measured exactly there (EKFAC).
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "server/curvature/kronecker_factors.h"
#include "server/laplace/fitted_curvature.h"

namespace laplaced {

struct KroneckerOptions {
  int64_t direction_batch_size = 1024;
  int64_t curvature_batch_size = 4096;
  bool debias = true;
  bool exact = true;  // eigenvalues: exact, or from factors
  CurvatureSpec curvature;
  uint64_t seed = 0;
};

class KroneckerFit : public FittedCurvature {
 public:
  struct Parts {
    bool debiased = true;
    at::ScalarType precision = at::kFloat;  // the network's
    BlockBases first;                       // bases, and their eigenvalues on B1
    BlockEigenvalues second;                // measured along them
  };

  explicit KroneckerFit(Parts parts);
  // Errors: DATA_LOSS if tensors are missing or do not fit together.
  static absl::StatusOr<std::shared_ptr<const KroneckerFit>> FromTensors(const TensorMap& tensors,
                                                                         const Network& network,
                                                                         bool debiased, bool exact);

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
  Parts parts_;
};

absl::StatusOr<std::shared_ptr<const KroneckerFit>> FitKronecker(const EmpiricalRisk& risk,
                                                                 const CapturePlan& plan,
                                                                 const KroneckerOptions& options,
                                                                 const ProgressFn& bases_progress,
                                                                 const ProgressFn& values_progress);

}  // namespace laplaced
