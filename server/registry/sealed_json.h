// JSON files that notice damage to any of their bytes.
//
// A sealed text is a JSON object whose last field, "record_sha256", is the SHA-256 of every byte
// before the comma that precedes it. That is the same in all format versions, so that a version is
// believed only after the text was found intact. Parsing takes at most about 30 times the size of
// the text. Thread-safe (free functions on values).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace laplaced {

using Json = nlohmann::ordered_json;

// No record comes near this; a larger file is not one.
inline constexpr int64_t kMaxRecordBytes = int64_t{16} << 20;

// Text of a non-empty object that does not have "record_sha256" yet. Bytes that are not UTF-8 are
// replaced.
std::string SealJson(const Json& object);

// DATA_LOSS unless `text` is what SealJson made; "record_sha256" is not in the result.
absl::StatusOr<Json> UnsealJson(absl::string_view text);

// Reads and unseals a file. NOT_FOUND, DATA_LOSS (message names the file), or an error of reading.
absl::StatusOr<Json> ReadSealedFile(const std::string& path);

}  // namespace laplaced
