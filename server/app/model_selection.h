// The `load` setting: which models a server loads before it takes calls.
//
// A model that is damaged is logged and left out, so that one bad checkpoint does not stop the
// others from being served; a model that was asked for by name and is not there is an error of the
// setting. Free functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/registry/repository.h"
#include "server/serving/model_host.h"

namespace laplaced {

struct ModelSelection {
  bool all = false;                  // the highest version of every model
  std::vector<ModelVersion> models;  // version 0: the highest
};

// "all", "none", or a list "name,name/version". INVALID_ARGUMENT.
absl::StatusOr<ModelSelection> ParseModelSelection(const std::string& load);

// Loads them one after the other. Error: a listed model does not exist, or the repository cannot be
// read.
absl::Status LoadSelectedModels(const ModelSelection& selection, const Repository& repository,
                                ModelHost& host);

}  // namespace laplaced
