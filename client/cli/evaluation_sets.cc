#include "client/cli/evaluation_sets.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "formats/npz.h"

namespace laplace::cli {
namespace {

// "mnist" of "/data/mnist.npz" and of "mnist.npy,labels.npy".
std::string Stem(const std::string& path) {
  const std::string inputs = path.substr(0, path.find(','));
  const std::string file = std::filesystem::path(inputs).filename().string();
  absl::string_view stem = absl::StripSuffix(file, ".gz");
  for (const char* extension : {".npz", ".npy", ".idx"}) {
    if (absl::ConsumeSuffix(&stem, extension)) break;
  }
  return std::string(stem);
}

SetFile Split(const std::string& argument) {
  std::error_code ignored;
  const size_t equals = argument.find('=');
  if (equals == std::string::npos || equals == 0 || std::filesystem::exists(argument, ignored)) {
    return {"", argument};
  }
  return {argument.substr(0, equals), argument.substr(equals + 1)};
}

client::Array ToArray(const std::vector<double>& values) {
  client::Array array;
  array.dtype = client::DType::kFloat64;
  array.shape = {static_cast<int64_t>(values.size())};
  array.bytes.resize(values.size() * sizeof(double));
  std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
  return array;
}

}  // namespace

absl::StatusOr<std::vector<SetFile>> NameSets(const std::vector<std::string>& arguments) {
  std::vector<SetFile> sets;
  std::set<std::string> names = {kIdSet};
  for (const std::string& argument : arguments) {
    SetFile set = Split(argument);
    if (set.name.empty()) {
      set.name = Stem(set.path);
      if (names.count(set.name) > 0) set.name = set.path;
    }
    if (!names.insert(set.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("--ood: expected sets of different names",
                       set.name == kIdSet ? " (id is the ID data)" : "", ", got ", set.name,
                       " twice: choose one with --ood NAME=FILE"));
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

std::vector<std::string> AvailableScores(const client::Posterior& posterior,
                                         client::VarianceMode mode) {
  std::vector<std::string> scores = posterior.available_ood_scores;
  if (scores.empty()) {  // made by a version that did not list them
    for (const client::OodThreshold& threshold : posterior.ood_thresholds) {
      scores.push_back(threshold.score);
    }
  }
  const std::string& preferred = posterior.default_ood_score;
  if (std::find(scores.begin(), scores.end(), preferred) == scores.end()) {
    scores.push_back(preferred);
  }
  if (mode == client::VarianceMode::kSampled) {
    // These two have no sampled form.
    scores.erase(std::remove_if(scores.begin(), scores.end(),
                                [](const std::string& score) {
                                  return score == "local_ensemble" || score == "information_gain";
                                }),
                 scores.end());
  }
  return scores;
}

absl::Status CheckScores(const std::vector<std::string>& expected, const ScoredSet& set) {
  std::vector<std::string> names;
  for (const client::OodScore& score : set.scores) names.push_back(score.name);
  if (names != expected) {
    return absl::InternalError(absl::StrCat(
        "the server's answer is malformed: ood_scores: expected ", absl::StrJoin(expected, ", "),
        " for ", set.name, ", got ", absl::StrJoin(names, ", ")));
  }
  for (const client::OodScore& score : set.scores) {
    const auto rows = static_cast<int64_t>(score.values.size());
    if (rows != set.rows) {
      return absl::InternalError(
          absl::StrCat("the server's answer is malformed: ood_scores: expected ", set.rows,
                       " values of ", score.name, " for ", set.name, ", got ", rows));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteScores(const std::string& path, const ScoredSet& id,
                         const std::vector<ScoredSet>& ood) {
  std::map<std::string, client::Array> arrays;
  const auto add = [&arrays](const ScoredSet& set) {
    for (const client::OodScore& score : set.scores) {
      arrays[absl::StrCat(set.name, "/", score.name)] = ToArray(score.values);
    }
  };
  add(id);
  for (const ScoredSet& set : ood) add(set);
  return ::laplaced::WriteNpz(path, arrays);
}

}  // namespace laplace::cli
