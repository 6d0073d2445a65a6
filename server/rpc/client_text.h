// Texts of the server as clients may see them: without the folder that the registry lies in.
// Thread-safe.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace laplaced {

// Texts for clients name files below `folder` by their paths within it from now on, in the whole
// process, for as long as it runs. "." and "/" stay as they are.
void HideFolder(const std::string& folder);

// `text` without the folders that are hidden.
std::string ClientText(absl::string_view text);

}  // namespace laplaced
