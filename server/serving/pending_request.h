// A request between its submission and its answer. Plain data of the batcher; not thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/variant.h"
#include "server/serving/compute_context.h"
#include "server/serving/engine_types.h"
#include "server/serving/model_host.h"

namespace laplaced {

enum class Priority { kInteractive, kBulk };

// Who is asking for what, without the options.
struct BatchRequest {
  std::shared_ptr<const ServedModel> model;  // pinned until `done`
  ArrayView inputs;                          // [B, ...], valid for `model`
  std::shared_ptr<ComputeContext> context;   // REQUIRED
  Priority priority = Priority::kInteractive;
  std::string client;  // requests of different clients take turns
};

// Where a request's time went.
struct BatchTiming {
  double queue_seconds = 0;    // from Submit to `done`, without compute_seconds
  double compute_seconds = 0;  // in computations that took part of the request
};

template <typename Answer>
using BatchDone = std::function<void(absl::StatusOr<Answer>, const BatchTiming&)>;

// Options, the rows answered so far, and whom to tell.
template <typename OptionsType, typename AnswerType>
struct BatchWork {
  using Options = OptionsType;
  using Answer = AnswerType;
  Options options;
  Answer answer;
  BatchDone<Answer> done;
};
using PredictWork = BatchWork<PredictOptions, Prediction>;
using ScoreWork = BatchWork<ScoreOptions, Scores>;

struct PendingRequest {
  BatchRequest request;
  Batching batching;
  absl::variant<PredictWork, ScoreWork> work;
  std::string model;  // "name/3"
  std::string kind;   // which computations take equally long
  std::chrono::steady_clock::time_point submitted;
  // Estimated when it was submitted: of a batch as large as its kind allows, and of a row in one.
  double batch_seconds = 0;
  double seconds_per_row = 0;
  double compute_seconds = 0;
  int64_t next_row = 0;  // first row that no computation has taken yet

  int64_t rows() const { return request.inputs.shape[0]; }
  int64_t rows_left() const { return rows() - next_row; }
};
using PendingPtr = std::shared_ptr<PendingRequest>;

}  // namespace laplaced
