// The tensors of a file of weights, by name: what PyTorch's torch.save and safetensors write.
//
// The format is told by the content: PyTorch's ZIP files (1.6 and later; stored or deflated), its
// files of before that, and safetensors. Of a checkpoint with other entries (epoch, optimizer,
// best_prec1) the weights are taken: the entry "state_dict", "model" or "model_state_dict", else
// the outermost dictionary (torch_tensors.h). Names that all begin with "module." (data-parallel
// training) or "_orig_mod." (torch.compile) lose that prefix. Half precision is widened to float32
// and small integers to int32. Strides, offsets and shared storages are followed; every array that
// is returned is row-major and has memory of its own.
//
// Nothing is executed: a pickle is read as data (torch_pickle.h), and whatever is not plain weights
// is refused by name. Every size is checked against the file before memory is taken for it;
// together the arrays take at most 16 times the storages that they lie in. Errors: NOT_FOUND (no
// such file), INVALID_ARGUMENT (anything malformed or not allowed; the message begins with the name
// of the file), RESOURCE_EXHAUSTED (not enough memory). Free functions, thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/array.h"

namespace laplaced {

using Weights = std::map<std::string, Array>;

// `max_bytes` bounds the file, the sum of the arrays and, of a ZIP file, the sum of its unpacked
// members. `name` stands for the file in messages.
absl::StatusOr<Weights> ReadWeights(const std::string& path, const std::string& name,
                                    int64_t max_bytes = kDefaultMaxArrayBytes);

// The same of a file in memory.
absl::StatusOr<Weights> ParseWeights(absl::string_view bytes, const std::string& name,
                                     int64_t max_bytes = kDefaultMaxArrayBytes);

// Whether a file in memory is a TorchScript archive (torch.jit.save), which holds code.
bool IsTorchScript(absl::string_view bytes);

}  // namespace laplaced
