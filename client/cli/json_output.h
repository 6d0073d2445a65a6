// The client's values as JSON, with the field names of the API. Absent values are left out; NaN
// becomes null.
#pragma once

#include "client/cli/context.h"
#include "client/cpp/client.h"

namespace laplace::cli {

Json ToJson(const client::Model& model);
Json ToJson(const client::Operation& operation);
Json ToJson(const client::Posterior& posterior);
// One object per row under "rows"; the first one is numbered `first_row`.
Json ToJson(const client::Prediction& prediction, const client::Model& model, int64_t first_row);
Json ToJson(const client::Scores& scores, int64_t first_row);

const char* StateName(client::ModelState state);
const char* StateName(client::OperationState state);
const char* LikelihoodName(client::Likelihood likelihood);

}  // namespace laplace::cli
