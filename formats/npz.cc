#include "formats/npz.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>
#include <zip.h>

#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "formats/atomic_file.h"
#include "formats/deflate_bound.h"
#include "formats/file_handle.h"

namespace laplaced {
namespace {

struct DiscardZip {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
struct CloseMember {
  void operator()(zip_file_t* member) const { zip_fclose(member); }
};
using ZipHandle = std::unique_ptr<zip_t, DiscardZip>;
using MemberHandle = std::unique_ptr<zip_file_t, CloseMember>;

struct Member {
  zip_uint64_t index = 0;
  std::string key;    // name without ".npy"
  std::string shown;  // "<path>: member '<name>'"
  int64_t bytes = 0;  // unpacked
};

absl::Status Malformed(absl::string_view where, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

std::string ZipErrorText(int code) {
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  std::string text = zip_error_strerror(&error);
  zip_error_fini(&error);
  return text;
}

absl::StatusOr<ZipHandle> OpenArchive(OpenedFile file, const std::string& path) {
  int code = 0;
  ZipHandle archive(zip_fdopen(file.fd.get(), 0, &code));
  if (archive == nullptr) {
    return Malformed(path, absl::StrCat("not a readable .npz archive: ", ZipErrorText(code)));
  }
  file.fd.Release();  // the archive closes it
  return archive;
}

// Name and size of a member whose directory entry is acceptable. `packed_left` is what remains of
// the file for the compressed bytes of this and later members.
absl::StatusOr<Member> Inspect(zip_t* archive, zip_uint64_t index, const std::string& path,
                               int64_t* packed_left) {
  zip_stat_t stat;
  constexpr zip_uint64_t kNeeded =
      ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
  if (zip_stat_index(archive, index, 0, &stat) != 0 || (stat.valid & kNeeded) != kNeeded) {
    return Malformed(path, absl::StrCat("cannot read the description of member ", index));
  }
  Member member;
  member.index = index;
  member.shown = absl::StrCat(path, ": member '", absl::CHexEscape(stat.name), "'");
  absl::string_view key = stat.name;
  if (!absl::ConsumeSuffix(&key, ".npy") || key.empty()) {
    return Malformed(member.shown, "expected a name that ends in .npy");
  }
  member.key = std::string(key);
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

absl::Status ReadMemberBytes(zip_file_t* file, char* out, size_t size, const std::string& shown) {
  size_t done = 0;
  while (done < size) {
    const zip_int64_t n = zip_fread(file, out + done, size - done);
    if (n < 0) {
      return Malformed(shown,
                       absl::StrCat("damaged: ", zip_error_strerror(zip_file_get_error(file))));
    }
    if (n == 0) {
      return Malformed(shown,
                       absl::StrCat("ends ", size - done, " bytes before its declared size"));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

// The archive and its members, none of which is larger than the file or deflate allows.
struct Directory {
  ZipHandle archive;
  std::vector<Member> members;
};

// `max_bytes` bounds the sum of all unpacked members.
absl::StatusOr<Directory> OpenDirectory(const std::string& path, int64_t max_bytes) {
  absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
  if (!file.ok()) return file.status();
  int64_t packed_left = file->size;
  absl::StatusOr<ZipHandle> archive = OpenArchive(*std::move(file), path);
  if (!archive.ok()) return archive.status();

  Directory directory;
  std::set<std::string> keys;
  int64_t bytes_left = max_bytes;
  const zip_int64_t count = zip_get_num_entries(archive->get(), 0);
  for (zip_int64_t i = 0; i < count; ++i) {
    absl::StatusOr<Member> member =
        Inspect(archive->get(), static_cast<zip_uint64_t>(i), path, &packed_left);
    if (!member.ok()) return member.status();
    if (member->bytes > bytes_left) {
      return Malformed(
          path, absl::StrCat("its arrays are larger than the limit of ", max_bytes, " bytes"));
    }
    bytes_left -= member->bytes;
    if (!keys.insert(member->key).second) return Malformed(member->shown, "appears twice");
    directory.members.push_back(*std::move(member));
  }
  if (directory.members.empty()) return Malformed(path, "the archive holds no array");
  directory.archive = *std::move(archive);
  return directory;
}

absl::StatusOr<MemberHandle> OpenMember(zip_t* archive, const Member& member) {
  MemberHandle file(zip_fopen_index(archive, member.index, 0));
  if (file == nullptr) {
    return Malformed(member.shown, absl::StrCat("cannot be opened: ",
                                                zip_error_strerror(zip_get_error(archive))));
  }
  return file;
}

// After the last element; the checksum is compared when the end is reached.
absl::Status CheckEnd(zip_file_t* file, const std::string& shown) {
  char extra;
  const zip_int64_t n = zip_fread(file, &extra, 1);
  if (n > 0) return Malformed(shown, "has more data than declared");
  if (n < 0) {
    return Malformed(shown,
                     absl::StrCat("damaged: ", zip_error_strerror(zip_file_get_error(file))));
  }
  return absl::OkStatus();
}

absl::StatusOr<Array> ReadMember(zip_t* archive, const Member& member, int64_t max_bytes) {
  absl::StatusOr<MemberHandle> file = OpenMember(archive, member);
  if (!file.ok()) return file.status();
  const ByteReader read = [&file, &member](char* out, size_t size) {
    return ReadMemberBytes(file->get(), out, size, member.shown);
  };
  absl::StatusOr<Array> array = ReadNpyStream(read, member.bytes, member.shown, max_bytes);
  if (!array.ok()) return array;
  if (absl::Status status = CheckEnd(file->get(), member.shown); !status.ok()) return status;
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
    status = absl::ErrnoToStatus(errno, absl::StrCat("cannot replace ", path));
  }
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace

absl::StatusOr<std::map<std::string, Array>> ReadNpz(const std::string& path, int64_t max_bytes) {
  absl::StatusOr<Directory> directory = OpenDirectory(path, max_bytes);
  if (!directory.ok()) return directory.status();
  std::map<std::string, Array> arrays;
  for (const Member& member : directory->members) {
    absl::StatusOr<Array> array = ReadMember(directory->archive.get(), member, max_bytes);
    if (!array.ok()) return array.status();
    arrays.emplace(member.key, *std::move(array));
  }
  return arrays;
}

absl::StatusOr<NpzMember> OpenNpzMember(const std::string& path,
                                        const std::vector<std::string>& keys) {
  absl::StatusOr<Directory> directory = OpenDirectory(path, INT64_MAX);
  if (!directory.ok()) return directory.status();
  const std::vector<Member>& members = directory->members;
  const Member* chosen = members.size() == 1 ? &members[0] : nullptr;
  for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
    for (const Member& member : members) {
      if (member.key == *key) chosen = &member;
    }
  }
  if (chosen == nullptr) {
    return Malformed(
        path, absl::StrCat("expected an array named ", absl::StrJoin(keys, " or "), ", found ",
                           absl::StrJoin(members, ", ", [](std::string* out, const Member& member) {
                             absl::StrAppend(out, absl::CHexEscape(member.key));
                           })));
  }
  // Handles in this order: a member is closed before its archive.
  struct Open {
    ZipHandle archive;
    MemberHandle file;
  };
  const auto open = std::make_shared<Open>();
  absl::StatusOr<MemberHandle> file = OpenMember(directory->archive.get(), *chosen);
  if (!file.ok()) return file.status();
  open->file = *std::move(file);
  open->archive = std::move(directory->archive);
  NpzMember member;
  member.shown = chosen->shown;
  member.read = [open, shown = member.shown](char* out, size_t size) {
    return ReadMemberBytes(open->file.get(), out, size, shown);
  };
  member.end = [open, shown = member.shown] { return CheckEnd(open->file.get(), shown); };
  absl::StatusOr<NpyHeader> header = ReadNpyHeader(member.read, chosen->bytes, member.shown);
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
