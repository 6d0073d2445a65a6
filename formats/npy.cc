#include "formats/npy.h"

#include <cstring>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "formats/atomic_file.h"
#include "formats/file_handle.h"

namespace laplaced {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr size_t kMagicBytes = 6;
constexpr int64_t kMaxHeaderBytes = 64 << 10;
constexpr size_t kMaxWrittenDimensions = 32;
constexpr size_t kAlignment = 64;

struct Descr {
  const char* text;
  DType dtype;
};

constexpr char kBooleanDescr[] = "|b1";

// The first entry of a type is the one that is written.
constexpr Descr kDescrs[] = {
    {"<f4", DType::kFloat32}, {"<f8", DType::kFloat64}, {"|u1", DType::kUint8},
    {"<i4", DType::kInt32},   {"<i8", DType::kInt64},   {kBooleanDescr, DType::kUint8},
};

absl::Status Malformed(const std::string& name, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", what));
}

absl::StatusOr<DType> ParseDescr(absl::string_view descr) {
  for (const Descr& known : kDescrs) {
    if (descr == known.text) return known.dtype;
  }
  const std::string shown = absl::CHexEscape(descr);
  if (!descr.empty() && descr[0] == '>') {
    return absl::InvalidArgumentError(
        absl::StrCat("big-endian type '", shown, "' is not supported, save it as little-endian"));
  }
  if (descr == "|O" || descr == "O") {
    return absl::InvalidArgumentError(
        "type '|O' (Python objects) is not supported, save an array of numbers");
  }
  return absl::InvalidArgumentError(
      absl::StrCat("type '", shown, "' is not supported, expected one of ",
                   absl::StrJoin(kDescrs, ", ", [](std::string* out, const Descr& known) {
                     absl::StrAppend(out, "'", known.text, "'");
                   })));
}

// Reads the Python dictionary of a header. NumPy writes its keys in alphabetical order, but other
// writers do not, so any order is read.
class HeaderParser {
 public:
  explicit HeaderParser(absl::string_view text) : rest_(text) {}

  absl::StatusOr<NpyHeader> Parse() {
    if (!Take("{")) return Expected("'{'");
    while (!Take("}")) {
      absl::StatusOr<std::string> key = String("a quoted key");
      if (!key.ok()) return key.status();
      if (!seen_.insert(*key).second) {
        return absl::InvalidArgumentError(absl::StrCat("key '", *key, "' appears twice"));
      }
      if (!Take(":")) return Expected("':'");
      if (absl::Status status = Value(*key); !status.ok()) return status;
      if (!Take(",")) {
        if (!Take("}")) return Expected("',' or '}'");
        break;
      }
    }
    SkipSpace();
    if (!rest_.empty()) return Expected("the end");
    for (const char* key : {"descr", "fortran_order", "shape"}) {
      if (seen_.count(key) == 0) {
        return absl::InvalidArgumentError(absl::StrCat("key '", key, "' is missing"));
      }
    }
    return header_;
  }

 private:
  void SkipSpace() { rest_ = absl::StripLeadingAsciiWhitespace(rest_); }

  bool Take(absl::string_view token) {
    SkipSpace();
    return absl::ConsumePrefix(&rest_, token);
  }

  absl::Status Expected(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(
        "expected ", what, ", got ",
        rest_.empty() ? "the end" : absl::StrCat("'", absl::CHexEscape(rest_.substr(0, 20)), "'")));
  }

  absl::StatusOr<std::string> String(absl::string_view what) {
    const char* quote = Take("'") ? "'" : Take("\"") ? "\"" : nullptr;
    if (quote == nullptr) return Expected(what);
    const size_t end = rest_.find(quote);
    if (end == absl::string_view::npos) return Expected("a closing quote");
    std::string text(rest_.substr(0, end));
    rest_.remove_prefix(end + 1);
    return text;
  }

