// IDX files, plain and with gzip.
#include "formats/deflate_bound.h"
#include "formats/idx.h"
#include "tests/fuzz/gzip.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 2048;
// ByteStream's two buffers and inflate's window.
constexpr int64_t kBuffers = 512 << 10;

void Run(absl::string_view input) {
  const std::string path = WriteScratch("input-idx3.gz", input);
  const HeapBound bound(input.size(), kMaxDeflateRatio, kBuffers);
  const absl::StatusOr<Array> array = ReadIdx(path);
  RequireStatus(array.status(), {absl::StatusCode::kInvalidArgument});
  if (!array.ok()) return;
  const absl::StatusOr<int64_t> bytes = NumBytes(array->dtype, array->shape);
  Require(bytes.ok() && *bytes == static_cast<int64_t>(array->bytes.size()),
          "has not the bytes that its shape says");
}

std::vector<std::string> Seeds() {
  const std::string images("\0\0\x08\3\0\0\0\2\0\0\0\2\0\0\0\2abcdefgh", 24);
  const std::string doubles("\0\0\x0e\1\0\0\0\1\x3f\xf0\0\0\0\0\0\0", 16);
  return {images, doubles, Gzip(images), Gzip(doubles),
          Gzip(images.substr(0, 9)) + Gzip(images.substr(9))};
}

LAPLACED_FUZZ_TARGET(idx, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
