#include "server/registry/record_json.h"

#include "absl/strings/match.h"

namespace laplaced {

void FieldWriter::Fail(absl::string_view path, absl::string_view problem) {
  if (!status_.ok()) return;
  status_ = absl::InternalError(absl::StrCat(path, absl::EndsWith(path, ".") ? "" : " ", problem));
}

void FieldReader::Fail(absl::string_view path, absl::string_view problem) {
  if (!status_.ok()) return;
  status_ = absl::DataLossError(absl::StrCat(path, absl::EndsWith(path, ".") ? "" : " ", problem));
}

}  // namespace laplaced
