#include "formats/safetensors.h"

#include <errno.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/atomic_file.h"
#include "formats/file_error.h"
#include "formats/file_handle.h"
#include "formats/safetensors_header.h"

namespace laplaced {
namespace {

using safetensors_internal::Header;
using safetensors_internal::kLengthBytes;
using safetensors_internal::kMaxHeaderBytes;
using safetensors_internal::ParseHeader;
using safetensors_internal::Parts;
using safetensors_internal::SerializeHeader;
using safetensors_internal::SplitFile;
using safetensors_internal::TensorEntry;

constexpr int64_t kAlignment = 64;

absl::Status Malformed(const std::string& path, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

// What decides a tensor's place in the file, and where its data is now.
struct Placement {
  TensorEntry entry;
  int64_t bytes = 0;
  const void* data = nullptr;
};

bool ComesFirst(const Placement& a, const Placement& b) {
  const auto key = [](const Placement& p) {
    return std::make_tuple(p.bytes % kAlignment != 0, -ElementSize(p.entry.dtype), p.entry.name);
  };
  return key(a) < key(b);
}

absl::StatusOr<std::vector<Placement>> Place(const std::vector<NamedArrayView>& tensors) {
  std::vector<Placement> placements;
  for (const NamedArrayView& tensor : tensors) {
    absl::StatusOr<int64_t> bytes = NumBytes(tensor.array.dtype, tensor.array.shape);
    if (!bytes.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", absl::CHexEscape(tensor.name), "': ", bytes.status().message()));
    }
    Placement placement;
    placement.entry.name = tensor.name;
    placement.entry.dtype = tensor.array.dtype;
    placement.entry.shape = tensor.array.shape;
    placement.bytes = *bytes;
    placement.data = tensor.array.data;
    placements.push_back(std::move(placement));
  }
  std::sort(placements.begin(), placements.end(), ComesFirst);
  int64_t offset = 0;
  for (Placement& placement : placements) {
    placement.entry.begin = offset;
    if (placement.bytes > INT64_MAX - offset) {
      return absl::InvalidArgumentError("the tensors are too large for one file");
    }
    offset += placement.bytes;
    placement.entry.end = offset;
  }
  return placements;
}

// Length and header text, padded so that data starts aligned.
absl::StatusOr<std::string> Preamble(const std::vector<Placement>& placements,
                                     const std::map<std::string, std::string>& metadata) {
  Header header;
  header.metadata = metadata;
  for (const Placement& placement : placements) header.tensors.push_back(placement.entry);
  absl::StatusOr<std::string> text = SerializeHeader(header);
  if (!text.ok()) return text.status();
  const int64_t unpadded = kLengthBytes + static_cast<int64_t>(text->size());
  text->append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  const uint64_t length = text->size();
  if (length > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", length, " bytes, expected at most ", kMaxHeaderBytes));
  }
  std::string preamble(kLengthBytes, '\0');
  std::memcpy(preamble.data(), &length, sizeof length);
  return preamble + *text;
}

}  // namespace

absl::Status WriteSafetensors(const std::string& path, const std::vector<NamedArrayView>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  absl::StatusOr<std::vector<Placement>> placements = Place(tensors);
  if (!placements.ok()) return placements.status();
  absl::StatusOr<std::string> preamble = Preamble(*placements, metadata);
  if (!preamble.ok()) return preamble.status();
  std::vector<absl::string_view> parts = {*preamble};
  for (const Placement& placement : *placements) {
    parts.emplace_back(static_cast<const char*>(placement.data),
                       static_cast<size_t>(placement.bytes));
  }
  return WriteNewFile(path, parts);
}

absl::StatusOr<MappedSafetensors> MappedSafetensors::Open(const std::string& path) {
  absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
  if (!file.ok()) {
    if (!absl::IsInvalidArgument(file.status())) return file.status();
    return absl::DataLossError(file.status().message());
  }
  if (file->size < kLengthBytes) {
    return Malformed(path, absl::StrCat("a file of ", file->size, " bytes has no header"));
  }
  MappedSafetensors mapped;
  void* map = mmap(nullptr, static_cast<size_t>(file->size), PROT_READ, MAP_SHARED, file->fd.get(),
                   /*offset=*/0);
  if (map == MAP_FAILED) return FileError(errno, absl::StrCat("cannot map ", path));
  mapped.map_ = map;
  mapped.size_ = static_cast<size_t>(file->size);

  const absl::StatusOr<Parts> parts = SplitFile(mapped.bytes());
  if (!parts.ok()) return Malformed(path, parts.status().message());
  const char* base = static_cast<const char*>(map);
  const int64_t data_start = parts->data.data() - base;
  absl::StatusOr<Header> header =
      ParseHeader(parts->header, static_cast<int64_t>(parts->data.size()));
  if (!header.ok()) return Malformed(path, header.status().message());
  for (TensorEntry& entry : header->tensors) {
    const int64_t position = data_start + entry.begin;
    if (position % ElementSize(entry.dtype) != 0) {
      return Malformed(
          path, absl::StrCat("tensor '", absl::CHexEscape(entry.name), "' begins at byte ",
                             position, ", which is not aligned for ", DTypeName(entry.dtype)));
    }
    ArrayView& view = mapped.tensors_[entry.name];
    view.dtype = entry.dtype;
    view.shape = std::move(entry.shape);
    view.data = base + position;
  }
  mapped.metadata_ = std::move(header->metadata);
  return mapped;
}

MappedSafetensors::MappedSafetensors(MappedSafetensors&& other) noexcept
    : map_(std::exchange(other.map_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      tensors_(std::move(other.tensors_)),
      metadata_(std::move(other.metadata_)) {}

MappedSafetensors& MappedSafetensors::operator=(MappedSafetensors&& other) noexcept {
  if (this != &other) {
    Unmap();
    map_ = std::exchange(other.map_, nullptr);
    size_ = std::exchange(other.size_, 0);
    tensors_ = std::move(other.tensors_);
    metadata_ = std::move(other.metadata_);
  }
  return *this;
}

MappedSafetensors::~MappedSafetensors() { Unmap(); }

void MappedSafetensors::Unmap() {
  if (map_ != nullptr) munmap(map_, size_);
  map_ = nullptr;
}

absl::StatusOr<ArrayView> MappedSafetensors::Get(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return found->second;
  return absl::NotFoundError(absl::StrCat("no tensor '", absl::CHexEscape(name),
                                          "', present are: ", absl::StrJoin(Names(), ", ")));
}

std::vector<std::string> MappedSafetensors::Names() const {
  std::vector<std::string> names;
  for (const auto& tensor : tensors_) names.push_back(tensor.first);
  return names;
}

}  // namespace laplaced
