#include "formats/torch_tensors.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace laplaced {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxDimensions = 64;  // PyTorch's limit

// Entries of the outermost dictionary that may be the weights.
constexpr absl::string_view kWeightsEntries[] = {"state_dict", "model", "model_state_dict"};

absl::Status Malformed(absl::string_view what) { return absl::InvalidArgumentError(what); }

absl::Status Malformed(absl::string_view name, absl::string_view what) {
  return Malformed(absl::StrCat("tensor '", absl::CHexEscape(name), "': ", what));
}

bool IsCount(const PickleValue& value) {
  return value.kind == Kind::kInteger && value.integer >= 0;
}

absl::StatusOr<TorchStorage> ReadStorage(const Pickle& pickle, const PickleValue& value) {
  if (value.kind != Kind::kStorage) return Malformed("expected a reference to a storage");
  const PickleValue& id = pickle.Item(value, 0);
  // ("storage", type, key, device, elements) and, in old files, what part of another it is.
  const size_t n = id.items.size();
  if (id.kind != Kind::kTuple || n < 5 || n > 6 || pickle.Item(id, 0).text != "storage") {
    return Malformed("expected a storage of five entries");
  }
  const PickleValue& type = pickle.Item(id, 1);
  const PickleValue& key = pickle.Item(id, 2);
  const PickleValue& elements = pickle.Item(id, 4);
  if (type.kind != Kind::kName || type.global != TorchGlobal::kStorage || key.kind != Kind::kText ||
      !IsCount(elements)) {
    return Malformed("expected a storage with a type, a key and a number of elements");
  }
  if (n == 6 && pickle.Item(id, 5).kind != Kind::kNone) {
    return Malformed(
        "a storage that is part of another one, as PyTorch before 0.4 wrote them: load the file in "
        "Python and save it again");
  }
  TorchStorage storage;
  storage.element = *ElementOfStorage(type.text);
  storage.key = key.text;
  storage.elements = elements.integer;
  if (storage.elements > INT64_MAX / StoredSize(storage.element)) {
    return Malformed(absl::StrCat("a storage of ", storage.elements, " elements is too large"));
  }
  return storage;
}

absl::Status ReadSizes(const Pickle& pickle, const PickleValue& value, const std::string& name,
                       const char* what, std::vector<int64_t>* sizes) {
  const auto bad = [&] {
    return Malformed(name, absl::StrCat("expected a tuple of ", what, " that are not negative"));
  };
  if (value.kind != Kind::kTuple) return bad();
  if (value.items.size() > kMaxDimensions) {
    return Malformed(
        name, absl::StrCat(value.items.size(), " dimensions, expected at most ", kMaxDimensions));
  }
  for (size_t i = 0; i < value.items.size(); ++i) {
    if (!IsCount(pickle.Item(value, i))) return bad();
    sizes->push_back(pickle.Item(value, i).integer);
  }
  return absl::OkStatus();
}

// That the last element lies inside the storage, and that none is read twice without end: a tensor
// may not have more elements than its storage.
absl::Status CheckInside(const TorchTensor& tensor) {
  const auto outside = [&] {
    return Malformed(
        tensor.name,
        absl::StrCat("offset ", tensor.offset, ", shape ", ShapeString(tensor.sizes),
                     " and strides ", ShapeString(tensor.strides), " lead out of its storage of ",
                     tensor.storage.elements, " elements"));
  };
  absl::StatusOr<int64_t> count = NumElements(tensor.sizes);
  if (!count.ok()) return Malformed(tensor.name, count.status().message());
  if (tensor.offset > tensor.storage.elements) return outside();
  if (*count == 0) return absl::OkStatus();
  if (*count > tensor.storage.elements) {
    return Malformed(tensor.name, absl::StrCat("shape ", ShapeString(tensor.sizes),
                                               " has more elements than "
                                               "the storage (",
                                               tensor.storage.elements,
                                               "): an expanded tensor; save tensor.contiguous()"));
  }
  int64_t left = tensor.storage.elements - 1 - tensor.offset;
  for (size_t i = 0; i < tensor.sizes.size(); ++i) {
    const int64_t steps = tensor.sizes[i] - 1;
    if (steps == 0 || tensor.strides[i] == 0) continue;
    if (left < 0 || tensor.strides[i] > left / steps) return outside();
    left -= tensor.strides[i] * steps;
  }
  return left < 0 ? outside() : absl::OkStatus();
}

absl::StatusOr<TorchTensor> ReadTensor(const Pickle& pickle, const PickleValue& call,
                                       const std::string& name) {
  const PickleValue* value = &call;
  if (value->global == TorchGlobal::kRebuildParameter) {
    if (value->items.empty()) return Malformed(name, "a parameter without a tensor");
    value = &pickle.Item(*value, 0);
  }
  if (value->kind != Kind::kCall || value->global != TorchGlobal::kRebuildTensor ||
      value->items.size() < 4) {
    return Malformed(name, "expected a storage, an offset, sizes and strides");
  }
  TorchTensor tensor;
  tensor.name = name;
  absl::StatusOr<TorchStorage> storage = ReadStorage(pickle, pickle.Item(*value, 0));
  if (!storage.ok()) return Malformed(name, storage.status().message());
  tensor.storage = *storage;
  const PickleValue& offset = pickle.Item(*value, 1);
  if (!IsCount(offset)) return Malformed(name, "expected an offset that is not negative");
  tensor.offset = offset.integer;
  absl::Status status = ReadSizes(pickle, pickle.Item(*value, 2), name, "sizes", &tensor.sizes);
  if (status.ok()) {
    status = ReadSizes(pickle, pickle.Item(*value, 3), name, "strides", &tensor.strides);
  }
  if (!status.ok()) return status;
  if (tensor.sizes.size() != tensor.strides.size()) {
    return Malformed(name, "expected as many strides as sizes");
  }
  if (status = CheckInside(tensor); !status.ok()) return status;
  return tensor;
}

