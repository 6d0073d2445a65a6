// What training minimised: the mean loss plus the weight decay of the manifest,
//   L(theta) = 1/N sum_n loss_n(theta) + 1/2 sum_i b_i theta_i^2,
// whose minimum is the mode that a Laplace approximation is taken at.
//
// b_i is weight_decay for parameters with more than one dimension and bias_weight_decay for the
// others (manifest.h), 0 if the manifest states none. Rows of an embedding that stand for padding
// take no gradient and no decay: they stay. Scale: mean over examples.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "absl/status/statusor.h"
#include "server/curvature/empirical_risk.h"
#include "server/curvature/output_factor.h"
#include "server/linalg/linear_operator.h"

namespace laplaced {

// b [P] fp64.
at::Tensor WeightDecayVector(const Network& network, const Manifest& manifest);

// Gradient of L at the network's parameters, with the mean loss of the examples `rows` [n > 0]:
// [P] fp64. Errors as for MeanGradient.
absl::StatusOr<at::Tensor> RegularisedGradient(const EmpiricalRisk& risk, const at::Tensor& rows);

// Curvature of L likewise: that of the mean loss (GGN or HESSIAN) plus diag(b), [P, P]. References
// the risk, whose parameters it may replace while it runs. Throws LibTorch exceptions.
std::unique_ptr<LinearOperator> MakeRegularisedOperator(const EmpiricalRisk& risk,
                                                        const at::Tensor& rows,
                                                        const CurvatureSpec& spec);

}  // namespace laplaced
