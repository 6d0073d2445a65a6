// The files of an evaluation: what its sets are called, which scores they have, and where raw
// scores go. Free functions; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/evaluation.h"
#include "client/cpp/client.h"

namespace laplace::cli {

// What the ID data are called.
inline constexpr char kIdSet[] = "id";

struct SetFile {
  std::string name;
  std::string path;
};

// From "FILE" or "NAME=FILE"; a file that exists under the whole text is meant as it stands. A set
// without a name is called after its file, without folder and extension, or, if that is taken, by
// its path. INVALID_ARGUMENT if two sets have one name, or one has that of the ID data.
absl::StatusOr<std::vector<SetFile>> NameSets(const std::vector<std::string>& arguments);

// Every score that the posterior can give in this mode, its default score included.
std::vector<std::string> AvailableScores(const client::Posterior& posterior,
                                         client::VarianceMode mode);

// INTERNAL unless the set has the scores that were asked for, one value for each row.
absl::Status CheckScores(const std::vector<std::string>& expected, const ScoredSet& set);

// Arrays "<set>/<score>" [rows] float64. Replaces the file when it is complete. Errors: those of
// the file.
absl::Status WriteScores(const std::string& path, const ScoredSet& id,
                         const std::vector<ScoredSet>& ood);

}  // namespace laplace::cli
