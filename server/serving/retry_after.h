// Errors that say when it is worth trying again. Free functions on values; thread-safe.
#pragma once

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace laplaced {

inline constexpr char kRetryPayloadUrl[] = "laplaced/retry_seconds";

// `status` with a time in seconds, cut to [0, one day]; NaN is 0.
inline absl::Status WithRetryAfter(absl::Status status, double seconds) {
  constexpr double kMaxSeconds = 24 * 3600;
  const double clamped = seconds >= 0 ? std::min(seconds, kMaxSeconds) : 0;
  status.SetPayload(kRetryPayloadUrl, absl::Cord(absl::StrCat(clamped)));
  return status;
}

// Seconds, or none.
inline absl::optional<double> RetryAfter(const absl::Status& status) {
  const absl::optional<absl::Cord> text = status.GetPayload(kRetryPayloadUrl);
  double seconds = 0;
  if (!text || !absl::SimpleAtod(std::string(*text), &seconds)) return absl::nullopt;
  return seconds;
}

}  // namespace laplaced
