#include "formats/file_type.h"

#include <system_error>

#include "absl/strings/str_cat.h"
#include "formats/file_error.h"

namespace laplaced {

absl::StatusOr<std::filesystem::file_type> FileTypeOf(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_type type = std::filesystem::status(path, error).type();
  if (type != std::filesystem::file_type::none) return type;
  if (error == std::errc::too_many_symbolic_link_levels) {
    return std::filesystem::file_type::not_found;
  }
  return FileError(error.value(), absl::StrCat("cannot look at ", path));
}

}  // namespace laplaced
