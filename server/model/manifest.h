// model.json: what a checkpoint file cannot say about itself.
//
//   { "likelihood": "categorical" | "gaussian",          required
//     "input": { "shape": [1, 28, 28],                   required, one example
//                "uint8_scale": 0.00392...,              optional: raw pixels become value *
//                uint8_scale, "uint8_mean": [..], "uint8_std": [..]   optional: then (. - mean) /
//                std per first dimension "dtype": "float32" | "float64" },       optional, checked
//                against the checkpoint
//     "n_outputs": 10,                                   required
//     "class_names": [...], "n_data": 50000, "weight_decay": 5e-4,   optional
//     "sigma_noise": 0.1,                                required for gaussian
//     "description": "..." }                             optional
//
// Unknown keys are errors: a misspelt "weight_decay" must not silently change a posterior. A plain
// value; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/array.h"
#include "server/model/likelihood.h"

namespace laplaced {

struct Manifest {
  Likelihood likelihood;
  std::vector<int64_t> input_shape;
  std::string input_dtype;  // empty: not stated
  bool accepts_uint8 = false;
  double uint8_scale = 0;
  std::vector<double> uint8_mean;  // empty, or one per entry of the first dimension
  std::vector<double> uint8_std;   // likewise
  int64_t n_outputs = 0;
  std::vector<std::string> class_names;
  int64_t n_data = 0;
  double weight_decay = 0;
  std::string description;
};

// FAILED_PRECONDITION with the file's name, the key, and what was expected.
absl::StatusOr<Manifest> ParseManifest(const std::string& file_name, const std::string& json);

// Hash of everything in a manifest that changes numbers (not names and descriptions): a posterior
// belongs to a checkpoint *and* to this.
std::string ManifestFingerprint(const Manifest& manifest);

}  // namespace laplaced
