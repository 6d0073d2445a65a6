#include "formats/npz.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include <zip.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "formats/atomic_file.h"
#include "formats/file_error.h"
#include "formats/zip_archive.h"

namespace laplaced {
namespace {

struct DiscardZip {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
using ZipHandle = std::unique_ptr<zip_t, DiscardZip>;

constexpr char kSuffix[] = ".npy";

absl::Status Malformed(absl::string_view where, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

// Name of the array that a member holds.
std::string KeyOf(const ZipMember& member) {
  return std::string(absl::StripSuffix(member.name, kSuffix));
}

// An archive that holds nothing but arrays, and at least one. `max_bytes` bounds the sum of all
// unpacked members.
absl::StatusOr<ZipArchive> OpenArchive(const std::string& path, int64_t max_bytes) {
  absl::StatusOr<ZipArchive> archive = ZipArchive::OpenFile(path, max_bytes);
  if (!archive.ok()) return archive;
  for (const ZipMember& member : archive->members()) {
    if (!absl::EndsWith(member.name, kSuffix) || KeyOf(member).empty()) {
      return Malformed(member.shown, "expected a name that ends in .npy");
    }
  }
  if (archive->members().empty()) return Malformed(path, "the archive holds no array");
  return archive;
}

absl::StatusOr<Array> ReadMember(const ZipArchive& archive, const ZipMember& member,
                                 int64_t max_bytes) {
  absl::StatusOr<ZipMemberReader> file = archive.Open(member);
  if (!file.ok()) return file.status();
  const ByteReader read = [&file](char* out, size_t size) { return file->Read(out, size); };
  absl::StatusOr<Array> array = ReadNpyStream(read, member.bytes, member.shown, max_bytes);
  if (!array.ok()) return array;
  if (absl::Status status = file->CheckEnd(); !status.ok()) return status;
  return array;
}

// Adds a member whose source must be there until the archive is closed; takes the source.
bool AddMember(zip_t* archive, const std::string& name, zip_source_t* source,
               NpzCompression compression) {
  if (source == nullptr) return false;
  const zip_int64_t index = zip_file_add(archive, name.c_str(), source, ZIP_FL_ENC_UTF_8);
  if (index < 0) {
    zip_source_free(source);
    return false;
  }
  const int method = compression == NpzCompression::kStored ? ZIP_CM_STORE : ZIP_CM_DEFLATE;
  return zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), method, 0) == 0;
}

// Where the bytes of a member come from.
struct Content {
  std::string key;
  std::string bytes;  // of the member
  std::string path;   // or the file that holds them
};

absl::Status WriteArchive(const std::string& path, const std::vector<Content>& contents,
                          NpzCompression compression) {
  int code = 0;
  ZipHandle archive(zip_open(path.c_str(), ZIP_CREATE | ZIP_EXCL, &code));
  if (archive == nullptr) {
    return absl::InternalError(absl::StrCat("cannot create ", path, ": ", ZipErrorText(code)));
  }
  for (const Content& content : contents) {
    zip_source_t* source =
        content.path.empty()
            ? zip_source_buffer(archive.get(), content.bytes.data(), content.bytes.size(), 0)
            : zip_source_file(archive.get(), content.path.c_str(), 0, -1);
    if (!AddMember(archive.get(), content.key + ".npy", source, compression)) {
      return absl::InternalError(absl::StrCat("cannot add '", content.key, "' to ", path, ": ",
                                              zip_error_strerror(zip_get_error(archive.get()))));
    }
  }
  if (zip_close(archive.get()) != 0) {
    return absl::InternalError(absl::StrCat("cannot write ", path, ": ",
                                            zip_error_strerror(zip_get_error(archive.get()))));
  }
  archive.release();  // zip_close freed it
  return absl::OkStatus();
}

absl::Status ReplaceArchive(const std::string& path, const std::vector<Content>& contents,
                            NpzCompression compression) {
  if (contents.empty()) return Malformed(path, "an .npz archive needs at least one array");
  const std::string temporary = TemporaryPath(ParentFolder(path));
  absl::Status status = WriteArchive(temporary, contents, compression);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    status = FileError(errno, absl::StrCat("cannot replace ", path));
  }
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace

absl::StatusOr<std::map<std::string, Array>> ReadNpz(const std::string& path, int64_t max_bytes) {
  absl::StatusOr<ZipArchive> archive = OpenArchive(path, max_bytes);
  if (!archive.ok()) return archive.status();
  std::map<std::string, Array> arrays;
  for (const ZipMember& member : archive->members()) {
    absl::StatusOr<Array> array = ReadMember(*archive, member, max_bytes);
    if (!array.ok()) return array.status();
    arrays.emplace(KeyOf(member), *std::move(array));
  }
  return arrays;
}

absl::StatusOr<std::vector<std::string>> NpzKeys(const std::string& path) {
  absl::StatusOr<ZipArchive> archive = OpenArchive(path, INT64_MAX);
  if (!archive.ok()) return archive.status();
  std::vector<std::string> keys;
  for (const ZipMember& member : archive->members()) keys.push_back(KeyOf(member));
  return keys;
}

absl::StatusOr<NpzMember> OpenNpzMember(const std::string& path,
                                        const std::vector<std::string>& keys) {
  absl::StatusOr<ZipArchive> archive = OpenArchive(path, INT64_MAX);
  if (!archive.ok()) return archive.status();
  const std::vector<ZipMember>& members = archive->members();
  const ZipMember* chosen = members.size() == 1 ? &members[0] : nullptr;
  for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
    const ZipMember* named = archive->Find(absl::StrCat(*key, kSuffix));
    if (named != nullptr) chosen = named;
  }
  if (chosen == nullptr) {
    return Malformed(
        path,
        absl::StrCat("expected an array named ", absl::StrJoin(keys, " or "), ", found ",
                     absl::StrJoin(members, ", ", [](std::string* out, const ZipMember& member) {
                       absl::StrAppend(out, absl::CHexEscape(KeyOf(member)));
                     })));
  }
  absl::StatusOr<ZipMemberReader> file = archive->Open(*chosen);
  if (!file.ok()) return file.status();
  // In this order: a member is closed before its archive.
  struct OpenMember {
    ZipArchive archive;
    ZipMemberReader file;
  };
  NpzMember member;
  member.shown = chosen->shown;
  const int64_t bytes = chosen->bytes;
  const auto open = std::make_shared<OpenMember>(OpenMember{*std::move(archive), *std::move(file)});
  member.read = [open](char* out, size_t size) { return open->file.Read(out, size); };
  member.end = [open] { return open->file.CheckEnd(); };
  absl::StatusOr<NpyHeader> header = ReadNpyHeader(member.read, bytes, member.shown);
  if (!header.ok()) return header.status();
  member.header = *std::move(header);
  return member;
}

absl::Status WriteNpz(const std::string& path, const std::map<std::string, Array>& arrays,
                      NpzCompression compression) {
  std::vector<Content> contents;
  for (const auto& [key, array] : arrays) {
    absl::StatusOr<std::string> bytes = SerializeNpy(array);
    if (!bytes.ok()) return Malformed(key, bytes.status().message());
    contents.push_back({key, *std::move(bytes), ""});
  }
  return ReplaceArchive(path, contents, compression);
}

absl::Status WriteNpzOfFiles(const std::string& path,
                             const std::vector<std::pair<std::string, std::string>>& npy_files) {
  std::vector<Content> contents;
  for (const auto& [key, npy] : npy_files) contents.push_back({key, "", npy});
  return ReplaceArchive(path, contents, NpzCompression::kStored);
}

}  // namespace laplaced
