#include "server/registry/posterior_artifact.h"

#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "formats/atomic_file.h"
#include "formats/sha256.h"
#include "server/registry/posterior_record_fields.h"
#include "server/registry/record_json.h"

namespace laplaced {
namespace {

constexpr int64_t kFormatVersion = 3;

struct FileEntry {
  int64_t bytes = 0;
  std::string sha256;
};

template <typename Visitor>
void VisitFields(FileEntry& entry, Visitor& visit) {
  visit("bytes", entry.bytes);
  visit("sha256", entry.sha256);
}

struct FileTable {
  FileEntry tensors;
};

template <typename Visitor>
void VisitFields(FileTable& table, Visitor& visit) {
  visit(kPosteriorTensorsFile, table.tensors);
}

struct Document {
  PosteriorRecord record;
  FileTable files;
};

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(std::filesystem::symlink_status(path, error));
}

std::string RecordPath(const std::string& folder) {
  return absl::StrCat(folder, "/", kPosteriorRecordFile);
}

std::string TensorsPath(const std::string& folder) {
  return absl::StrCat(folder, "/", kPosteriorTensorsFile);
}

absl::StatusOr<std::string> Encode(Document document) {
  FieldWriter writer;
  writer("format_version", kFormatVersion);
  VisitFields(document.record, writer);
  writer("files", document.files);
  if (!writer.status().ok()) return writer.status();
  return SealJson(writer.object());
}

// A file that is missing from a folder that exists is damage, not absence.
absl::Status Blame(const std::string& folder, const absl::Status& status) {
  if (!absl::IsNotFound(status)) return status;
  if (!Exists(folder)) return absl::NotFoundError(absl::StrCat(folder, " does not exist"));
  return absl::DataLossError(absl::StrCat("incomplete posterior: ", status.message()));
}

absl::StatusOr<Document> ReadDocument(const std::string& folder) {
  const std::string path = RecordPath(folder);
  absl::StatusOr<Json> object = ReadSealedFile(path);
  if (!object.ok()) return Blame(folder, object.status());
  int64_t format_version = 0;
  Document document;
  FieldReader reader(*object);
  reader("format_version", format_version);
  if (reader.status().ok() && format_version > kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": format_version ", format_version,
                     " is newer than this program, which reads up to ", kFormatVersion));
  }
  reader("files", document.files);
  const bool older = format_version < kFormatVersion;
  FieldReader record_reader(*object,
                            older ? FieldReader::Missing::kKeep : FieldReader::Missing::kRefuse);
  VisitFields(document.record, record_reader);
  for (const absl::Status& status : {reader.status(), record_reader.status()}) {
    if (!status.ok()) return absl::DataLossError(absl::StrCat(path, ": ", status.message()));
  }
  if (format_version < 1) {
    return absl::DataLossError(absl::StrCat(path, ": format_version ", format_version));
  }
  return document;
}

absl::Status CheckTensors(const MappedSafetensors& tensors, const FileEntry& expected,
                          const std::string& path) {
  const int64_t bytes = static_cast<int64_t>(tensors.bytes().size());
  if (bytes != expected.bytes) {
    return absl::DataLossError(
        absl::StrCat(path, ": damaged: it has ", bytes, " bytes, expected ", expected.bytes));
  }
  if (Sha256Hex(tensors.bytes()) != expected.sha256) {
    return absl::DataLossError(
        absl::StrCat(path, ": damaged: its content does not match its checksum"));
  }
  return absl::OkStatus();
}

// Fills the folder `temporary`, synced.
absl::Status WriteFiles(const std::string& temporary, const PosteriorRecord& record,
                        const std::vector<NamedArrayView>& tensors) {
  const std::string path = TensorsPath(temporary);
  absl::Status status = WriteSafetensors(path, tensors, {{"format", "laplaced-posterior"}});
  if (!status.ok()) return status;
  Document document;
  document.record = record;
  absl::StatusOr<OpenedFile> written = OpenRegularFile(path);
  if (!written.ok()) return written.status();
  document.files.tensors.bytes = written->size;
  absl::StatusOr<std::string> sha256 = Sha256File(path);
  if (!sha256.ok()) return sha256.status();
  document.files.tensors.sha256 = *std::move(sha256);
  absl::StatusOr<std::string> text = Encode(std::move(document));
  if (!text.ok()) return text.status();
  status = WriteNewFile(RecordPath(temporary), {*text});
  if (!status.ok()) return status;
  return SyncFolder(temporary);
}

}  // namespace

absl::Status WritePosteriorArtifact(const std::string& folder, const PosteriorRecord& record,
                                    const std::vector<NamedArrayView>& tensors) {
  if (Exists(folder)) return absl::AlreadyExistsError(absl::StrCat(folder, " exists already"));
  const std::string temporary = TemporaryPath(ParentFolder(folder));
  if (absl::Status status = MakeFolders(temporary); !status.ok()) return status;
  absl::Cleanup discard = [&temporary] { RemoveAll(temporary).IgnoreError(); };
  if (absl::Status status = WriteFiles(temporary, record, tensors); !status.ok()) return status;
  return RenameFolder(temporary, folder);
}

absl::StatusOr<PosteriorArtifact> ReadPosteriorArtifact(const std::string& folder) {
  absl::StatusOr<Document> document = ReadDocument(folder);
  if (!document.ok()) return document.status();
  const std::string path = TensorsPath(folder);
  absl::StatusOr<MappedSafetensors> tensors = MappedSafetensors::Open(path);
  if (!tensors.ok()) return Blame(folder, tensors.status());
  absl::Status status = CheckTensors(*tensors, document->files.tensors, path);
  if (!status.ok()) return status;
  return PosteriorArtifact{std::move(document->record), *std::move(tensors)};
}

absl::StatusOr<PosteriorRecord> ReadPosteriorRecord(const std::string& folder) {
  absl::StatusOr<Document> document = ReadDocument(folder);
  if (!document.ok()) return document.status();
  return std::move(document->record);
}

}  // namespace laplaced
