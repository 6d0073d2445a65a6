// Pickles as torch.save writes them, read as data: no object is made, nothing is imported, nothing
// runs.
//
// The opcodes are those that Python's pickle (protocols 2 to 5) needs for dictionaries, lists,
// tuples, numbers, texts, None, and references to names and to storages; every other opcode, and
// every name that torch_globals.h does not list, is refused by name. Values lie in one table and
// refer to each other by place, so that nothing nests on the stack of this process; a pickle may
// have at most 4 million values and 1000 open brackets. Texts point into the pickle's bytes, which
// must outlive the values. Errors: INVALID_ARGUMENT, with the offset of the byte. Pure function,
// thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/torch_globals.h"

namespace laplaced {

struct PickleValue {
  enum class Kind {
    kNone,
    kBool,        // integer
    kInteger,     // integer
    kBigInteger,  // text: its bytes, two's complement, the least significant first
    kFloat,       // its value is not kept
    kText,        // text; bytes too
    kTuple,       // items
    kList,        // items
    kDict,        // items: key, value, key, value, ...
    kName,        // text: "module" and "object" joined by a dot; global
    kStorage,     // items: the persistent id, one tuple
    kCall,        // global: kRebuildTensor or kRebuildParameter; items: the arguments
    kOpaque,      // an object that holds no weights
  };
  Kind kind = Kind::kNone;
  TorchGlobal global = TorchGlobal::kOpaque;
  int64_t integer = 0;
  absl::string_view text;
  std::vector<uint32_t> items;  // places in Pickle::values
};

struct Pickle {
  std::vector<PickleValue> values;
  std::vector<std::unique_ptr<std::string>> names;  // what kName values point to
  uint32_t root = 0;
  size_t size = 0;  // bytes up to and with the end mark

  const PickleValue& Root() const { return values[root]; }
  const PickleValue& Item(const PickleValue& value, size_t i) const {
    return values[value.items[i]];
  }
};

// The pickle at the beginning of `bytes`; what follows it is not looked at.
absl::StatusOr<Pickle> ParseTorchPickle(absl::string_view bytes);

}  // namespace laplaced