// The value of a text key; null if there is none.
const PickleValue* Entry(const Pickle& pickle, const PickleValue& dict, absl::string_view key) {
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue& found = pickle.Item(dict, i);
    if (found.kind == Kind::kText && found.text == key) return &pickle.Item(dict, i + 1);
  }
  return nullptr;
}

absl::StatusOr<const PickleValue*> WeightsDictionary(const Pickle& pickle) {
  const PickleValue& root = pickle.Root();
  if (root.kind != Kind::kDict) {
    return Malformed("expected a dictionary of tensors (a state_dict), got something else");
  }
  const PickleValue* weights = nullptr;
  absl::string_view chosen;
  for (const absl::string_view key : kWeightsEntries) {
    const PickleValue* entry = Entry(pickle, root, key);
    if (entry == nullptr || entry->kind != Kind::kDict) continue;
    if (weights != nullptr) {
      return Malformed(absl::StrCat("both '", chosen, "' and '", key,
                                    "' are dictionaries, and only one can be the weights: save the "
                                    "right one alone"));
    }
    weights = entry;
    chosen = key;
  }
  return weights != nullptr ? weights : &root;
}

}  // namespace

absl::StatusOr<std::vector<TorchTensor>> FindTorchTensors(const Pickle& pickle) {
  absl::StatusOr<const PickleValue*> weights = WeightsDictionary(pickle);
  if (!weights.ok()) return weights.status();
  std::vector<TorchTensor> tensors;
  std::set<absl::string_view> names;
  const PickleValue& dict = **weights;
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue& key = pickle.Item(dict, i);
    const PickleValue& value = pickle.Item(dict, i + 1);
    if (key.kind != Kind::kText || value.kind != Kind::kCall) continue;
    if (!names.insert(key.text).second) return Malformed(key.text, "appears twice");
    absl::StatusOr<TorchTensor> tensor = ReadTensor(pickle, value, std::string(key.text));
    if (!tensor.ok()) return tensor.status();
    tensors.push_back(*std::move(tensor));
  }
  if (tensors.empty()) {
    return Malformed(
        "no tensor in the outermost dictionary, nor in its entry 'state_dict', 'model' or "
        "'model_state_dict': save torch.save(model.state_dict(), FILE)");
  }
  return tensors;
}

absl::StatusOr<std::vector<TorchStorage>> FindTorchStorages(const Pickle& pickle) {
  std::vector<TorchStorage> storages;
  std::map<absl::string_view, size_t> places;
  for (const PickleValue& value : pickle.values) {
    if (value.kind != Kind::kStorage) continue;
    absl::StatusOr<TorchStorage> storage = ReadStorage(pickle, value);
    if (!storage.ok()) return storage.status();
    const auto [place, is_new] = places.emplace(storage->key, storages.size());
    if (is_new) {
      storages.push_back(*storage);
      continue;
    }
    const TorchStorage& first = storages[place->second];
    if (first.element != storage->element || first.elements != storage->elements) {
      return Malformed(
          absl::StrCat("storage '", absl::CHexEscape(storage->key), "' is described in two ways"));
    }
  }
  return storages;
}

absl::StatusOr<Array> ReadTorchTensor(const TorchTensor& tensor, absl::string_view storage_bytes) {
  const StoredElement element = tensor.storage.element;
  absl::StatusOr<Array> array = AllocateArray(ReadAs(element), tensor.sizes, INT64_MAX);
  if (!array.ok() || array->bytes.empty()) return array;
  const int64_t stored = StoredSize(element), read = ElementSize(array->dtype);
  // The innermost dimensions that are contiguous are copied at once.
  int64_t run = 1;
  size_t outer = tensor.sizes.size();
  while (outer > 0 && (tensor.strides[outer - 1] == run || tensor.sizes[outer - 1] == 1)) {
    run *= tensor.sizes[--outer];
  }
  std::vector<int64_t> index(outer, 0);
  int64_t from = tensor.offset;
  char* out = array->bytes.data();
  while (true) {
    WidenElements(element, storage_bytes.data() + from * stored, run, out);
    out += run * read;
    size_t d = outer;
    for (; d > 0; --d) {                       // the next place, as an odometer counts
      if (tensor.sizes[d - 1] == 1) continue;  // its stride may be anything
      from += tensor.strides[d - 1];
      if (++index[d - 1] < tensor.sizes[d - 1]) break;
      from -= tensor.strides[d - 1] * tensor.sizes[d - 1];
      index[d - 1] = 0;
    }
    if (d == 0) return array;
  }
}

}  // namespace laplaced
