#include "formats/array_file.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/idx.h"
#include "formats/npy.h"
#include "formats/npz.h"

namespace laplaced {
namespace {

absl::StatusOr<std::map<std::string, Array>> Single(absl::StatusOr<Array> array) {
  if (!array.ok()) return array.status();
  std::map<std::string, Array> arrays;
  arrays.emplace(kSingleArrayKey, *std::move(array));
  return arrays;
}

}  // namespace

absl::StatusOr<std::map<std::string, Array>> ReadArrayFile(const std::string& path,
                                                           int64_t max_bytes) {
  const std::string name = path.substr(path.rfind('/') + 1);
  if (absl::EndsWith(name, ".npz")) return ReadNpz(path, max_bytes);
  if (absl::EndsWith(name, ".npy")) return Single(ReadNpy(path, max_bytes));
  if (absl::EndsWith(name, ".npy.gz") || absl::EndsWith(name, ".npz.gz")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": only IDX files may be compressed with gzip, unpack it first"));
  }
  if (absl::EndsWith(name, ".gz") || absl::StrContains(name, "idx")) {
    return Single(ReadIdx(path, max_bytes));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path,
                   ": unknown kind of file, expected a name that ends in .npy, .npz, .gz or "
                   "contains idx"));
}

}  // namespace laplaced
