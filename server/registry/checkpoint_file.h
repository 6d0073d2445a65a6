// Which file in the folder of a model version is its checkpoint. Free functions, thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace laplaced {

// model.pt, model.safetensors, model.pth or model.th: the name of the one that is there, without
// the folder. NOT_FOUND if there is none, FAILED_PRECONDITION if there are several.
absl::StatusOr<std::string> FindCheckpointFile(const std::string& folder);

}  // namespace laplaced
