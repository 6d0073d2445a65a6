#include "server/app/model_selection.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace laplaced {
namespace {

constexpr char kEvery[] = "all";

absl::Status BadEntry(const std::string& entry) {
  return absl::InvalidArgumentError(
      absl::StrCat("load: expected 'none' or a list of 'name', 'name/3', 'name/latest:2' and "
                   "'name/all', where the name 'all' is every model, got '",
                   entry, "'"));
}

// What stands behind the name.
bool ParsePolicy(absl::string_view text, SelectedModel* model) {
  if (text == "all") {
    model->policy = VersionPolicy::kAll;
    return true;
  }
  model->policy =
      absl::ConsumePrefix(&text, "latest") ? VersionPolicy::kLatest : VersionPolicy::kSpecific;
  if (model->policy == VersionPolicy::kLatest) {
    if (text.empty()) return true;
    if (!absl::ConsumePrefix(&text, ":")) return false;
  }
  return absl::SimpleAtoi(text, &model->number) && model->number > 0;
}

absl::StatusOr<SelectedModel> ParseModel(const std::string& entry) {
  const std::vector<std::string> parts = absl::StrSplit(entry, absl::MaxSplits('/', 1));
  SelectedModel model;
  if (parts[0] != kEvery) {
    if (!ValidateName("load", parts[0]).ok()) return BadEntry(entry);
    model.name = parts[0];
  }
  if (parts.size() == 2 && !ParsePolicy(parts[1], &model)) return BadEntry(entry);
  // Version 3 of everything is nobody's wish.
  if (model.name.empty() && model.policy == VersionPolicy::kSpecific) return BadEntry(entry);
  return model;
}

using Versions = std::map<std::string, std::set<int64_t>>;  // by name

Versions ByName(const std::vector<ModelVersion>& models) {
  Versions by_name;
  for (const ModelVersion& model : models) by_name[model.name].insert(model.version);
  return by_name;
}

void Add(const SelectedModel& selected, const std::set<int64_t>& present, WantedModel* wanted) {
  if (selected.policy == VersionPolicy::kAll) {
    wanted->versions.insert(present.begin(), present.end());
    return;
  }
  const int64_t count = std::min(selected.number, static_cast<int64_t>(present.size()));
  const auto first = std::prev(present.end(), count);
  wanted->versions.insert(first, present.end());
  wanted->substitutes.insert(present.begin(), first);
}

}  // namespace

absl::StatusOr<ModelSelection> ParseModelSelection(const std::string& load) {
  ModelSelection selection;
  if (load == "none") return selection;
  const std::vector<std::string> entries = absl::StrSplit(load, ',');
  for (const std::string& entry : entries) {
    absl::StatusOr<SelectedModel> model = ParseModel(entry);
    if (!model.ok()) return model.status();
    selection.push_back(*std::move(model));
  }
  return selection;
}

WantedModels FindWanted(const ModelSelection& selection, const std::vector<ModelVersion>& present) {
  const Versions by_name = ByName(present);
  WantedModels wanted;
  for (const SelectedModel& selected : selection) {
    if (selected.policy == VersionPolicy::kSpecific) {
      wanted[selected.name].versions.insert(selected.number);
      continue;
    }
    for (const auto& [name, versions] : by_name) {
      if (selected.name.empty() || selected.name == name) Add(selected, versions, &wanted[name]);
    }
  }
  return wanted;
}

absl::Status CheckPresent(const ModelSelection& selection,
                          const std::vector<ModelVersion>& present) {
  const Versions by_name = ByName(present);
  for (const SelectedModel& selected : selection) {
    if (selected.name.empty()) continue;
    const auto found = by_name.find(selected.name);
    if (found == by_name.end()) {
      return absl::NotFoundError(
          absl::StrCat("load: there is no model '", selected.name, "' in the registry"));
    }
    if (selected.policy == VersionPolicy::kSpecific && found->second.count(selected.number) == 0) {
      return absl::NotFoundError(absl::StrCat("load: model '", selected.name, "/", selected.number,
                                              "': there is no such version in the registry"));
    }
  }
  return absl::OkStatus();
}

}  // namespace laplaced
