#include "server/app/model_selection.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/observe/log.h"

namespace laplaced {
namespace {

std::string Title(const ModelVersion& model) {
  return model.version == 0 ? model.name : absl::StrCat(model.name, "/", model.version);
}

absl::StatusOr<ModelVersion> ParseModel(const std::string& entry) {
  const std::vector<std::string> parts = absl::StrSplit(entry, '/');
  ModelVersion model;
  model.name = parts[0];
  const bool valid_version =
      parts.size() == 1 ||
      (parts.size() == 2 && absl::SimpleAtoi(parts[1], &model.version) && model.version > 0);
  if (!valid_version || !ValidateName("load", model.name).ok()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "load: expected 'all', 'none' or a list such as 'name,name/2', got '", entry, "'"));
  }
  return model;
}

// One of the highest version per name; `models` is sorted by name, then version.
std::vector<ModelVersion> HighestVersions(const std::vector<ModelVersion>& models) {
  std::vector<ModelVersion> highest;
  for (const ModelVersion& model : models) {
    if (!highest.empty() && highest.back().name == model.name) highest.pop_back();
    highest.push_back(model);
  }
  return highest;
}

// Error if a listed model has no folder.
absl::Status CheckExists(const ModelVersion& model, const Repository& repository) {
  const absl::Status found = model.version == 0 ? repository.LatestVersion(model.name).status()
                                                : repository.ModelFolder(model).status();
  if (found.ok()) return found;
  return absl::Status(found.code(),
                      absl::StrCat("load: model '", Title(model), "': ", found.message()));
}

}  // namespace

absl::StatusOr<ModelSelection> ParseModelSelection(const std::string& load) {
  ModelSelection selection;
  if (load == "none") return selection;
  if (load == "all") {
    selection.all = true;
    return selection;
  }
  const std::vector<std::string> entries = absl::StrSplit(load, ',');
  for (const std::string& entry : entries) {
    absl::StatusOr<ModelVersion> model = ParseModel(entry);
    if (!model.ok()) return model.status();
    selection.models.push_back(*std::move(model));
  }
  return selection;
}

absl::Status LoadSelectedModels(const ModelSelection& selection, const Repository& repository,
                                ModelHost& host) {
  std::vector<ModelVersion> models = selection.models;
  if (selection.all) {
    const absl::StatusOr<std::vector<ModelVersion>> found = repository.ListModels();
    if (!found.ok()) return found.status();
    models = HighestVersions(*found);
  }
  for (const ModelVersion& model : models) {
    const absl::Status exists = CheckExists(model, repository);
    if (!exists.ok()) return exists;
  }
  for (const ModelVersion& model : models) {
    const absl::StatusOr<ModelInfo> info = host.Load(model.name, model.version);
    if (info.ok()) {
      LogInfo(absl::StrCat("loaded model ", info->name, "/", info->version,
                           info->active_posterior_id.empty()
                               ? ", which has no active posterior yet"
                               : absl::StrCat(" with posterior ", info->active_posterior_id)));
    } else {
      LogError(absl::StrCat("model ", Title(model), " is not served: ", info.status().message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace laplaced
