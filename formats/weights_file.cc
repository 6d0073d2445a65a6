#include "formats/weights_file.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/file_handle.h"
#include "formats/safetensors_header.h"
#include "formats/torch_file.h"
#include "formats/zip_archive.h"

namespace laplaced {
namespace {

absl::Status Malformed(absl::string_view what) { return absl::InvalidArgumentError(what); }

bool IsSafetensors(absl::string_view bytes) {
  constexpr size_t kBrace = safetensors_internal::kLengthBytes;
  return bytes.size() > kBrace && bytes[kBrace] == '{';
}

absl::StatusOr<Weights> ParseSafetensors(absl::string_view bytes, int64_t max_bytes) {
  const absl::StatusOr<safetensors_internal::Parts> parts = safetensors_internal::SplitFile(bytes);
  if (!parts.ok()) return Malformed(parts.status().message());
  const auto header =
      safetensors_internal::ParseHeader(parts->header, static_cast<int64_t>(parts->data.size()),
                                        safetensors_internal::Elements::kAll);
  if (!header.ok()) return Malformed(header.status().message());
  Weights weights;
  for (const safetensors_internal::TensorEntry& entry : header->tensors) {
    absl::StatusOr<Array> array = AllocateArray(entry.dtype, entry.shape, max_bytes);
    if (!array.ok()) return array.status();
    max_bytes -= static_cast<int64_t>(array->bytes.size());
    WidenElements(entry.stored, parts->data.data() + entry.begin,
                  (entry.end - entry.begin) / StoredSize(entry.stored), array->bytes.data());
    weights.emplace(entry.name, *std::move(array));
  }
  if (weights.empty()) return Malformed("the file holds no tensor");
  return weights;
}

absl::StatusOr<Weights> Parse(absl::string_view bytes, int64_t max_bytes) {
  if (IsTorchZip(bytes)) return ParseTorchZip(bytes, max_bytes);
  if (IsTorchLegacy(bytes)) return ParseTorchLegacy(bytes, max_bytes);
  if (IsSafetensors(bytes)) return ParseSafetensors(bytes, max_bytes);
  return Malformed(
      "not a file of weights: expected what torch.save or safetensors writes (damaged, truncated, "
      "or made by other means)");
}

// Takes `prefix` off every name, if every name has it.
bool StripPrefix(absl::string_view prefix, Weights* weights) {
  for (const auto& entry : *weights) {
    if (!absl::StartsWith(entry.first, prefix) || entry.first.size() == prefix.size()) return false;
  }
  Weights stripped;
  for (auto& [name, array] : *weights) {
    stripped.emplace(name.substr(prefix.size()), std::move(array));
  }
  *weights = std::move(stripped);
  return true;
}

}  // namespace

absl::StatusOr<Weights> ReadWeights(const std::string& path, const std::string& name,
                                    int64_t max_bytes) {
  absl::StatusOr<std::string> bytes = ReadWholeFile(path, max_bytes);
  if (!bytes.ok()) return bytes.status();
  return ParseWeights(*bytes, name, max_bytes);
}

absl::StatusOr<Weights> ParseWeights(absl::string_view bytes, const std::string& name,
                                     int64_t max_bytes) {
  absl::StatusOr<Weights> weights = Parse(bytes, max_bytes);
  if (!weights.ok()) {
    return absl::Status(weights.status().code(),
                        absl::StrCat(name, ": ", weights.status().message()));
  }
  // Wrapped more than once is rare; a name made of nothing but prefixes must not take long.
  constexpr int kMostPrefixes = 4;
  for (int i = 0; i < kMostPrefixes; ++i) {
    if (!StripPrefix("module.", &*weights) && !StripPrefix("_orig_mod.", &*weights)) break;
  }
  return weights;
}

bool IsTorchScript(absl::string_view bytes) {
  if (!IsTorchZip(bytes)) return false;
  const absl::StatusOr<ZipArchive> archive = ZipArchive::OpenBytes(bytes, "", INT64_MAX);
  if (!archive.ok()) return false;
  return std::any_of(
      archive->members().begin(), archive->members().end(),
      [](const ZipMember& member) { return absl::EndsWith(member.name, "/constants.pkl"); });
}

}  // namespace laplaced
