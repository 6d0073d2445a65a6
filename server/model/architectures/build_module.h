// A module of a named architecture from tensors of a file, as if PyTorch had exported it.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/weights_file.h"
#include "server/model/architecture.h"

namespace laplaced {

// Parameters and buffers have the names that the file gives them, and the order of their first use,
// whatever the file's. In training mode, as every new module; nothing in it depends on that.
// FAILED_PRECONDITION if the tensors do not fit the architecture, the shape of inputs or the number
// of outputs; the message lists what is missing, left over or of another shape. Throws LibTorch
// exceptions.
absl::StatusOr<torch::jit::Module> BuildModule(const Architecture& architecture, Weights weights,
                                               const std::vector<int64_t>& input_shape,
                                               int64_t n_outputs);

}  // namespace laplaced
