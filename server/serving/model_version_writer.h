// A new version of a model in the registry, from a version that is there and other parameters.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/registry/repository.h"
#include "server/serving/loaded_model.h"

namespace laplaced {

// What the file beside model.pt that tells of its origin is called.
inline constexpr char kOriginFile[] = "newton_step.json";

// Writes the checkpoint of `model` with the parameters `theta` [P] as TorchScript, model.json as it
// is (but for "architecture", which TorchScript does not need), and `origin`, a JSON text, as
// kOriginFile. Then reads the folder as a server would, and only if the network that comes back has
// these parameters and gives the answers they gave in memory does it become the highest version,
// whose number is returned. Readers see all of it or nothing; other versions stay as they are.
// Errors: those of the disk, of LoadModel, and FAILED_PRECONDITION if the checkpoint cannot be
// written as TorchScript or comes back as another network.
absl::StatusOr<int64_t> WriteModelVersion(const Repository& repository, const LoadedModel& model,
                                          const at::Tensor& theta, const std::string& origin);

}  // namespace laplaced
