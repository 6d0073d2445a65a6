// The key "architecture" of model.json, read and written. Internal to this folder; architecture.h
// documents the key. Thread-safe (free functions on values).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "server/model/architecture.h"

namespace laplaced {

// FAILED_PRECONDITION with the file's name, the key, and what was expected. Options that say what
// is always so without them are left empty, so that values that mean the same are equal; an option
// that the file decides otherwise (heads, shortcut, pool of a vit) stays as stated.
absl::StatusOr<Architecture> ParseArchitecture(const std::string& file_name,
                                               const nlohmann::json& value);

// An object with the name and the options that are stated.
nlohmann::json ArchitectureJson(const Architecture& architecture);

}  // namespace laplaced
