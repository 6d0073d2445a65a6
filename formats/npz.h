// NumPy's .npz format: a ZIP archive of .npy files, stored or deflated.
//
// Reading refuses encrypted members, other compression methods, members that are not .npy, equal
// names, overlapping members, checksum errors and an archive without arrays. Before a member is
// unpacked its declared size is held against the limit for the sum of all arrays and against what
// its compressed bytes can hold (1032 times as much), so a small file cannot make the reader take
// much memory. Errors: NOT_FOUND (no such file), INVALID_ARGUMENT (malformed; the message names
// file, member and what was expected). Thread-safe (free functions).
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/array.h"

namespace laplaced {

// Arrays by member name without ".npy". `max_bytes` bounds the sum of all unpacked members.
absl::StatusOr<std::map<std::string, Array>> ReadNpz(const std::string& path,
                                                     int64_t max_bytes = kDefaultMaxArrayBytes);

enum class NpzCompression { kStored, kDeflated };

// Replaces `path` when the new archive is complete.
absl::Status WriteNpz(const std::string& path, const std::map<std::string, Array>& arrays,
                      NpzCompression compression = NpzCompression::kDeflated);

}  // namespace laplaced
