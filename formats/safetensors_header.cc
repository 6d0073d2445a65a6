#include "formats/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace laplaced::safetensors_internal {
namespace {

using nlohmann::json;

constexpr char kMetadataKey[] = "__metadata__";
// {name: {"shape": [...]}}: nothing legitimate nests deeper.
constexpr int kMaxDepth = 3;

struct Tag {
  const char* text;
  StoredElement element;
};

constexpr Tag kTags[] = {
    {"F32", StoredElement::kFloat32}, {"F64", StoredElement::kFloat64},
    {"U8", StoredElement::kUint8},    {"I32", StoredElement::kInt32},
    {"I64", StoredElement::kInt64},
};

constexpr Tag kNarrowTags[] = {
    {"F16", StoredElement::kFloat16}, {"BF16", StoredElement::kBFloat16},
    {"I16", StoredElement::kInt16},   {"I8", StoredElement::kInt8},
    {"BOOL", StoredElement::kBool},
};

absl::Status Malformed(absl::string_view what) { return absl::DataLossError(what); }

absl::Status Malformed(const std::string& name, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("tensor '", absl::CHexEscape(name), "': ", what));
}

// Parses while it watches what a finished document no longer shows: equal keys and absurd depth.
absl::StatusOr<json> ParseObject(absl::string_view text) {
  std::set<std::string> names;
  std::string repeated;
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) {
      too_deep = true;
      return false;
    }
    if (event == json::parse_event_t::key && depth == 1) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names.insert(name).second) repeated = name;
    }
    return true;
  };
  json object = json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (too_deep) return Malformed("header: JSON is nested too deeply");
  if (object.is_discarded()) return Malformed("header: not valid JSON");
  if (!object.is_object()) return Malformed("header: expected a JSON object");
  if (!repeated.empty()) return Malformed(repeated, "appears twice");
  return object;
}

// A JSON array of non-negative integers.
bool ReadSizes(const json& object, const char* key, std::vector<int64_t>* sizes) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_array()) return false;
  for (const json& size : *found) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > INT64_MAX) return false;
    sizes->push_back(size.get<int64_t>());
  }
  return true;
}

absl::StatusOr<StoredElement> ReadElement(const json& object, const std::string& name,
                                          Elements elements) {
  const auto found = object.find("dtype");
  if (found == object.end() || !found->is_string()) {
    return Malformed(name, "expected a text for dtype");
  }
  const auto& text = found->get_ref<const std::string&>();
  for (const Tag& tag : kTags) {
    if (text == tag.text) return tag.element;
  }
  for (const Tag& tag : kNarrowTags) {
    if (elements == Elements::kAll && text == tag.text) return tag.element;
  }
  return Malformed(
      name, absl::StrCat(
                "dtype '", absl::CHexEscape(text), "' is not supported, expected F32, F64, ",
                elements == Elements::kAll ? "F16, BF16, BOOL, I8, I16, " : "", "U8, I32 or I64"));
}

absl::StatusOr<TensorEntry> ReadTensor(const std::string& name, const json& object,
                                       Elements elements) {
  if (!object.is_object() || object.size() != 3) {
    return Malformed(name, "expected an object with dtype, shape and data_offsets");
  }
  TensorEntry entry;
  entry.name = name;
  absl::StatusOr<StoredElement> stored = ReadElement(object, name, elements);
  if (!stored.ok()) return stored.status();
  entry.stored = *stored;
  entry.dtype = ReadAs(*stored);
  if (!ReadSizes(object, "shape", &entry.shape)) {
    return Malformed(name, "expected an array of sizes for shape");
  }
  std::vector<int64_t> offsets;
  if (!ReadSizes(object, "data_offsets", &offsets) || offsets.size() != 2) {
    return Malformed(name, "expected two offsets for data_offsets");
  }
  entry.begin = offsets[0];
  entry.end = offsets[1];
  absl::StatusOr<int64_t> read_bytes = NumBytes(entry.dtype, entry.shape);
  if (!read_bytes.ok()) return Malformed(name, read_bytes.status().message());
  const int64_t bytes = *read_bytes / ElementSize(entry.dtype) * StoredSize(entry.stored);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    return Malformed(name, absl::StrCat("data_offsets ", entry.begin, " to ", entry.end, ", but ",
                                        object["dtype"].get<std::string>(), " ",
                                        ShapeString(entry.shape), " needs ", bytes, " bytes"));
  }
  return entry;
}

absl::Status ReadMetadata(const json& object, std::map<std::string, std::string>* metadata) {
  if (!object.is_object()) return Malformed("header: expected an object for __metadata__");
  for (const auto& [key, value] : object.items()) {
    if (!value.is_string()) {
      return Malformed(
          absl::StrCat("header: expected a text for __metadata__ '", absl::CHexEscape(key), "'"));
    }
    metadata->emplace(key, value.get<std::string>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Parts> SplitFile(absl::string_view file) {
  const int64_t size = static_cast<int64_t>(file.size());
  if (size < kLengthBytes) {
    return Malformed(absl::StrCat("a file of ", size, " bytes has no header"));
  }
  uint64_t length;
  std::memcpy(&length, file.data(), sizeof length);
  const int64_t possible = std::min(kMaxHeaderBytes, size - kLengthBytes);
  if (length > static_cast<uint64_t>(possible)) {
    return Malformed(absl::StrCat("header of ", length, " bytes, expected at most ", possible));
  }
  return Parts{file.substr(kLengthBytes, length), file.substr(kLengthBytes + length)};
}

absl::StatusOr<Header> ParseHeader(absl::string_view text, int64_t data_bytes, Elements elements) {
  absl::StatusOr<json> object = ParseObject(text);
  if (!object.ok()) return object.status();
  Header header;
  for (const auto& [name, value] : object->items()) {
    if (name == kMetadataKey) {
      absl::Status status = ReadMetadata(value, &header.metadata);
      if (!status.ok()) return status;
      continue;
    }
    absl::StatusOr<TensorEntry> entry = ReadTensor(name, value, elements);
    if (!entry.ok()) return entry.status();
    header.tensors.push_back(*std::move(entry));
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const TensorEntry& a, const TensorEntry& b) {
              return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
            });
  int64_t expected = 0;
  for (const TensorEntry& entry : header.tensors) {
    if (entry.begin != expected) {
      return Malformed(entry.name, absl::StrCat("begins at ", entry.begin, ", expected ", expected,
                                                entry.begin < expected ? " (overlap)" : " (gap)"));
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    return Malformed(
        absl::StrCat("the tensors need ", expected, " bytes of data, the file has ", data_bytes));
  }
  return header;
}

absl::StatusOr<std::string> SerializeHeader(const Header& header) {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  if (!header.metadata.empty()) object[kMetadataKey] = header.metadata;
  std::set<std::string> names = {kMetadataKey};
  for (const TensorEntry& entry : header.tensors) {
    if (entry.name.empty() || !names.insert(entry.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor name '", absl::CHexEscape(entry.name),
                                                     "' is empty, reserved or given twice"));
    }
    const char* dtype = nullptr;
    for (const Tag& tag : kTags) {
      if (ReadAs(tag.element) == entry.dtype) dtype = tag.text;
    }
    object[entry.name] = {
        {"dtype", dtype}, {"shape", entry.shape}, {"data_offsets", {entry.begin, entry.end}}};
  }
  try {
    return object.dump();
  } catch (const nlohmann::json::exception&) {
    return absl::InvalidArgumentError("a tensor name or metadata text is not valid UTF-8");
  }
}

}  // namespace laplaced::safetensors_internal
