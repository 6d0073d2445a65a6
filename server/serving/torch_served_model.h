// ServedModel on LibTorch: validation, the predictive and the scores for one loaded model and one
// posterior.
//
// Requests run in blocks of at most 64 examples (example_blocks.h), in the mode that the request
// names or the cost model chooses (variance_plan.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/laplace/variance_mode.h"
#include "server/serving/loaded_model.h"
#include "server/serving/loaded_posterior.h"
#include "server/serving/model_host.h"

namespace laplaced {

class TorchServedModel : public ServedModel {
 public:
  // `posterior` may be null; `remark` then says why, if there is more to say than that none was
  // fitted. `memory_bytes` is of both.
  TorchServedModel(std::shared_ptr<const LoadedModel> model,
                   std::shared_ptr<const LoadedPosterior> posterior,
                   const ModelHostOptions& options, int64_t memory_bytes,
                   const std::string& remark = "");

  const ModelInfo& info() const override { return info_; }
  std::string posterior_id() const override { return info_.active_posterior_id; }
  const std::shared_ptr<const LoadedModel>& model() const { return model_; }

  absl::Status Validate(const ArrayView& inputs, const PredictOptions& options) const override;
  absl::Status Validate(const ArrayView& inputs, const ScoreOptions& options) const override;
  Batching BatchingOf(const ArrayView& inputs, const PredictOptions& options) const override;
  Batching BatchingOf(const ArrayView& inputs, const ScoreOptions& options) const override;
  absl::StatusOr<Prediction> Predict(const ArrayView& inputs, const PredictOptions& options,
                                     const ComputeContext& context) const override;
  absl::StatusOr<Scores> Score(const ArrayView& inputs, const ScoreOptions& options,
                               const ComputeContext& context) const override;

  // Runs every block size once in the mode that AUTO takes, so that no request pays for first
  // calls.
  absl::Status WarmUp() const;

 private:
  struct Job;

  absl::Status ValidateCommon(const ArrayView& inputs,
                              const std::vector<std::string>& scores) const;
  std::vector<std::string> ScoreNames(const std::vector<std::string>& requested,
                                      VarianceMode mode) const;
  std::vector<ScoreValues> EmptyScores(const std::vector<std::string>& names,
                                       VarianceMode mode) const;

  // Of a request's examples `raw`, the first of which is its row `first`; undefined if no score
  // needs them.
  absl::StatusOr<at::Tensor> Features(const std::vector<std::string>& scores, const at::Tensor& raw,
                                      int64_t first, const ComputeContext& context) const;

  VarianceProblem Problem(int64_t batch) const;
  absl::StatusOr<VarianceReport> Plan(const PredictOptions& options, int64_t batch) const;
  absl::StatusOr<VarianceReport> Plan(const ScoreOptions& options, int64_t batch) const;

  absl::Status PredictFromJacobians(const Job& job, const Posterior& posterior,
                                    const PredictOptions& options, Prediction& out) const;
  absl::Status PredictFromDraws(const Job& job, const Posterior& posterior,
                                const PredictOptions& options, Prediction& out) const;

  std::shared_ptr<const LoadedModel> model_;
  std::shared_ptr<const LoadedPosterior> posterior_;
  ModelHostOptions options_;
  ModelInfo info_;
  std::string remark_;
  std::vector<bool>
      last_layer_;           // of the posterior's parameter tensors; empty if none is uncertain
  VarianceProblem problem_;  // of one example
};

}  // namespace laplaced
