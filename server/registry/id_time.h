// The times in ids, which keep them in order when clocks are not. Free functions; thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace laplaced {

// The time in an id that NewId (repository.h) made; none for other names.
absl::optional<absl::Time> TimeOfId(absl::string_view id);

// From now on times of new ids are after that of `id`, which another process may have made, with a
// clock that has been set back since. Names without a time change nothing.
void KeepNewIdsAfter(absl::string_view id);

// For the next id: now, or a millisecond after the last one. Never the same twice in a process.
absl::Time NextIdTime();

// "20260102t030405.678z".
std::string IdTimeText(absl::Time time);

}  // namespace laplaced
