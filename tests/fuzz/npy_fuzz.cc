// .npy files. What is read must hold the bytes that its shape says, and be read again from what the
// writer makes of it.
#include <cstring>

#include "formats/npy.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 4096;

absl::StatusOr<Array> Read(absl::string_view bytes) {
  const int64_t total = static_cast<int64_t>(bytes.size());
  const ByteReader read = [&bytes](char* out, size_t size) {
    Require(size <= bytes.size(), "asks for bytes that are not there");
    std::memcpy(out, bytes.data(), size);
    bytes.remove_prefix(size);
    return absl::OkStatus();
  };
  return ReadNpyStream(read, total, "x.npy");
}

void Run(absl::string_view input) {
  absl::StatusOr<Array> array;
  {
    const HeapBound bound(input.size(), 4, 64 << 10);
    array = Read(input);
  }
  RequireStatus(array.status(), {absl::StatusCode::kInvalidArgument});
  if (!array.ok() || array->shape.size() > 32) return;
  const absl::StatusOr<std::string> written = SerializeNpy(*array);
  Require(written.ok(), "an array that was read cannot be written");
  const absl::StatusOr<Array> again = Read(*written);
  Require(again.ok() && again->dtype == array->dtype && again->shape == array->shape &&
              again->bytes == array->bytes,
          "an array is another one after it was written and read");
}

std::string Header(const std::string& version, const std::string& text) {
  std::string length = {static_cast<char>(text.size()), '\0'};
  if (version[0] > 1) length += std::string(2, '\0');
  return "\x93NUMPY" + version + length + text;
}

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (const DType dtype :
       {DType::kFloat32, DType::kFloat64, DType::kUint8, DType::kInt32, DType::kInt64}) {
    seeds.push_back(SerializeNpy(*AllocateArray(dtype, {2, 3})).value());
  }
  seeds.push_back(SerializeNpy(*AllocateArray(DType::kFloat32, {})).value());
  seeds.push_back(SerializeNpy(*AllocateArray(DType::kFloat32, {0, 7})).value());
  const std::string bytes(6, '\1');
  for (const std::string& version :
       {std::string("\1\0", 2), std::string("\2\0", 2), std::string("\3\0", 2)}) {
    seeds.push_back(
        Header(version, "{'shape': (2L, 3), \"descr\": '|b1', 'fortran_order': False, }\n") +
        bytes);
  }
  return seeds;
}

LAPLACED_FUZZ_TARGET(npy, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
