// Messages from bytes, without protobuf's complaints on standard error.
#pragma once

#include <google/protobuf/stubs/logging.h>

#include "absl/strings/string_view.h"

namespace laplaced::fuzz {

// False if `wire` is no such message, which gRPC answers before any code of ours.
template <typename Message>
bool ParseWire(absl::string_view wire, Message* message) {
  static const google::protobuf::LogSilencer silence;
  // Made at the first use, which would count as memory of an input.
  Message::descriptor();
  return message->ParseFromArray(wire.data(), static_cast<int>(wire.size()));
}

}  // namespace laplaced::fuzz
