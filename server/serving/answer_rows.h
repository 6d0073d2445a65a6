// Answers put together and taken apart by rows, for requests that are computed together or in
// parts.
//
// Free functions on values; thread-safe.
#pragma once

#include <cstdint>

#include "server/serving/engine_types.h"

namespace laplaced {

// Appends rows [begin, begin + count) of `from` to `to`, which is either empty
// (default-constructed) or holds rows of the same kind of answer. Not for what belongs to a batch
// as a whole: joint_covariance and function_samples are left out. The variance report is that of
// `from`.
void AppendRows(const Prediction& from, int64_t begin, int64_t count, Prediction& to);
void AppendRows(const Scores& from, int64_t begin, int64_t count, Scores& to);

}  // namespace laplaced
