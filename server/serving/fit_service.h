// Fits as operations: checks a request, runs the pipeline of server/laplace on a copy of the model,
// writes the artifact, activates it. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "server/registry/dataset_store.h"
#include "server/registry/posterior_record.h"
#include "server/registry/repository.h"
#include "server/serving/compute_context.h"
#include "server/serving/model_host.h"
#include "server/serving/newton_request.h"
#include "server/serving/operations.h"

namespace laplaced {

// As in the API; zero or absent means the default that laplace/v1/posterior.proto documents.
struct FitRequest {
  std::string model;
  int64_t version = 0;
  std::string train_dataset_id;
  std::string validation_dataset_id;
  bool keep_inactive = false;

  int64_t rank = 0;
  int64_t direction_batch_size = 0;
  int64_t curvature_batch_size = 0;
  std::string debiasing;  // "", "none", "two_batch", "cross_fit", "full_pass"
  std::string residual;   // "", "none", "isotropic", "layerwise", "diagonal"
  uint64_t seed = 0;
  absl::optional<double> prior_precision;
  absl::optional<double> ood_prior_precision;
  double lanczos_tolerance = 0;
  int64_t max_products = 0;
  double target_id_rate = 0;
  int64_t max_validation_examples = 0;
  std::string structure;  // "", "low_rank", "kfac", "last_layer"
  std::string curvature;  // "", "ggn", "mc_fisher", "empirical_fisher", "hessian"
  std::vector<std::string> parameters;
  std::string kfac_eigenvalues;  // "", "factors", "exact"
  std::string prior_method;      // "", "given", "weight_decay", "evidence", "validation"
  double temperature = 0;
  std::string noise_method;  // "", "given", "manifest", "data", "evidence"
  absl::optional<double> sigma_noise;
  double target_relative_standard_error = 0;
  bool variance_correction = false;
  int64_t memory_limit_bytes = 0;
  int64_t fisher_samples = 0;
  std::string feature_layer;
};

// As in the API.
struct UpdateRequest {
  std::string model;
  int64_t version = 0;
  std::string posterior_id;  // empty: the active one
  std::string dataset_id;
  bool keep_inactive = false;
};

// As in the API.
struct CalibrateRequest {
  std::string model;
  int64_t version = 0;
  std::string posterior_id;  // empty: the active one
  std::string dataset_id;
  double target_id_rate = 0;      // 0: as it is
  std::string default_ood_score;  // empty: as it is
  bool keep_inactive = false;
};

class FitService {
 public:
  virtual ~FitService() = default;

  // Checks everything that can be checked before work starts, then starts the operation, unless
  // `caller` wants it no more: reading data may take minutes, and nobody would know of it.
  virtual absl::StatusOr<OperationSnapshot> Start(const FitRequest& request,
                                                  const ComputeContext& caller) = 0;
  // Likewise; adds data to a posterior that exists. What adds to the active posterior replaces that
  // one only: if another has become active meanwhile, the operation ends with ABORTED and the
  // result is kept, inactive.
  virtual absl::StatusOr<OperationSnapshot> StartUpdate(const UpdateRequest& request,
                                                        const ComputeContext& caller) = 0;
  // Likewise; sets the thresholds of a posterior that exists anew.
  virtual absl::StatusOr<OperationSnapshot> StartCalibrate(const CalibrateRequest& request,
                                                           const ComputeContext& caller) = 0;

  // As Start; makes a new version of the model, whose parameters have gone a Newton step.
  virtual absl::StatusOr<OperationSnapshot> StartNewton(const NewtonRequest& request,
                                                        const ComputeContext& caller) = 0;

  // Newest first, without spectra. Unreadable artifacts are listed with their id and a warning that
  // says what is wrong.
  virtual absl::StatusOr<std::vector<PosteriorRecord>> ListPosteriors(const std::string& model,
                                                                      int64_t version) const = 0;
  // Empty id: the active one. NOT_FOUND, FAILED_PRECONDITION (none is active), DATA_LOSS.
  virtual absl::StatusOr<PosteriorRecord> GetPosterior(const std::string& model, int64_t version,
                                                       const std::string& posterior_id) const = 0;
};

// All references must outlive the result.
std::unique_ptr<FitService> MakeFitService(const Repository& repository,
                                           const DatasetStore& datasets, ModelHost& host,
                                           Operations& operations);

class FitCrew;

// The same with fits on all ranks of the crew; updates and calibrations stay on this one.
std::unique_ptr<FitService> MakeCrewFitService(const Repository& repository,
                                               const DatasetStore& datasets, ModelHost& host,
                                               Operations& operations, FitCrew& crew);

}  // namespace laplaced
