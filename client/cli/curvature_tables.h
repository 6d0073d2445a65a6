// The curvature of a posterior as text for people. Pure function, thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "client/cpp/fit_types.h"

namespace laplace::cli {

// The first `limit` lines (all if negative) of what debiasing changed: curvature along the
// directions, biased and debiased, or with KFAC its sum over each parameter tensor. If all are
// asked for, also the share of each parameter tensor of a posterior with directions.
std::string CurvatureTables(const client::Posterior& posterior, int64_t limit);

}  // namespace laplace::cli
