#include "formats/torch_pickle.h"

#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/pickle_opcodes.h"
#include "formats/pickle_stack.h"

namespace laplaced {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxValues = size_t{4} << 20;
constexpr size_t kMaxNameBytes = 200;
constexpr size_t kMaxArguments = 16;

constexpr char kAdvice[] =
    "this reader takes tensors and plain values only and executes nothing; save the weights alone: "
    "torch.save(model.state_dict(), FILE)";

// One pass over the opcodes. Errors inside do not say where; Run does.
class Decoder {
 public:
  explicit Decoder(absl::string_view bytes) : bytes_(bytes) {}

  absl::StatusOr<Pickle> Run() {
    while (true) {
      const size_t at = next_;
      uint8_t opcode = 0;
      absl::Status status = Take(&opcode);
      if (status.ok() && opcode == kStop) return Finish();
      if (status.ok()) status = Execute(opcode);
      if (status.ok() && stack_.size() > kMaxValues) status = TooManyValues();
      if (!status.ok()) {
        return Error(absl::StrCat("pickle, byte ", at, ": ", status.message()));
      }
    }
  }

 private:
  static absl::Status Error(absl::string_view what) { return absl::InvalidArgumentError(what); }
  static absl::Status TooManyValues() {
    return Error(absl::StrCat("more than ", kMaxValues, " values"));
  }

  absl::StatusOr<Pickle> Finish() {
    Pickle pickle;
    if (!stack_.TakeLast(&pickle.root, &pickle.values)) {
      return Error("pickle: expected one value at the end");
    }
    pickle.names = std::move(names_);
    pickle.size = next_;
    return pickle;
  }

  absl::Status TakeBytes(uint64_t size, absl::string_view* out) {
    if (size > bytes_.size() - next_) {
      return Error(absl::StrCat("needs ", size, " bytes more, there are ", bytes_.size() - next_));
    }
    *out = bytes_.substr(next_, static_cast<size_t>(size));
    next_ += static_cast<size_t>(size);
    return absl::OkStatus();
  }

  // A little-endian number.
  template <typename T>
  absl::Status Take(T* out) {
    absl::string_view bytes;
    if (absl::Status status = TakeBytes(sizeof *out, &bytes); !status.ok()) return status;
    std::memcpy(out, bytes.data(), sizeof *out);
    return absl::OkStatus();
  }

  // Bytes behind their length, which is a T.
  template <typename T>
  absl::Status TakeCounted(absl::string_view* out) {
    T size = 0;
    if (absl::Status status = Take(&size); !status.ok()) return status;
    return TakeBytes(size, out);
  }

  absl::Status TakeLine(absl::string_view* out) {
    const size_t end = bytes_.find('\n', next_);
    if (end == absl::string_view::npos) return Error("the line of a name does not end");
    *out = bytes_.substr(next_, end - next_);
    next_ = end + 1;
    return absl::OkStatus();
  }

  absl::Status Execute(uint8_t opcode);
  absl::Status ExecuteNumber(uint8_t opcode);
  absl::Status ExecuteText(uint8_t opcode);
  absl::Status ExecuteContainer(uint8_t opcode);
  absl::Status PushName(absl::string_view module, absl::string_view object);
  absl::Status Call(bool new_object);
  absl::Status CallOrderedDict(const std::vector<uint32_t>& arguments);
  absl::Status SetState();
  absl::Status Extend(Kind kind, const std::vector<uint32_t>& items);

