#include "server/registry/sealed_json.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/file_handle.h"
#include "formats/sha256.h"

namespace laplaced {
namespace {

constexpr char kSealKey[] = "record_sha256";

// What follows the sealed bytes of a text.
std::string Seal(absl::string_view body) {
  return absl::StrCat(",\n  \"", kSealKey, "\": \"", Sha256Hex(body), "\"\n}\n");
}

}  // namespace

std::string SealJson(const Json& object) {
  std::string body = object.dump(2, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
  body.resize(body.size() - 2);  // "\n}"
  return body + Seal(body);
}

absl::StatusOr<Json> UnsealJson(absl::string_view text) {
  static const size_t kSealBytes = Seal("").size();
  const absl::string_view body = text.substr(0, text.size() - std::min(text.size(), kSealBytes));
  if (!absl::EndsWith(text, Seal(body))) {
    return absl::DataLossError("damaged: the text does not match its checksum");
  }
  Json object = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::DataLossError("not a JSON object");
  object.erase(kSealKey);
  return object;
}

absl::StatusOr<Json> ReadSealedFile(const std::string& path) {
  absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxRecordBytes);
  if (absl::IsInvalidArgument(text.status())) return absl::DataLossError(text.status().message());
  if (!text.ok()) return text.status();
  absl::StatusOr<Json> object = UnsealJson(*text);
  if (!object.ok()) return absl::DataLossError(absl::StrCat(path, ": ", object.status().message()));
  return object;
}

}  // namespace laplaced
