// Small risks, one for every likelihood and kind of layer that matters to curvature, in fp64.
#pragma once

#include <string>
#include <vector>

#include "server/curvature/empirical_risk.h"
#include "server/curvature/output_factor.h"

namespace laplaced::reference {

struct RiskCase {
  std::string name;
  EmpiricalRisk risk;
};

// 12 examples each: categorical, Gaussian and Bernoulli MLPs, and a categorical convolutional
// network with an in-place ReLU.
std::vector<RiskCase> RiskCases();

// Every kind of curvature; MC_FISHER with three samples and a seed.
std::vector<CurvatureSpec> CurvatureSpecs();

// All row numbers of the risk's data.
at::Tensor AllRows(const EmpiricalRisk& risk);

}  // namespace laplaced::reference
