// Small checks that several requests share. INVALID_ARGUMENT with the field, what was expected and
// what came. Free functions; thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace laplaced {

// `model` by the rules of Repository, `version` 0 or positive.
absl::Status CheckModel(const std::string& model_field, const std::string& model, int64_t version);

// A text that names something of the server's: not empty, no longer than any name it gives.
absl::Status CheckId(const std::string& field, const std::string& id, const std::string& what);

absl::Status CheckNotNegative(const std::string& field, int64_t value);

// Finite and above zero.
absl::Status CheckPositive(const std::string& field, double value);

// Finite, from 0 to below `limit`; 0 stands for the default.
absl::Status CheckBelow(const std::string& field, double value, double limit);

}  // namespace laplaced
