// Which tensors a pickle of torch.save describes, and how their elements lie in their storages.
//
// Internal to this folder; weights_file.h is the interface. Errors: INVALID_ARGUMENT; the message
// names the tensor. Free functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/array.h"
#include "formats/stored_element.h"
#include "formats/torch_pickle.h"

namespace laplaced {

// A run of elements that tensors share.
struct TorchStorage {
  StoredElement element = StoredElement::kFloat32;
  absl::string_view key;  // points into the pickle
  int64_t elements = 0;

  int64_t bytes() const { return elements * StoredSize(element); }
};

// A tensor: its element [i, j, ...] is element offset + i * strides[0] + j * strides[1] + ... of
// the storage, and all of them lie inside.
struct TorchTensor {
  std::string name;
  TorchStorage storage;
  int64_t offset = 0;
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
};

// The tensors of the dictionary of weights: the entry "state_dict", "model" or "model_state_dict"
// of the outermost dictionary if one of them is a dictionary, else the outermost dictionary itself.
// Entries that are no tensors are left out. An error if there is no tensor, or if two of those
// entries are dictionaries.
absl::StatusOr<std::vector<TorchTensor>> FindTorchTensors(const Pickle& pickle);

// The storages that a pickle mentions, each once, in the order of their first mention.
absl::StatusOr<std::vector<TorchStorage>> FindTorchStorages(const Pickle& pickle);

// The elements, row-major, from the bytes of the storage, which must be as many as it says.
// RESOURCE_EXHAUSTED if there is not enough memory.
absl::StatusOr<Array> ReadTorchTensor(const TorchTensor& tensor, absl::string_view storage_bytes);

}  // namespace laplaced
