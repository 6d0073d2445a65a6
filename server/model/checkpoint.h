// The checkpoint file of a model: TorchScript, or tensors of an architecture that model.json names.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/model/manifest.h"
#include "server/model/network.h"

namespace laplaced {

// Reads the file, TorchScript unless `manifest` names an architecture, and makes a network of it;
// messages begin with `file_name`. Which format the file has is told by its content
// (formats/weights_file.h). FAILED_PRECONDITION if it is damaged, is the one where the other was
// expected (the message says which key of model.json to add or to remove), does not fit the
// architecture, or is not suitable (Network::FromModule).
absl::StatusOr<Network> LoadCheckpoint(const std::string& path, const std::string& file_name,
                                       const Manifest& manifest);

// The module that LoadCheckpoint makes a network of, one of its own at every call: to be changed
// and saved. Errors: those of reading it.
absl::StatusOr<torch::jit::Module> ReadCheckpoint(const std::string& path,
                                                  const std::string& file_name,
                                                  const Manifest& manifest);

}  // namespace laplaced
