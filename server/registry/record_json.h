// One way to list a record's fields, for reading and writing them as JSON alike.
//
// A record type has a function template `VisitFields(Record&, Visitor&)` that calls
// `visitor("field_name", record.field)` once per field; FieldWriter and FieldReader are its
// visitors. Fields are texts, numbers, truth values, records, and vectors of these. Numbers
// round-trip bit for bit. Values; not synchronised.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/registry/sealed_json.h"

namespace laplaced {

// Collects fields into a JSON object. Keeps the first error: INTERNAL for a number that JSON cannot
// hold (NaN, infinity), naming the field.
class FieldWriter {
 public:
  template <typename T>
  void operator()(const std::string& name, const T& value) {
    object_[name] = Encode(value, name);
  }

  const Json& object() const { return object_; }
  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  Json Encode(const T& value, const std::string& path) {
    if constexpr (std::is_floating_point_v<T>) {
      if (!std::isfinite(value)) Fail(path, "is not a finite number and cannot be stored");
      return value;
    } else if constexpr (std::is_arithmetic_v<T> || std::is_convertible_v<T, std::string>) {
      return value;
    } else {
      return EncodeCompound(value, path);
    }
  }
  template <typename T>
  Json EncodeCompound(const std::vector<T>& values, const std::string& path) {
    Json array = Json::array();
    for (size_t i = 0; i < values.size(); ++i) {
      array.push_back(Encode(values[i], absl::StrCat(path, "[", i, "]")));
    }
    return array;
  }
  template <typename Record>
  Json EncodeCompound(Record record, const std::string& path) {
    FieldWriter fields;
    VisitFields(record, fields);
    if (!fields.status_.ok()) Fail(absl::StrCat(path, "."), fields.status_.message());
    return fields.object_;
  }

  void Fail(absl::string_view path, absl::string_view problem);

  Json object_ = Json::object();
  absl::Status status_;
};

// Fills fields from a JSON object. Keeps the first error, DATA_LOSS: a field that is missing, of
// another type or out of range. Fields that nobody asks for are ignored. `object` must outlive the
// reader.
class FieldReader {
 public:
  // Whether a missing field is an error, or keeps the value that it has (for records of an older
  // format, which did not know it). Holds for nested records too.
  enum class Missing { kRefuse, kKeep };

  explicit FieldReader(const Json& object, Missing missing = Missing::kRefuse)
      : object_(object), missing_(missing) {}

  template <typename T>
  void operator()(const std::string& name, T& value) {
    const auto found = object_.find(name);
    if (found != object_.end()) {
      Decode(*found, name, value);
    } else if (missing_ == Missing::kRefuse) {
      Fail(name, "is missing");
    }
  }

  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  void Decode(const Json& json, const std::string& path, T& value) {
    if constexpr (std::is_floating_point_v<T>) {
      if (!json.is_number()) return Fail(path, "is not a number");
      value = json.get<T>();
    } else if constexpr (std::is_same_v<T, bool>) {
      if (!json.is_boolean()) return Fail(path, "is neither true nor false");
      value = json.get<T>();
    } else if constexpr (std::is_integral_v<T>) {
      if (!json.is_number_integer()) return Fail(path, "is not an integer");
      if (!Fits<T>(json)) return Fail(path, "is out of range");
      value = json.get<T>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (!json.is_string()) return Fail(path, "is not a text");
      value = json.get<std::string>();
    } else {
      DecodeCompound(json, path, value);
    }
  }
  template <typename T>
  void DecodeCompound(const Json& json, const std::string& path, std::vector<T>& values) {
    if (!json.is_array()) return Fail(path, "is not an array");
    values.assign(json.size(), T());
    for (size_t i = 0; i < values.size() && status_.ok(); ++i) {
      Decode(json[i], absl::StrCat(path, "[", i, "]"), values[i]);
    }
  }
  template <typename Record>
  void DecodeCompound(const Json& json, const std::string& path, Record& record) {
    if (!json.is_object()) return Fail(path, "is not an object");
    FieldReader fields(json, missing_);
    VisitFields(record, fields);
    if (!fields.status_.ok()) Fail(absl::StrCat(path, "."), fields.status_.message());
  }
  template <typename T>
  static bool Fits(const Json& json) {
    using Limits = std::numeric_limits<T>;
    if (json.is_number_unsigned()) {
      return json.get<uint64_t>() <= static_cast<uint64_t>(Limits::max());
    }
    const int64_t number = json.get<int64_t>();
    if (number >= 0) return static_cast<uint64_t>(number) <= static_cast<uint64_t>(Limits::max());
    return std::is_signed_v<T> && number >= static_cast<int64_t>(Limits::min());
  }

  void Fail(absl::string_view path, absl::string_view problem);

  const Json& object_;
  const Missing missing_;
  absl::Status status_;
};

}  // namespace laplaced
