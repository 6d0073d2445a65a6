// The work of an operation that makes a posterior: fits, updates and calibrations, from checked
// inputs to an artifact on disk. Jobs are values; running one is safe on any thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "server/data/dataset.h"
#include "server/laplace/fit.h"
#include "server/model/feature_layer.h"
#include "server/registry/posterior_record.h"
#include "server/serving/loaded_model.h"
#include "server/serving/loaded_posterior.h"
#include "server/serving/operations.h"

namespace laplaced {

// Everything that a running fit or update owns.
struct FitJob {
  std::shared_ptr<const LoadedModel> model;
  absl::optional<FeatureLayer> features;
  std::shared_ptr<EmpiricalRisk> risk;
  CapturePlan capture;
  Dataset validation;
  FitOptions options;
  PosteriorRecord record;
  absl::optional<UpdateStart> start;              // updates only
  std::shared_ptr<const LoadedPosterior> before;  // keeps the memory that `start` points into
  bool activate = true;
};

// Everything that a running calibration owns.
struct CalibrationJob {
  std::shared_ptr<const LoadedModel> model;
  std::shared_ptr<const LoadedPosterior> before;
  Dataset data;
  PosteriorRecord record;
  bool activate = true;
};

// Writes `folder`. Stops with CANCELLED when the operation is cancelled. Of several ranks, all run
// the same job and rank 0 writes. `checkpoint` may be null.
absl::Status RunFitJob(const FitJob& job, const std::string& folder, OperationHandle& handle,
                       LanczosCheckpoint* checkpoint = nullptr);
absl::Status RunCalibrationJob(const CalibrationJob& job, const std::string& folder,
                               OperationHandle& handle);

}  // namespace laplaced
