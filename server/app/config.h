// laplace.v1.ServerConfig as a value: defaults, reading from JSON and text, checking, printing.
//
// The message's own descriptor is the list of settings: a field added to the .proto can be set
// everywhere at once. Errors are INVALID_ARGUMENT and name the setting, where it came from, what
// was expected and what came. Free functions on values; thread-safe.
#pragma once

#include <google/protobuf/descriptor.h>
#include <laplace/v1/config.pb.h>

#include <string>

#include "absl/status/status.h"

namespace laplaced {

// `http_listen` that opens no port.
inline constexpr char kNoHttp[] = "off";

// Every field set to its default; `registry` and `address_file` are empty.
laplace::v1::ServerConfig DefaultConfig();

// Overwrites what `json` sets; unknown fields are errors. `source` (a file name) is for messages.
absl::Status MergeJson(const std::string& json, const std::string& source,
                       laplace::v1::ServerConfig* config);

// Overwrites one field with what `text` says. `source` is for messages: "--max-queue".
absl::Status SetField(const google::protobuf::FieldDescriptor& field, const std::string& text,
                      const std::string& source, laplace::v1::ServerConfig* config);

// Checks a complete config: ranges, forms, a registry.
absl::Status ValidateConfig(const laplace::v1::ServerConfig& config);

// All fields under their .proto names, one per line.
std::string ConfigJson(const laplace::v1::ServerConfig& config);

}  // namespace laplaced
