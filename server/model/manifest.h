// model.json: what a checkpoint file cannot say about itself.
//
//   { "likelihood": "categorical",    required; or "gaussian", or "bernoulli" (independent labels)
//     "input": {                      required
//       "shape": [1, 28, 28],         required, one example
//       "uint8_scale": 0.00392,       optional: raw pixels become value * uint8_scale,
//       "uint8_mean": [..],           optional: then (. - mean) / std per entry of the first
//       "uint8_std": [..],            dimension
//       "dtype": "float32" },         optional, or "float64"; checked against the checkpoint
//     "n_outputs": 10,                required
//     "class_names": [..],            optional
//     "n_data": 50000,                optional
//     "weight_decay": 5e-4,           optional, b of b/2 ||theta||^2 next to the mean loss
//     "bias_weight_decay": 1e-5,      optional, > 0: another b for parameters with at most one
//                                     dimension (biases, normalisation)
//     "sigma_noise": 0.1,             gaussian only, > 0; optional: a fit may estimate it
//     "architecture": "resnet20",     what network the weights belong to, where the checkpoint is a
//                                     file of tensors and not TorchScript: a name, or an object
//                                     {"name": .., options}; architecture.h lists both
//     "description": ".." }           optional
//
// Unknown keys are errors: a misspelt "weight_decay" must not silently change a posterior. A plain
// value; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/array.h"
#include "server/model/architecture.h"
#include "server/model/likelihood.h"

namespace laplaced {

struct Manifest {
  Likelihood likelihood;  // Gaussian: sigma_noise 0 if not stated
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
  // For parameters with at most one dimension; weight_decay if not stated.
  double bias_weight_decay = 0;
  std::string description;
  Architecture architecture;  // its name is empty: the checkpoint is TorchScript
};

// FAILED_PRECONDITION with the file's name, the key, and what was expected.
absl::StatusOr<Manifest> ParseManifest(const std::string& file_name, const std::string& json);

// Hash of everything in a manifest that changes numbers (not names and descriptions): a posterior
// belongs to a checkpoint *and* to this. Manifests that say the same as before a key was added keep
// their hash.
std::string ManifestFingerprint(const Manifest& manifest);

}  // namespace laplaced
