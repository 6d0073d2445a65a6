// model.json. What is accepted must make sense in itself.
#include <cmath>

#include "formats/array.h"
#include "server/model/manifest.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 4096;

void CheckSense(const Manifest& manifest) {
  Require(manifest.n_outputs >= 1, "no outputs");
  Require(manifest.n_data >= 0, "a negative number of examples");
  Require(std::isfinite(manifest.weight_decay) && manifest.weight_decay >= 0, "a weight decay");
  Require(manifest.accepts_uint8 == (manifest.uint8_scale > 0), "pixels without a scale");
  const absl::StatusOr<int64_t> elements = NumElements(manifest.input_shape);
  Require(elements.ok() && *elements >= 1, "an example without elements");
  for (const double std : manifest.uint8_std) Require(std > 0, "a deviation of nothing");
  Require(ManifestFingerprint(manifest).size() == 64, "no fingerprint");
}

void Run(absl::string_view input) {
  const std::string text(input);
  absl::StatusOr<Manifest> manifest;
  {
    const HeapBound bound(input.size(), 64, 64 << 10);
    manifest = ParseManifest("model.json", text);
  }
  RequireStatus(manifest.status(), {absl::StatusCode::kFailedPrecondition});
  if (manifest.ok()) CheckSense(*manifest);
}

std::vector<std::string> Seeds() {
  return {
      R"({"likelihood": "categorical", "input": {"shape": [3, 32, 32], "dtype": "float32",
          "uint8_scale": 0.0039, "uint8_mean": [0.4, 0.5, 0.6], "uint8_std": [0.2, 0.2, 0.2]},
          "n_outputs": 3, "class_names": ["a", "b", "c"], "n_data": 50000, "weight_decay": 1e-4,
          "bias_weight_decay": 1e-5, "description": "words"})",
      R"({"likelihood": "gaussian", "input": {"shape": [1]}, "n_outputs": 1, "sigma_noise": 0.1})",
      R"({"likelihood": "bernoulli", "input": {"shape": []}, "n_outputs": 1})"};
}

LAPLACED_FUZZ_TARGET(manifest, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
