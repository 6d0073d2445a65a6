#include "formats/zip_archive.h"

#include <zip.h>

#include <new>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/deflate_bound.h"
#include "formats/file_handle.h"

namespace laplaced {
namespace {

absl::Status Malformed(absl::string_view where, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status NotReadable(absl::string_view name, absl::string_view why) {
  return Malformed(name, absl::StrCat("not a readable ZIP archive: ", why));
}

// A member whose directory entry is acceptable. `packed_left` is what remains of the file for the
// compressed bytes of this and later members.
absl::StatusOr<ZipMember> Inspect(zip_t* archive, zip_uint64_t index, const std::string& where,
                                  int64_t* packed_left) {
  zip_stat_t stat;
  constexpr zip_uint64_t kNeeded =
      ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
  if (zip_stat_index(archive, index, 0, &stat) != 0 || (stat.valid & kNeeded) != kNeeded) {
    return Malformed(where, absl::StrCat("cannot read the description of member ", index));
  }
  ZipMember member;
  member.index = index;
  member.name = stat.name;
  member.shown = absl::StrCat(where, ": member '", absl::CHexEscape(stat.name), "'");
  if ((stat.valid & ZIP_STAT_ENCRYPTION_METHOD) != 0 && stat.encryption_method != ZIP_EM_NONE) {
    return Malformed(member.shown, "encrypted members are not supported");
  }
  if (stat.comp_method != ZIP_CM_STORE && stat.comp_method != ZIP_CM_DEFLATE) {
    return Malformed(member.shown, absl::StrCat("compression method ", stat.comp_method,
                                                " is not supported, expected stored or deflated"));
  }
  if (stat.comp_size > static_cast<zip_uint64_t>(*packed_left)) {
    return Malformed(member.shown,
                     absl::StrCat("declares ", stat.comp_size,
                                  " compressed bytes, the file has room for ", *packed_left));
  }
  const int64_t packed = static_cast<int64_t>(stat.comp_size);
  const int64_t possible = stat.comp_method == ZIP_CM_STORE ? packed : MaxInflatedBytes(packed);
  if (stat.size > static_cast<zip_uint64_t>(possible)) {
    return Malformed(member.shown, absl::StrCat("declares ", stat.size, " bytes, but its ", packed,
                                                " compressed bytes hold at most ", possible));
  }
  *packed_left -= packed;
  member.bytes = static_cast<int64_t>(stat.size);
  return member;
}

}  // namespace

void ZipMemberReader::Close::operator()(zip_file* file) const { zip_fclose(file); }
void ZipArchive::Discard::operator()(zip* archive) const { zip_discard(archive); }

absl::Status ZipMemberReader::Read(char* out, size_t size) const {
  size_t done = 0;
  while (done < size) {
    const zip_int64_t n = zip_fread(file_.get(), out + done, size - done);
    if (n < 0) {
      return Malformed(
          shown_, absl::StrCat("damaged: ", zip_error_strerror(zip_file_get_error(file_.get()))));
    }
    if (n == 0) {
      return Malformed(shown_,
                       absl::StrCat("ends ", size - done, " bytes before its declared size"));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status ZipMemberReader::CheckEnd() const {
  char extra;
  const zip_int64_t n = zip_fread(file_.get(), &extra, 1);
  if (n > 0) return Malformed(shown_, "has more data than declared");
  if (n < 0) {
    return Malformed(
        shown_, absl::StrCat("damaged: ", zip_error_strerror(zip_file_get_error(file_.get()))));
  }
  return absl::OkStatus();
}

absl::StatusOr<ZipArchive> ZipArchive::OpenFile(const std::string& path, int64_t max_bytes) {
  absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
  if (!file.ok()) return file.status();
  ZipArchive archive;
  int code = 0;
  archive.archive_.reset(zip_fdopen(file->fd.get(), 0, &code));
  if (archive.archive_ == nullptr) return NotReadable(path, ZipErrorText(code));
  file->fd.Release();  // the archive closes it
  absl::Status status = archive.ListMembers(path, file->size, max_bytes);
  if (!status.ok()) return status;
  return archive;
}

absl::StatusOr<ZipArchive> ZipArchive::OpenBytes(absl::string_view bytes, const std::string& name,
                                                 int64_t max_bytes) {
  ZipArchive archive;
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), /*freep=*/0, &error);
  if (source != nullptr) {
    archive.archive_.reset(zip_open_from_source(source, ZIP_RDONLY, &error));
    if (archive.archive_ == nullptr) zip_source_free(source);
  }
  const std::string why = zip_error_strerror(&error);
  zip_error_fini(&error);
  if (archive.archive_ == nullptr) return NotReadable(name, why);
  absl::Status status = archive.ListMembers(name, static_cast<int64_t>(bytes.size()), max_bytes);
  if (!status.ok()) return status;
  return archive;
}

absl::Status ZipArchive::ListMembers(const std::string& name, int64_t file_bytes,
                                     int64_t max_bytes) {
  int64_t packed_left = file_bytes, bytes_left = max_bytes;
  const zip_int64_t count = zip_get_num_entries(archive_.get(), 0);
  for (zip_int64_t i = 0; i < count; ++i) {
    absl::StatusOr<ZipMember> member =
        Inspect(archive_.get(), static_cast<zip_uint64_t>(i), name, &packed_left);
    if (!member.ok()) return member.status();
    if (member->bytes > bytes_left) {
      return Malformed(
          name, absl::StrCat("its members are larger than the limit of ", max_bytes, " bytes"));
    }
    bytes_left -= member->bytes;
    if (!places_.emplace(member->name, members_.size()).second) {
      return Malformed(member->shown, "appears twice");
    }
    members_.push_back(*std::move(member));
  }
  return absl::OkStatus();
}

const ZipMember* ZipArchive::Find(absl::string_view name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? nullptr : &members_[found->second];
}

absl::StatusOr<ZipMemberReader> ZipArchive::Open(const ZipMember& member) const {
  zip_file_t* file = zip_fopen_index(archive_.get(), member.index, 0);
  if (file == nullptr) {
    return Malformed(member.shown, absl::StrCat("cannot be opened: ",
                                                zip_error_strerror(zip_get_error(archive_.get()))));
  }
  return ZipMemberReader(file, member.shown);
}

absl::StatusOr<std::string> ZipArchive::Read(const ZipMember& member) const {
  absl::StatusOr<ZipMemberReader> reader = Open(member);
  if (!reader.ok()) return reader.status();
  std::string bytes;
  try {
    bytes.resize(static_cast<size_t>(member.bytes));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("not enough memory for ", member.shown, " of ", member.bytes, " bytes"));
  }
  absl::Status status = reader->Read(bytes.data(), bytes.size());
  if (status.ok()) status = reader->CheckEnd();
  if (!status.ok()) return status;
  return bytes;
}

std::string ZipErrorText(int code) {
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  std::string text = zip_error_strerror(&error);
  zip_error_fini(&error);
  return text;
}

}  // namespace laplaced
