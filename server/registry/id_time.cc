#include "server/registry/id_time.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"

namespace laplaced {
namespace {

constexpr char kFormat[] = "%E4Y%m%dt%H%M%E3Sz";
constexpr size_t kLength = 20;

// Milliseconds since 1970 of the last id, this process's or another's.
std::atomic<int64_t> last_ms{0};

}  // namespace

absl::optional<absl::Time> TimeOfId(absl::string_view id) {
  const std::vector<absl::string_view> parts = absl::StrSplit(id, '-');
  absl::Time time;
  if (parts.size() != 3 || parts[1].size() != kLength ||
      !absl::ParseTime(kFormat, parts[1], &time, nullptr)) {
    return absl::nullopt;
  }
  return time;
}

void KeepNewIdsAfter(absl::string_view id) {
  const absl::optional<absl::Time> time = TimeOfId(id);
  if (!time) return;
  const int64_t ms = absl::ToUnixMillis(*time);
  int64_t last = last_ms.load();
  while (last < ms && !last_ms.compare_exchange_weak(last, ms)) {
  }
}

absl::Time NextIdTime() {
  const int64_t now_ms = absl::ToUnixMillis(absl::Now());
  int64_t last = last_ms.load();
  int64_t ms;
  do {
    ms = std::max(now_ms, last + 1);
  } while (!last_ms.compare_exchange_weak(last, ms));
  return absl::FromUnixMillis(ms);
}

std::string IdTimeText(absl::Time time) {
  return absl::FormatTime(kFormat, time, absl::UTCTimeZone());
}

}  // namespace laplaced
