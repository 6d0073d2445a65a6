// Typed values out of one JSON object that a user wrote: model.json and what is inside.
//
// The first problem is remembered and the rest still read, so that callers need no check after each
// value; Finish gives it back. Keys that nobody asked for are errors. Not thread-safe.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace laplaced {

class JsonObjectReader {
 public:
  // Messages begin with "<file>: <prefix><key>: ". `file` and `object` must outlive the reader.
  JsonObjectReader(const std::string& file, const std::string& prefix, const nlohmann::json& object)
      : file_(file), prefix_(prefix), object_(object) {}

  // The value of `key`, or null if it is absent (an error if `required`).
  const nlohmann::json* Find(const std::string& key, bool required) {
    known_.push_back(key);
    const auto it = object_.find(key);
    if (it != object_.end()) return &*it;
    if (required) Fail(key, "is required");
    return nullptr;
  }

  std::string Text(const std::string& key, bool required) {
    const nlohmann::json* value = Find(key, required);
    if (value == nullptr) return "";
    if (!value->is_string()) return Fail(key, "expected a string"), "";
    return value->get<std::string>();
  }

  double Positive(const std::string& key, bool required, bool zero_allowed = false) {
    const nlohmann::json* value = Find(key, required);
    if (value == nullptr) return 0;
    const double number = value->is_number() ? value->get<double>() : -1;
    if (!std::isfinite(number) || number < 0 || (number == 0 && !zero_allowed)) {
      return Fail(key, zero_allowed ? "expected a number >= 0" : "expected a number > 0"), 0;
    }
    return number;
  }

  int64_t Count(const std::string& key, bool required) {
    const nlohmann::json* value = Find(key, required);
    if (value == nullptr) return 0;
    if (!value->is_number_integer() || value->get<double>() < 1 || value->get<double>() > 9e18) {
      return Fail(key, "expected a positive whole number"), 0;
    }
    return value->get<int64_t>();
  }

  template <typename T, typename Accept>
  std::vector<T> List(const std::string& key, bool required, const char* expected, Accept accept) {
    const nlohmann::json* value = Find(key, required);
    if (value == nullptr) return {};
    std::vector<T> list;
    if (!value->is_array()) return Fail(key, expected), list;
    for (const nlohmann::json& item : *value) {
      if (!accept(item)) return Fail(key, expected), list;
      list.push_back(item.get<T>());
    }
    return list;
  }

  void Fail(const std::string& key, const std::string& problem) {
    if (!error_.ok()) return;
    error_ = absl::FailedPreconditionError(absl::StrCat(file_, ": ", prefix_, key, ": ", problem));
  }

  absl::Status Finish() {
    for (const auto& [key, unused] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), key) == known_.end()) Fail(key, "unknown key");
    }
    return error_;
  }

 private:
  const std::string& file_;
  const std::string prefix_;
  const nlohmann::json& object_;
  std::vector<std::string> known_;
  absl::Status error_;
};

}  // namespace laplaced