  const absl::string_view bytes_;
  size_t next_ = 0;
  PickleStack stack_;
  std::vector<std::unique_ptr<std::string>> names_;
  std::unordered_map<std::string, uint32_t> known_names_;  // place of the value
  size_t copied_ = 0;                                      // items, by calls of OrderedDict
};

absl::Status Decoder::Execute(uint8_t opcode) {
  switch (opcode) {
    case kProto: {
      uint8_t version = 0;
      if (absl::Status status = Take(&version); !status.ok()) return status;
      if (version >= 2 && version <= 5) return absl::OkStatus();
      return Error(absl::StrCat("protocol ", version, ", expected 2 to 5"));
    }
    case kFrame: {  // announces how many bytes belong together, which changes nothing
      uint64_t size = 0;
      return Take(&size);
    }
    case kMark:
      return stack_.Mark();
    case kBinPut: {
      uint8_t key = 0;
      if (absl::Status status = Take(&key); !status.ok()) return status;
      return stack_.Remember(key);
    }
    case kLongBinPut: {
      uint32_t key = 0;
      if (absl::Status status = Take(&key); !status.ok()) return status;
      return stack_.Remember(key);
    }
    case kMemoize:
      return stack_.RememberNext();
    case kBinGet: {
      uint8_t key = 0;
      if (absl::Status status = Take(&key); !status.ok()) return status;
      return stack_.Recall(key);
    }
    case kLongBinGet: {
      uint32_t key = 0;
      if (absl::Status status = Take(&key); !status.ok()) return status;
      return stack_.Recall(key);
    }
    case kGlobal: {
      absl::string_view module, object;
      if (absl::Status status = TakeLine(&module); !status.ok()) return status;
      if (absl::Status status = TakeLine(&object); !status.ok()) return status;
      return PushName(module, object);
    }
    case kStackGlobal: {
      std::vector<uint32_t> names;
      if (absl::Status status = stack_.PopMany(2, &names); !status.ok()) return status;
      const PickleValue& module = stack_.values()[names[0]];
      const PickleValue& object = stack_.values()[names[1]];
      if (module.kind != Kind::kText || object.kind != Kind::kText) {
        return Error("expected two texts as the name of a global");
      }
      return PushName(module.text, object.text);
    }
    case kBinPersId: {
      PickleValue storage;
      storage.kind = Kind::kStorage;
      storage.items.resize(1);
      if (absl::Status status = stack_.Pop(&storage.items[0]); !status.ok()) return status;
      stack_.Push(std::move(storage));
      return absl::OkStatus();
    }
    case kReduce:
      return Call(/*new_object=*/false);
    case kNewObj:
      return Call(/*new_object=*/true);
    case kBuild:
      return SetState();
    default:
      return ExecuteNumber(opcode);
  }
}

absl::Status Decoder::ExecuteNumber(uint8_t opcode) {
  switch (opcode) {
    case kNone:
      stack_.PushKind(Kind::kNone);
      return absl::OkStatus();
    case kNewTrue:
    case kNewFalse:
      stack_.PushInteger(opcode == kNewTrue, Kind::kBool);
      return absl::OkStatus();
    case kBinInt: {
      int32_t number = 0;
      absl::Status status = Take(&number);
      stack_.PushInteger(number);
      return status;
    }
    case kBinInt1: {
      uint8_t number = 0;
      absl::Status status = Take(&number);
      stack_.PushInteger(number);
      return status;
    }
    case kBinInt2: {
      uint16_t number = 0;
      absl::Status status = Take(&number);
      stack_.PushInteger(number);
      return status;
    }
    case kBinFloat: {
      absl::string_view number;
      absl::Status status = TakeBytes(8, &number);
      stack_.PushKind(Kind::kFloat);
      return status;
    }
    case kLong1: {
      absl::string_view number;
      if (absl::Status status = TakeCounted<uint8_t>(&number); !status.ok()) return status;
      if (number.size() > sizeof(int64_t)) {
        stack_.PushText(number, Kind::kBigInteger);
        return absl::OkStatus();
      }
      const bool negative = !number.empty() && (number.back() & 0x80) != 0;
      int64_t value = negative ? -1 : 0;
      std::memcpy(&value, number.data(), number.size());
      stack_.PushInteger(value);
      return absl::OkStatus();
    }
    default:
      return ExecuteText(opcode);
  }
}

absl::Status Decoder::ExecuteText(uint8_t opcode) {
  absl::string_view text;
  absl::Status status;
  switch (opcode) {
    case kBinUnicode:
    case kBinString:
    case kBinBytes:
      status = TakeCounted<uint32_t>(&text);
      break;
    case kShortBinUnicode:
    case kShortBinString:
    case kShortBinBytes:
      status = TakeCounted<uint8_t>(&text);
      break;
    case kBinUnicode8:
    case kBinBytes8:
      status = TakeCounted<uint64_t>(&text);
      break;
    default:
      return ExecuteContainer(opcode);
  }
  stack_.PushText(text);
  return status;
}

absl::Status Decoder::ExecuteContainer(uint8_t opcode) {
  PickleValue value;
  std::vector<uint32_t> items;
  absl::Status status;
  switch (opcode) {
    case kEmptyTuple:
    case kTuple1:
    case kTuple2:
    case kTuple3:
      value.kind = Kind::kTuple;
      status = stack_.PopMany(opcode == kEmptyTuple ? 0 : opcode - kTuple1 + 1, &value.items);
      break;
    case kTuple:
      value.kind = Kind::kTuple;
      status = stack_.PopMarked(&value.items);
      break;
    case kEmptyList:
      value.kind = Kind::kList;
      break;
    case kEmptyDict:
      value.kind = Kind::kDict;
      break;
    case kAppend:
      status = stack_.PopMany(1, &items);
      return status.ok() ? Extend(Kind::kList, items) : status;
    case kAppends:
      status = stack_.PopMarked(&items);
      return status.ok() ? Extend(Kind::kList, items) : status;
    case kSetItem:
      status = stack_.PopMany(2, &items);
      return status.ok() ? Extend(Kind::kDict, items) : status;
    case kSetItems:
      status = stack_.PopMarked(&items);
      return status.ok() ? Extend(Kind::kDict, items) : status;
    default:
      return Error(absl::StrCat("opcode ", PickleOpcodeName(opcode), " is not allowed: ", kAdvice));
  }
  stack_.Push(std::move(value));
  return status;
}

absl::Status Decoder::Extend(Kind kind, const std::vector<uint32_t>& items) {
  PickleValue* container = nullptr;
  if (absl::Status status = stack_.Top(&container); !status.ok()) return status;
  if (container->kind == Kind::kOpaque) return absl::OkStatus();
  if (container->kind != kind) {
    return Error(kind == Kind::kDict ? "sets entries of something that is not a dictionary"
                                     : "appends to something that is not a list");
  }
  if (kind == Kind::kDict && items.size() % 2 != 0) return Error("a key without a value");
  container->items.insert(container->items.end(), items.begin(), items.end());
  return absl::OkStatus();
}

absl::Status Decoder::PushName(absl::string_view module, absl::string_view object) {
  std::string name =
      absl::StrCat(module.substr(0, kMaxNameBytes), ".", object.substr(0, kMaxNameBytes));
  const auto known = known_names_.find(name);
  if (known != known_names_.end()) {
    stack_.PushAgain(known->second);
    return absl::OkStatus();
  }
  const absl::optional<TorchGlobal> global = FindTorchGlobal(name);
  if (!global) {
    return Error(
        absl::StrCat("the object '", absl::CHexEscape(name), "' is not allowed: ", kAdvice));
  }
  names_.push_back(std::make_unique<std::string>(name));
  PickleValue value;
  value.kind = Kind::kName;
  value.global = *global;
  value.text = *names_.back();
  known_names_.emplace(std::move(name), stack_.Push(std::move(value)));
  return absl::OkStatus();
}

absl::Status Decoder::Call(bool new_object) {
  std::vector<uint32_t> parts;
  if (absl::Status status = stack_.PopMany(2, &parts); !status.ok()) return status;
  const PickleValue& callee = stack_.values()[parts[0]];
  const PickleValue& arguments = stack_.values()[parts[1]];
  if (callee.kind != Kind::kName || arguments.kind != Kind::kTuple) {
    return Error("expected the name of a global and a tuple of arguments");
  }
  PickleValue result;
  switch (callee.global) {
    case TorchGlobal::kOrderedDict:
      return CallOrderedDict(std::vector<uint32_t>(arguments.items));
    case TorchGlobal::kStorage:
      return Error(absl::StrCat("'", callee.text, "' is used as a function: ", kAdvice));
    case TorchGlobal::kOpaque:
      result.kind = Kind::kOpaque;
      break;
    case TorchGlobal::kRebuildTensor:
    case TorchGlobal::kRebuildParameter:
      if (new_object) return Error(absl::StrCat("'", callee.text, "' is used as a class"));
      // One tuple may serve any number of calls, each of which copies it.
      if (arguments.items.size() > kMaxArguments) {
        return Error(absl::StrCat("'", callee.text, "' with ", arguments.items.size(),
                                  " arguments, expected at most ", kMaxArguments));
      }
      result.kind = Kind::kCall;
      result.global = callee.global;
      result.items = arguments.items;
      break;
  }
  stack_.Push(std::move(result));
  return absl::OkStatus();
}

// Python 3 makes an empty one and sets its entries; Python 2 gives a list of [key, value] lists.
absl::Status Decoder::CallOrderedDict(const std::vector<uint32_t>& arguments) {
  PickleValue dict;
  dict.kind = Kind::kDict;
  if (arguments.size() > 1) return Error("OrderedDict with more than one argument");
  if (arguments.size() == 1) {
    const PickleValue& pairs = stack_.values()[arguments[0]];
    if (pairs.kind != Kind::kList) return Error("OrderedDict: expected a list of pairs");
    for (const uint32_t place : pairs.items) {
      const PickleValue& pair = stack_.values()[place];
      if ((pair.kind != Kind::kList && pair.kind != Kind::kTuple) || pair.items.size() != 2) {
        return Error("OrderedDict: expected a list of pairs");
      }
      dict.items.insert(dict.items.end(), pair.items.begin(), pair.items.end());
    }
    // One list may serve any number of calls, each of which copies it.
    copied_ += dict.items.size();
    if (copied_ > kMaxValues) return TooManyValues();
  }
  stack_.Push(std::move(dict));
  return absl::OkStatus();
}

// Attributes of an object; those of a dictionary are versions of modules ("_metadata").
absl::Status Decoder::SetState() {
  uint32_t state = 0;
  if (absl::Status status = stack_.Pop(&state); !status.ok()) return status;
  PickleValue* object = nullptr;
  if (absl::Status status = stack_.Top(&object); !status.ok()) return status;
  if (object->kind == Kind::kDict || object->kind == Kind::kOpaque) return absl::OkStatus();
  return Error(absl::StrCat("sets attributes of something that has none here: ", kAdvice));
}

}  // namespace

absl::StatusOr<Pickle> ParseTorchPickle(absl::string_view bytes) { return Decoder(bytes).Run(); }

}  // namespace laplaced