  absl::Status Value(const std::string& key) {
    if (key == "descr") {
      SkipSpace();
      if (!rest_.empty() && rest_[0] == '[') {
        return absl::InvalidArgumentError(
            "structured types are not supported, save one array per field");
      }
      absl::StatusOr<std::string> descr = String("a quoted type");
      if (!descr.ok()) return descr.status();
      absl::StatusOr<DType> dtype = ParseDescr(*descr);
      if (!dtype.ok()) return dtype.status();
      header_.dtype = *dtype;
      header_.boolean = *descr == kBooleanDescr;
      return absl::OkStatus();
    }
    if (key == "fortran_order") {
      if (Take("False")) return absl::OkStatus();
      if (!Take("True")) return Expected("True or False");
      return absl::InvalidArgumentError(
          "fortran_order is not supported, save numpy.ascontiguousarray(...)");
    }
    if (key == "shape") return Shape();
    return absl::InvalidArgumentError(absl::StrCat("unknown key '", absl::CHexEscape(key), "'"));
  }

  absl::Status Shape() {
    if (!Take("(")) return Expected("a tuple for the shape");
    while (!Take(")")) {
      SkipSpace();
      const size_t digits = std::min(rest_.find_first_not_of("0123456789"), rest_.size());
      int64_t size = 0;
      if (!absl::SimpleAtoi(rest_.substr(0, digits), &size)) {
        return Expected("a non-negative size below 2^63");
      }
      rest_.remove_prefix(digits);
      absl::ConsumePrefix(&rest_, "L");  // Python 2 wrote long integers so
      header_.shape.push_back(size);
      if (!Take(",")) {
        if (!Take(")")) return Expected("',' or ')'");
        break;
      }
    }
    return absl::OkStatus();
  }

  absl::string_view rest_;
  std::set<std::string> seen_;
  NpyHeader header_;
};

ByteReader ReaderOf(const OpenedFile& file, const std::string& path) {
  return [fd = file.fd.get(), path](char* out, size_t size) {
    return ReadExactly(fd, out, size, path);
  };
}

absl::Status CheckBytes(const Array& array) {
  absl::StatusOr<int64_t> bytes = NumBytes(array.dtype, array.shape);
  if (!bytes.ok()) return bytes.status();
  if (static_cast<int64_t>(array.bytes.size()) == *bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(DTypeName(array.dtype), " array of shape ",
                                                 ShapeString(array.shape), " needs ", *bytes,
                                                 " bytes, got ", array.bytes.size()));
}

}  // namespace

absl::StatusOr<NpyHeader> ReadNpyHeader(const ByteReader& read, absl::optional<int64_t> total_bytes,
                                        const std::string& name) {
  unsigned char prefix[kMagicBytes + 6];
  constexpr int64_t kShortPrefix = kMagicBytes + 4;
  if (total_bytes && *total_bytes < kShortPrefix) {
    return Malformed(name, absl::StrCat("not a .npy file: it has ", *total_bytes, " bytes"));
  }
  absl::Status status = read(reinterpret_cast<char*>(prefix), kShortPrefix);
  if (!status.ok()) return status;
  if (std::memcmp(prefix, kMagic, kMagicBytes) != 0) {
    return Malformed(name, "not a .npy file: it does not begin with \\x93NUMPY");
  }
  const int major = prefix[6];
  if (major < 1 || major > 3 || prefix[7] != 0) {
    return Malformed(name, absl::StrCat(".npy format version ", major, ".", prefix[7],
                                        " is not supported, expected 1.0, 2.0 or 3.0"));
  }
  int64_t offset = kShortPrefix;
  int64_t length = prefix[8] | prefix[9] << 8;
  if (major > 1) {
    if (total_bytes && *total_bytes < offset + 2) {
      return Malformed(name, "the file ends inside the header");
    }
    status = read(reinterpret_cast<char*>(prefix + offset), 2);
    if (!status.ok()) return status;
    length |= static_cast<int64_t>(prefix[10]) << 16 | static_cast<int64_t>(prefix[11]) << 24;
    offset += 2;
  }
  if (length > kMaxHeaderBytes) {
    return Malformed(
        name, absl::StrCat("header of ", length, " bytes, expected at most ", kMaxHeaderBytes));
  }
  if (total_bytes && length > *total_bytes - offset) {
    return Malformed(name, "the file ends inside the header");
  }
  std::string text(static_cast<size_t>(length), '\0');
  status = read(text.data(), text.size());
  if (!status.ok()) return status;
  absl::StatusOr<NpyHeader> header = HeaderParser(text).Parse();
  if (!header.ok()) {
    return Malformed(name, absl::StrCat("header: ", header.status().message()));
  }
  header->data_offset = offset + length;
  absl::StatusOr<int64_t> bytes = NumBytes(header->dtype, header->shape);
  if (!bytes.ok()) return Malformed(name, bytes.status().message());
  if (total_bytes && *bytes != *total_bytes - header->data_offset) {
    return Malformed(
        name, absl::StrCat(DTypeName(header->dtype), " array of shape ", ShapeString(header->shape),
                           " needs ", *bytes, " bytes after the header, got ",
                           *total_bytes - header->data_offset));
  }
  return header;
}

