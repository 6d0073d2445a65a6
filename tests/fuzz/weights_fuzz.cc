// Files of weights: torch.save's two containers and its pickles, safetensors.
#include <string>
#include <vector>

#include "formats/torch_pickle.h"
#include "formats/weights_file.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"
#include "tests/support/temp_folder.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 4096;
// Of unpacked members and of arrays, each.
constexpr int64_t kMaxArrayBytes = 1 << 20;
// A value of a pickle is 56 bytes, and some opcodes that make one are a single byte; the table of
// values holds its old and its new memory while it grows.
constexpr int64_t kHeapPerByte = 400;
// The arrays, a storage, libzip's buffers.
constexpr int64_t kFixed = 4 << 20;

void CheckArrays(const Weights& weights) {
  Require(!weights.empty(), "no tensor and no error");
  for (const auto& entry : weights) {
    const absl::StatusOr<int64_t> bytes = NumBytes(entry.second.dtype, entry.second.shape);
    Require(bytes.ok() && *bytes == static_cast<int64_t>(entry.second.bytes.size()),
            "an array of another size than its shape says");
  }
}

void Run(absl::string_view input) {
  const HeapBound bound(input.size(), kHeapPerByte, kFixed);
  const absl::StatusOr<Weights> weights = ParseWeights(input, "weights", kMaxArrayBytes);
  RequireStatus(weights.status(), {absl::StatusCode::kInvalidArgument});
  if (weights.ok()) CheckArrays(*weights);
  // The checksums of a ZIP archive stop most changes before they reach its pickle.
  RequireStatus(ParseTorchPickle(input).status(), {absl::StatusCode::kInvalidArgument});
  IsTorchScript(input);
}

// Files that PyTorch wrote, tests/data/weights.
std::vector<std::string> Seeds() {
  const std::string here = __FILE__;
  const std::string folder = here.substr(0, here.rfind('/')) + "/../data/weights/";
  std::vector<std::string> seeds;
  for (const char* name : {"legacy.pth", "views_legacy.pth", "checkpoint_legacy.pth", "zip.pth",
                           "deflated.pth", "protocol4.pth", "script.pt"}) {
    seeds.push_back(test_support::ReadFileBytes(folder + name));
  }
  seeds.push_back(
      std::string("\x51\0\0\0\0\0\0\0", 8) +
      R"({"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]},"__metadata__":{"f":"x"}})" +
      "12345678");
  return seeds;
}

LAPLACED_FUZZ_TARGET(weights, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
