// Answers from functions drawn from the posterior (laplace/function_sampler.h): variances and OOD
// scores in the mode SAMPLED, and the functions themselves.
//
// Free functions; thread-safe. They throw LibTorch exceptions; callers wrap them in CatchTorch.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/laplace/draw_moments.h"
#include "server/ood/scores.h"
#include "server/serving/compute_context.h"
#include "server/serving/loaded_model.h"
#include "server/serving/loaded_posterior.h"

namespace laplaced {

struct DrawJob {
  const LoadedModel& model;
  const LoadedPosterior& posterior;
  const ComputeContext& context;  // checked between passes
  uint64_t seed = 0;
  int64_t samples = 0;  // s
};

// Examples whose sums over draws are kept at once: whole blocks of a forward pass. All draws are
// made anew for the next ones.
int64_t DrawGroup(int64_t n_outputs, bool covariance);

// f [n, C] fp64 of the examples `raw`, the first of which is row `first` of the request.
// INVALID_ARGUMENT if a row overflows.
absl::StatusOr<at::Tensor> Outputs(const DrawJob& job, const at::Tensor& raw, int64_t first);

// The job's draws under `value` at examples with outputs f.
absl::StatusOr<DrawMoments> Draw(const DrawJob& job, const Posterior& value, const at::Tensor& raw,
                                 const at::Tensor& f, int64_t first, bool covariance);

// What the named scores need, from the job's draws at the posterior's precision for OOD scores.
absl::StatusOr<OodInputs> DrawForScores(const DrawJob& job, const std::vector<std::string>& scores,
                                        const at::Tensor& raw, const at::Tensor& f, int64_t first);

// Functions 0 ... count - 1 of the job's seed at all examples, [count, B, C] row-major, from their
// outputs f [B, C]. `parameters` as in FunctionDraws.
absl::StatusOr<std::vector<float>> DrawFunctions(const DrawJob& job, const Posterior& value,
                                                 const std::vector<bool>& parameters,
                                                 const at::Tensor& raw, const at::Tensor& f,
                                                 int64_t count);

}  // namespace laplaced
