// The names of Python objects that a pickle of weights may mention, and what each stands for.
//
// Nothing is ever imported or called: a name decides how its arguments are read, and a name that is
// not here is refused. Free functions, thread-safe.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "formats/stored_element.h"

namespace laplaced {

enum class TorchGlobal {
  kOrderedDict,
  kRebuildTensor,     // (storage, offset, sizes, strides [, ...]): files of every age
  kRebuildParameter,  // (tensor, requires_grad, hooks)
  kStorage,           // names an element type
  // Read as an object that holds no weights, whatever its arguments say: versions, options of the
  // training, numbers of NumPy, counters of schedulers, which checkpoints keep beside the weights.
  kOpaque,
};

// `name` is "module.object". Nothing if it is not allowed.
absl::optional<TorchGlobal> FindTorchGlobal(absl::string_view name);

// Of a kStorage name, "torch.FloatStorage".
absl::optional<StoredElement> ElementOfStorage(absl::string_view name);

}  // namespace laplaced
