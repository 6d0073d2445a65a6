// A posterior on disk: `<folder>/posterior.json` and `<folder>/tensors.safetensors`.
//
// posterior.json holds "format_version": 3, every field of PosteriorRecord under its own name,
// "files": for each other file its size and SHA-256, and last the checksum of its own text
// (sealed_json.h). Versions 1 and 2 are read too: fields that they did not have keep the defaults
// of PosteriorRecord. Writing is atomic: files go to a hidden sibling folder, are synced, and the
// folder is renamed into place, so a reader sees all or nothing, also after a kill or a power cut.
// Reading checks sizes and checksums and refuses a damaged artifact with DATA_LOSS that names the
// file; a missing folder is NOT_FOUND; a newer format_version is FAILED_PRECONDITION. JSON numbers
// round-trip bit for bit; a number that is not finite is refused on writing with INTERNAL that
// names the field. Text that is not UTF-8 is stored with replacement characters. Functions on
// values; safe to call from any thread for different folders.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/array.h"
#include "formats/safetensors.h"
#include "server/registry/posterior_record.h"

namespace laplaced {

inline constexpr char kPosteriorRecordFile[] = "posterior.json";
inline constexpr char kPosteriorTensorsFile[] = "tensors.safetensors";

struct PosteriorArtifact {
  PosteriorRecord record;
  MappedSafetensors tensors;  // read-only memory map; stays valid while this lives
};

// Writes `folder`, which must not exist yet (ALREADY_EXISTS); its parents are created.
absl::Status WritePosteriorArtifact(const std::string& folder, const PosteriorRecord& record,
                                    const std::vector<NamedArrayView>& tensors);

absl::StatusOr<PosteriorArtifact> ReadPosteriorArtifact(const std::string& folder);

// The record alone, without reading or verifying the tensors (for listings).
absl::StatusOr<PosteriorRecord> ReadPosteriorRecord(const std::string& folder);

}  // namespace laplaced
