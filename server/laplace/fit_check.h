// What fits need to know of their risk before they run. Internal to this room; CheckFit and
// CheckData are declared in fit.h.
#pragma once

#include <cstdint>

#include "absl/types/optional.h"
#include "server/curvature/empirical_risk.h"

namespace laplaced {

// N: what the manifest says, or the examples that there are.
int64_t NumData(const EmpiricalRisk& risk);

// n_data * weight_decay, if the manifest states a weight decay.
absl::optional<double> WeightDecayPrecision(const EmpiricalRisk& risk);

}  // namespace laplaced
