#include "server/registry/checkpoint_file.h"

#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/file_type.h"

namespace laplaced {

absl::StatusOr<std::string> FindCheckpointFile(const std::string& folder) {
  std::vector<std::string> found;
  for (const char* name : {"model.pt", "model.safetensors", "model.pth", "model.th"}) {
    const auto type = FileTypeOf(absl::StrCat(folder, "/", name));
    if (!type.ok()) return type.status();
    if (*type == std::filesystem::file_type::regular) found.push_back(name);
  }
  if (found.size() == 1) return found[0];
  if (found.empty()) {
    return absl::NotFoundError(
        "model.pt is missing in the model's folder (or, with an architecture in model.json, "
        "model.safetensors, model.pth or model.th)");
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the model's folder holds ", absl::StrJoin(found, " and "),
                   ", expected one checkpoint: remove the others"));
}

}  // namespace laplaced
