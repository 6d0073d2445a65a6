// A posterior as text for people: what it is, what debiasing changed, thresholds, warnings. Pure
// functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "client/cpp/fit_types.h"

namespace laplace::cli {

// Everything but the spectrum.
std::string PosteriorSummary(const client::Posterior& posterior);

// Curvature of the first `limit` directions (all if negative), biased and debiased, and their
// ratio.
std::string SpectrumTable(const client::Posterior& posterior, int64_t limit);

}  // namespace laplace::cli
