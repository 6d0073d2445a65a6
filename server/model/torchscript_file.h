// Reading TorchScript from a file, with what is wrong with the file told from what is wrong with
// the disk: LibTorch's own reader takes every file that it is not given for a damaged one.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>

#include "absl/status/statusor.h"

namespace laplaced {

// The module in the file `path`, on the CPU. Errors: FAILED_PRECONDITION (not TorchScript,
// damaged), with `file_name` in front; those of OpenRegularFile and ReadExactly (file_handle.h)
// with the path.
absl::StatusOr<torch::jit::Module> LoadTorchScript(const std::string& path,
                                                   const std::string& file_name);

}  // namespace laplaced
