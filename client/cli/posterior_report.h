// A posterior as text for people: what it is, where its numbers come from, thresholds,
// warnings. Pure function, thread-safe.
#pragma once

#include <string>

#include "client/cpp/fit_types.h"

namespace laplace::cli {

// The threshold of every OOD score, and the data that they come from; ends with a line break.
std::string ThresholdTable(const client::Posterior& posterior);

// Everything but curvature_tables.h.
std::string PosteriorSummary(const client::Posterior& posterior);

}  // namespace laplace::cli
