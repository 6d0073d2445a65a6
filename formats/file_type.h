// Whether there is a file, and what, with "it is gone" told from "the disk does not say".
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace laplaced {

// What `path` leads to, links followed; not_found if there is nothing, also at the end of a link
// that leads nowhere or round in circles. Never none. Errors: FileError's (file_error.h).
absl::StatusOr<std::filesystem::file_type> FileTypeOf(const std::string& path);

}  // namespace laplaced
