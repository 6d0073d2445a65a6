// Predictions as text for people. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/cli/context.h"
#include "client/cpp/types.h"

namespace laplace::cli {

// A line per example, or per example and output of a regression, as the model's likelihood has it.
// `labels` are true classes, or empty. The first row is numbered `first_row`.
std::string PredictionTable(const client::Model& model, const client::Prediction& prediction,
                            const std::vector<int64_t>& labels, int64_t first_row);

// What is not exact about the variances, in lines below the table; empty if nothing is.
std::string VarianceNote(const client::Prediction& prediction);

// "accuracy", "nll" and "ece" of the plain network and of the posterior.
std::string MetricsTable(const Json& map, const Json& laplace);

}  // namespace laplace::cli
