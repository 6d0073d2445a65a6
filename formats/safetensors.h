// The safetensors file format: 8-byte little-endian header length, JSON header, raw little-endian
// data.
//
// Written so that the Python package of that name reads it, and read back by memory map: opening
// costs no copy and replicas share the page cache. Reading validates everything before it hands out
// a pointer: header length against file size, JSON, known dtypes, offsets inside the file and
// aligned to the element size, sizes equal to shape times element size, no name twice, no overlap
// or gap. The header may have 16 MiB; parsing it takes at most about 30 times its size. Errors:
// NOT_FOUND (no file), DATA_LOSS (malformed; the message says where). MappedSafetensors is
// immutable after Open and safe to share between threads; it may be moved. The file must not be
// shortened while it is mapped: touching a page that is gone kills the process, on every operating
// system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/array.h"

namespace laplaced {

// A tensor in somebody else's memory.
struct ArrayView {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

struct NamedArrayView {
  std::string name;
  ArrayView array;
};

// Writes and fsyncs the file, replacing nothing: `path` must not exist (ALREADY_EXISTS). The data
// area starts 64-byte aligned relative to the file's start (the header is padded with spaces). The
// format allows no gaps, so tensors whose size is a multiple of 64 bytes come first and are all
// aligned to 64; the others follow, wider elements first, and are aligned to their elements. Equal
// input gives equal bytes. INVALID_ARGUMENT: a name that is empty, reserved, not UTF-8 or given
// twice, or an impossible shape.
absl::Status WriteSafetensors(const std::string& path, const std::vector<NamedArrayView>& tensors,
                              const std::map<std::string, std::string>& metadata);

class MappedSafetensors {
 public:
  static absl::StatusOr<MappedSafetensors> Open(const std::string& path);

  MappedSafetensors(MappedSafetensors&& other) noexcept;
  MappedSafetensors& operator=(MappedSafetensors&& other) noexcept;
  ~MappedSafetensors();

  // Error NOT_FOUND names the tensor and lists those present.
  absl::StatusOr<ArrayView> Get(const std::string& name) const;
  std::vector<std::string> Names() const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // The whole file, for a checksum over exactly what is mapped.
  absl::string_view bytes() const {
    return absl::string_view(static_cast<const char*>(map_), size_);
  }

 private:
  MappedSafetensors() = default;
  void Unmap();

  void* map_ = nullptr;
  size_t size_ = 0;
  std::map<std::string, ArrayView> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace laplaced
