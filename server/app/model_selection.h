// The `load` setting: which versions of which models a server serves. Free functions on values.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/registry/repository.h"

namespace laplaced {

enum class VersionPolicy { kLatest, kAll, kSpecific };

struct SelectedModel {
  std::string name;  // empty: every model
  VersionPolicy policy = VersionPolicy::kLatest;
  int64_t number = 1;  // kLatest: how many; kSpecific: which
};

using ModelSelection = std::vector<SelectedModel>;  // empty: none

// "none", or a list of "name", "name/3", "name/latest:2" and "name/all", in which the name "all" is
// every model. INVALID_ARGUMENT.
absl::StatusOr<ModelSelection> ParseModelSelection(const std::string& load);

struct WantedModel {
  std::set<int64_t> versions;
  // Of the policy kLatest, the versions below: the highest that works may serve while none of
  // `versions` does.
  std::set<int64_t> substitutes;
};

using WantedModels = std::map<std::string, WantedModel>;  // by name

// What a selection means for a repository with these models (Repository::ListModels). A specific
// version is wanted whether it is there or not; a name that is selected and has no version is left
// out.
WantedModels FindWanted(const ModelSelection& selection, const std::vector<ModelVersion>& present);

// NOT_FOUND if a name or a specific version is not there.
absl::Status CheckPresent(const ModelSelection& selection,
                          const std::vector<ModelVersion>& present);

}  // namespace laplaced
