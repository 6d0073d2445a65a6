// What a stream of rows is made of: a source of batches, a sink of answers, and how the stream may
// be started and stopped. Plain values and callbacks, which run on the thread that made the call.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/types.h"

namespace laplace::client {

// The next rows, [b, input_shape...]; no rows end the stream. Asked for nothing after that, and
// after an error.
using RowSource = std::function<absl::StatusOr<Array>()>;

// The answer to rows [first_row, first_row + b). An error stops the stream.
using ScoresSink = std::function<absl::Status(int64_t first_row, Scores scores)>;
using PredictionSink = std::function<absl::Status(int64_t first_row, Prediction prediction)>;

struct StreamOptions {
  // Number of the first row that the source yields, for the sink and for messages.
  int64_t first_row = 0;
  // The posterior that must answer: FAILED_PRECONDITION if another one is active. Empty: the active
  // one.
  std::string posterior_id = {};
  // Asked several times a second while the call waits; true ends it with CANCELLED.
  std::function<bool()> stop = {};
};

}  // namespace laplace::client
