#include "server/registry/operation_store.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <tuple>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "formats/atomic_file.h"
#include "formats/file_error.h"
#include "formats/file_handle.h"
#include "server/registry/id_time.h"
#include "server/registry/record_json.h"
#include "server/registry/repository.h"

namespace laplaced {
namespace {

constexpr int64_t kFormatVersion = 1;
constexpr char kSuffix[] = ".json";

// By OperationState.
constexpr const char* kStateNames[] = {"running", "succeeded", "failed", "cancelled"};

// Everything but the state, which is stored by name.
template <typename Visitor>
void VisitFields(OperationRecord& record, Visitor& visit) {
  visit("id", record.id);
  visit("description", record.description);
  visit("posterior_id", record.posterior_id);
  visit("error_code", record.error_code);
  visit("error_message", record.error_message);
  visit("start_time", record.start_time);
  visit("end_time", record.end_time);
}

// Fields that older records lack.
template <typename Visitor>
void VisitLaterFields(OperationRecord& record, Visitor& visit) {
  visit("model_version", record.model_version);
  visit("result", record.result);
}

std::string PathOf(const std::string& folder, absl::string_view name) {
  return absl::StrCat(folder, "/", name);
}

absl::StatusOr<OperationRecord> ReadRecord(const std::string& path, absl::string_view id) {
  absl::StatusOr<Json> object = ReadSealedFile(path);
  if (!object.ok()) return object.status();
  FieldReader reader(*object);
  int64_t format_version = 0;
  reader("format_version", format_version);
  std::string state;
  reader("state", state);
  OperationRecord record;
  VisitFields(record, reader);
  if (!reader.status().ok()) return reader.status();
  FieldReader later(*object, FieldReader::Missing::kKeep);
  VisitLaterFields(record, later);
  if (!later.status().ok()) return later.status();
  const auto* known = std::find(std::begin(kStateNames), std::end(kStateNames), state);
  if (format_version != kFormatVersion || known == std::end(kStateNames) || id != record.id) {
    return absl::DataLossError(absl::StrCat(path, ": unknown version or state, or another id"));
  }
  record.state = static_cast<OperationState>(known - std::begin(kStateNames));
  return record;
}

absl::Status SetAside(const std::string& path) {
  std::string target = absl::StrCat(path, ".damaged");
  std::error_code error;
  for (int i = 1; std::filesystem::exists(target, error); ++i) {
    target = absl::StrCat(path, ".damaged.", i);
  }
  if (rename(path.c_str(), target.c_str()) != 0) {
    return FileError(errno, absl::StrCat("cannot rename damaged record ", path));
  }
  return SyncFolder(ParentFolder(path));
}

void MarkStopped(OperationRecord* record) {
  record->state = OperationState::kFailed;
  record->error_code = static_cast<int>(absl::StatusCode::kAborted);
  record->error_message = "the server stopped while the operation ran; start it again";
  record->end_time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
}

// Ids are in order where clocks, and so the times of starts, are not. Times that cannot be read
// sort first.
bool StartedBefore(const OperationRecord& a, const OperationRecord& b) {
  const auto key = [](const OperationRecord& record) {
    absl::Time start = absl::InfinitePast();
    if (!absl::ParseTime(absl::RFC3339_full, record.start_time, &start, nullptr)) {
      start = absl::InfinitePast();
    }
    return std::make_tuple(TimeOfId(record.id).value_or(start), record.id);
  };
  return key(a) < key(b);
}

}  // namespace

absl::StatusOr<OperationStore> OperationStore::Open(const std::string& folder,
                                                    std::vector<std::string>* damaged) {
  if (absl::Status status = MakeFolders(folder); !status.ok()) return status;
  if (absl::Status status = RemoveTemporaries(folder); !status.ok()) return status;
  OperationStore store(folder);
  if (absl::Status status = store.ReadAll(false, damaged); !status.ok()) return status;
  return store;
}

absl::StatusOr<OperationStore> OperationStore::OpenReadOnly(const std::string& folder,
                                                            std::vector<std::string>* damaged) {
  OperationStore store(folder);
  if (absl::Status status = store.ReadAll(true, damaged); !status.ok()) return status;
  return store;
}

absl::Status OperationStore::ReadAll(bool read_only, std::vector<std::string>* damaged) {
  absl::StatusOr<std::vector<std::string>> names = ListFolder(folder_);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    absl::string_view id = name;
    if (!absl::ConsumeSuffix(&id, kSuffix)) continue;
    const std::string path = PathOf(folder_, name);
    absl::StatusOr<OperationRecord> record = ReadRecord(path, id);
    if (!record.ok()) {
      if (damaged != nullptr) damaged->push_back(name);
      // What the disk does not give now it may give later: only damage is set aside.
      if (read_only || !absl::IsDataLoss(record.status())) continue;
      if (absl::Status status = SetAside(path); !status.ok()) return status;
      continue;
    }
    if (record->state == OperationState::kRunning) {
      if (read_only) continue;
      MarkStopped(&*record);
      // On a full disk it stays as it is, and the next start says the same of it.
      Save(*record).IgnoreError();
    }
    KeepNewIdsAfter(record->id);
    recovered_.push_back(*std::move(record));
  }
  std::sort(recovered_.begin(), recovered_.end(), StartedBefore);
  return absl::OkStatus();
}

absl::Status OperationStore::Save(const OperationRecord& record) const {
  if (absl::Status status = ValidateName("id", record.id); !status.ok()) return status;
  FieldWriter writer;
  writer("format_version", kFormatVersion);
  writer("state", std::string(kStateNames[static_cast<size_t>(record.state)]));
  OperationRecord fields = record;
  VisitFields(fields, writer);
  VisitLaterFields(fields, writer);
  if (!writer.status().ok()) return writer.status();
  return ReplaceFile(PathOf(folder_, absl::StrCat(record.id, kSuffix)),
                     {SealJson(writer.object())});
}

absl::Status OperationStore::Remove(const std::string& id) const {
  if (absl::Status status = ValidateName("id", id); !status.ok()) return status;
  const std::string path = PathOf(folder_, absl::StrCat(id, kSuffix));
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return FileError(errno, absl::StrCat("cannot remove record ", path));
}

}  // namespace laplaced
