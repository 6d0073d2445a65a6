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
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/array.h"
#include "formats/npy.h"

namespace laplaced {

// Arrays by member name without ".npy". `max_bytes` bounds the sum of all unpacked members.
absl::StatusOr<std::map<std::string, Array>> ReadNpz(const std::string& path,
                                                     int64_t max_bytes = kDefaultMaxArrayBytes);

// One array of an archive, element by element.
struct NpzMember {
  NpyHeader header;
  std::string shown;                  // "<path>: member '<name>'", for messages
  ByteReader read;                    // the elements, which are as many as the header says
  std::function<absl::Status()> end;  // after the last one: compares the checksum
};

// Names of the arrays of an archive, which are not unpacked.
absl::StatusOr<std::vector<std::string>> NpzKeys(const std::string& path);

// Opens the array called one of `keys`, the first that there is, or the only array of the archive.
// Nothing is unpacked but what is read.
absl::StatusOr<NpzMember> OpenNpzMember(const std::string& path,
                                        const std::vector<std::string>& keys);

enum class NpzCompression { kStored, kDeflated };

// Replaces `path` when the new archive is complete.
absl::Status WriteNpz(const std::string& path, const std::map<std::string, Array>& arrays,
                      NpzCompression compression = NpzCompression::kDeflated);

// The same, stored, from arrays that lie in .npy files: name in the archive to path. Takes no
// memory to speak of.
absl::Status WriteNpzOfFiles(const std::string& path,
                             const std::vector<std::pair<std::string, std::string>>& npy_files);

}  // namespace laplaced