absl::StatusOr<Array> ReadNpyStream(const ByteReader& read, int64_t total_bytes,
                                    const std::string& name, int64_t max_bytes) {
  absl::StatusOr<NpyHeader> header = ReadNpyHeader(read, total_bytes, name);
  if (!header.ok()) return header.status();
  absl::StatusOr<Array> array = AllocateArray(header->dtype, header->shape, max_bytes);
  if (!array.ok()) {
    return absl::Status(array.status().code(), absl::StrCat(name, ": ", array.status().message()));
  }
  array->boolean = header->boolean;
  absl::Status status = read(array->bytes.data(), array->bytes.size());
  if (!status.ok()) return status;
  return array;
}

absl::StatusOr<Array> ReadNpy(const std::string& path, int64_t max_bytes) {
  absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
  if (!file.ok()) return file.status();
  return ReadNpyStream(ReaderOf(*file, path), file->size, path, max_bytes);
}

absl::StatusOr<NpyHeader> ReadNpyHeader(const std::string& path) {
  absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
  if (!file.ok()) return file.status();
  return ReadNpyHeader(ReaderOf(*file, path), file->size, path);
}

absl::StatusOr<std::string> SerializeNpyHeader(DType dtype, const std::vector<int64_t>& shape,
                                               size_t min_bytes) {
  absl::StatusOr<int64_t> bytes = NumBytes(dtype, shape);
  if (!bytes.ok()) return bytes.status();
  if (shape.size() > kMaxWrittenDimensions) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shape with ", shape.size(), " dimensions, NumPy reads at most ", kMaxWrittenDimensions));
  }
  const char* descr = nullptr;
  for (const Descr& known : kDescrs) {
    if (descr == nullptr && known.dtype == dtype) descr = known.text;
  }
  std::string text = absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (",
                                  absl::StrJoin(shape, ", "), shape.size() == 1 ? ",), }" : "), }");
  const size_t prefix = kMagicBytes + 4;
  if (prefix + text.size() + 1 < min_bytes) text.resize(min_bytes - prefix - 1, ' ');
  const size_t unpadded = prefix + text.size() + 1;
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  text.push_back('\n');
  std::string header(kMagic, kMagicBytes);
  header.append(
      {'\x01', '\x00', static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8)});
  return header + text;
}

absl::StatusOr<std::string> SerializeNpy(const Array& array) {
  if (absl::Status status = CheckBytes(array); !status.ok()) return status;
  absl::StatusOr<std::string> header = SerializeNpyHeader(array.dtype, array.shape);
  if (!header.ok()) return header.status();
  return absl::StrCat(*header, array.bytes);
}

absl::Status WriteNpy(const std::string& path, const Array& array) {
  if (absl::Status status = CheckBytes(array); !status.ok()) return status;
  absl::StatusOr<std::string> header = SerializeNpyHeader(array.dtype, array.shape);
  if (!header.ok()) return header.status();
  return ReplaceFile(path, {*header, array.bytes});
}

}  // namespace laplaced
