// The bearer tokens that callers may show, as a file lists them:
//
//   {"tokens": [{"name": "ci", "role": "admin", "sha256": "<64 hexadecimal digits>"}, ...]}
//
// The file holds hashes only. `laplace token` makes tokens of 32 random bytes: nothing can be
// guessed about them that a slow hash would have to protect, so SHA-256 does, and a look-up by
// the hash tells an attacker who times it nothing about the token. A value; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace laplaced {

enum class Role {
  kPredict,  // predictions, scores, and looking at models, posteriors and operations
  kAdmin     // everything
};

// A longer file is refused.
inline constexpr int64_t kMaxTokenFileBytes = int64_t{1} << 20;

class TokenTable {
 public:
  struct Holder {
    std::string name;
    Role role = Role::kPredict;
  };

  // INVALID_ARGUMENT with the field ("tokens[2].role"), what was expected and what came.
  static absl::StatusOr<TokenTable> Parse(absl::string_view json);
  // Also NOT_FOUND and whatever keeps the file from being read.
  static absl::StatusOr<TokenTable> Read(const std::string& path);

  // Null for a token that is not in the table.
  const Holder* Find(absl::string_view token) const;

  size_t size() const { return holders_.size(); }

 private:
  std::unordered_map<std::string, Holder> holders_;  // by hash
};

}  // namespace laplaced
