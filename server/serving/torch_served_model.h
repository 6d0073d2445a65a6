// ServedModel on LibTorch: validation, the predictive and the scores for one loaded model and one
// posterior.
//
// Requests run in blocks of at most 64 examples, each padded to a power of two by repeating its
// first example, because oneDNN's primitive cache grows without bound over varied batch sizes;
// padding never changes another example's answer.
#pragma once

#include <memory>
#include <string>

#include "server/serving/loaded_model.h"
#include "server/serving/loaded_posterior.h"
#include "server/serving/model_host.h"

namespace laplaced {

class TorchServedModel : public ServedModel {
 public:
  // `posterior` may be null; `remark` then says why, if there is more to say than that none was
  // fitted.
  TorchServedModel(std::shared_ptr<const LoadedModel> model,
                   std::shared_ptr<const LoadedPosterior> posterior,
                   const ModelHostOptions& options, const std::string& remark = "");

  const ModelInfo& info() const override { return info_; }
  std::string posterior_id() const override { return info_.active_posterior_id; }
  const std::shared_ptr<const LoadedModel>& model() const { return model_; }

  absl::Status Validate(const ArrayView& inputs, const PredictOptions& options) const override;
  absl::Status Validate(const ArrayView& inputs, const ScoreOptions& options) const override;
  absl::StatusOr<Prediction> Predict(const ArrayView& inputs, const PredictOptions& options,
                                     const ComputeContext& context) const override;
  absl::StatusOr<Scores> Score(const ArrayView& inputs, const ScoreOptions& options,
                               const ComputeContext& context) const override;

  // Runs every block size once, so that no request pays for first calls.
  absl::Status WarmUp() const;

 private:
  absl::Status ValidateCommon(const ArrayView& inputs,
                              const std::vector<std::string>& scores) const;
  std::vector<std::string> ScoreNames(const std::vector<std::string>& requested) const;
  std::vector<ScoreValues> EmptyScores(const std::vector<std::string>& names) const;

  std::shared_ptr<const LoadedModel> model_;
  std::shared_ptr<const LoadedPosterior> posterior_;
  ModelHostOptions options_;
  ModelInfo info_;
  std::string remark_;
};

}  // namespace laplaced
