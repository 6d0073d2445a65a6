// A request for a Newton step (server/laplace/newton_step.h) on a model of the registry.
#pragma once

#include <cstdint>
#include <string>

#include "absl/types/optional.h"

namespace laplaced {

// As in the API; zero, an empty text or nothing means the default that
// laplace/v1/posterior.proto documents.
struct NewtonRequest {
  std::string model;
  int64_t version = 0;
  std::string train_dataset_id;
  std::string held_out_dataset_id;  // empty: training examples are held out
  bool keep_worse = false;          // writes a version although the held-out loss does not fall

  std::string variant;    // "", "debiased", "single", "equal_budget", "oracle"
  std::string curvature;  // "", "ggn", "hessian"
  int64_t direction_batch_size = 0;
  int64_t curvature_batch_size = 0;
  int64_t held_out_size = 0;
  absl::optional<double> damping;
  int64_t max_steps = 0;
  double tolerance = 0;
  uint64_t seed = 0;
};

}  // namespace laplaced
