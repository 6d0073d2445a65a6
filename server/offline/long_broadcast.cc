#include "server/offline/long_broadcast.h"

#include "absl/strings/str_cat.h"
#include "server/linalg/status_macros.h"

namespace laplaced {
namespace {

// What every message begins with.
constexpr char kSearching = '?';
constexpr char kFound = '=';

}  // namespace

absl::Status LongBroadcast::StillSearching() {
  if (Clock::now() - last_ < interval_) return absl::OkStatus();
  std::string message(1, kSearching);
  LAPLACED_RETURN_IF_ERROR(BroadcastText(ranks_, message));
  last_ = Clock::now();
  return absl::OkStatus();
}

absl::Status LongBroadcast::Finish(const std::atomic<bool>& stop, std::string& text) {
  std::string message = absl::StrCat(std::string(1, kFound), text);
  do {
    LAPLACED_RETURN_IF_ERROR(BroadcastText(ranks_, message));
    if (ranks_.rank() != 0 && stop.load()) {
      return absl::CancelledError("stopped while it waited for what rank 0 imports");
    }
  } while (message[0] == kSearching);
  text = message.substr(1);
  return absl::OkStatus();
}

}  // namespace laplaced
