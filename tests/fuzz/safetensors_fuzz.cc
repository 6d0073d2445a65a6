// safetensors files: every array that is handed out must lie inside the file, aligned.
#include <cstring>

#include "formats/safetensors.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"
#include "tests/support/temp_folder.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 4096;
// What JSON takes while it is parsed.
constexpr int64_t kHeapPerByte = 30;

void CheckArray(const ArrayView& array, absl::string_view file) {
  const absl::StatusOr<int64_t> bytes = NumBytes(array.dtype, array.shape);
  Require(bytes.ok(), "a shape whose bytes cannot be counted");
  const auto* begin = static_cast<const char*>(array.data);
  Require(begin >= file.data() && begin + *bytes <= file.data() + file.size(),
          "an array outside the file");
  Require(
      reinterpret_cast<uintptr_t>(begin) % static_cast<uintptr_t>(ElementSize(array.dtype)) == 0,
      "an array that is not aligned");
}

void Run(absl::string_view input) {
  const std::string path = WriteScratch("input.safetensors", input);
  const HeapBound bound(input.size(), kHeapPerByte, 64 << 10);
  const absl::StatusOr<MappedSafetensors> mapped = MappedSafetensors::Open(path);
  RequireStatus(mapped.status(), {absl::StatusCode::kDataLoss});
  if (!mapped.ok()) return;
  for (const std::string& name : mapped->Names()) {
    const absl::StatusOr<ArrayView> array = mapped->Get(name);
    Require(array.ok(), "a name that is listed is not there");
    CheckArray(*array, mapped->bytes());
  }
  RequireStatus(mapped->Get("no such name").status(), {absl::StatusCode::kNotFound});
}

std::string File(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + header + data;
}

std::vector<std::string> Seeds() {
  const float values[] = {1, 2, 3, 4, 5, 6};
  const uint8_t bytes[] = {7, 8, 9};
  const std::string path = ScratchFolder() + "/seed.safetensors";
  const absl::Status status = WriteSafetensors(path,
                                               {{"directions", {DType::kFloat32, {3, 2}, values}},
                                                {"bytes", {DType::kUint8, {3}, bytes}},
                                                {"nothing", {DType::kInt64, {0, 4}, nullptr}}},
                                               {{"format", "laplaced-posterior"}});
  Require(status.ok(), "cannot write a seed");
  std::vector<std::string> seeds = {test_support::ReadFileBytes(path)};
  std::remove(path.c_str());
  seeds.push_back(File(R"({"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", "12345678"));
  seeds.push_back(File("{}", ""));
  return seeds;
}

LAPLACED_FUZZ_TARGET(safetensors, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
