// .npz archives, read whole and array by array.
#include "formats/deflate_bound.h"
#include "formats/npz.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"
#include "tests/support/temp_folder.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 4096;
// Inflate's window and libzip's buffers, and its table for 65,536 more members (2 MiB), which it
// makes when a directory goes on after the last member that it announces.
constexpr int64_t kBuffers = 3 << 20;

void Run(absl::string_view input) {
  const std::string path = WriteScratch("input.npz", input);
  const HeapBound bound(input.size(), kMaxDeflateRatio, kBuffers);
  RequireStatus(ReadNpz(path).status(), {absl::StatusCode::kInvalidArgument});
  absl::StatusOr<NpzMember> member = OpenNpzMember(path, {"x", "y"});
  RequireStatus(member.status(), {absl::StatusCode::kInvalidArgument});
  if (!member.ok()) return;
  const absl::StatusOr<int64_t> bytes = NumBytes(member->header.dtype, member->header.shape);
  Require(bytes.ok() && *bytes <= MaxInflatedBytes(static_cast<int64_t>(input.size())),
          "announces more than deflate can hold");
  std::string elements(static_cast<size_t>(*bytes), '\0');
  absl::Status status = member->read(elements.data(), elements.size());
  if (status.ok()) status = member->end();
  RequireStatus(status, {absl::StatusCode::kInvalidArgument});
}

std::vector<std::string> Seeds() {
  const std::map<std::string, Array> arrays = {
      {"x", AllocateArray(DType::kFloat32, {3, 4}).value()},
      {"y", AllocateArray(DType::kInt64, {3}).value()}};
  std::vector<std::string> seeds;
  for (const NpzCompression compression : {NpzCompression::kStored, NpzCompression::kDeflated}) {
    const std::string path = ScratchFolder() + "/seed.npz";
    Require(WriteNpz(path, arrays, compression).ok(), "cannot write a seed");
    seeds.push_back(test_support::ReadFileBytes(path));
  }
  return seeds;
}

LAPLACED_FUZZ_TARGET(npz, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
