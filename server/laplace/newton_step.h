// A Newton step of the training objective (regularised_objective.h) that does not trust the batch
// it was computed on: moves a checkpoint closer to its mode, or says that it cannot.
//
// Conjugate gradients on B1 choose directions. How far to go along them is decided by
//   SINGLE        B1 itself: plain conjugate gradients, whose slopes and curvatures are biased
//   EQUAL_BUDGET  plain conjugate gradients on B1 and B2 taken together as one batch
//   DEBIASED      B2, which is independent (conjugate_gradients.h)
//   ORACLE        plain conjugate gradients on all training examples but the held-out ones
//
// Held-out examples, in none of these batches, are cut into two halves at random. The mean loss of
// the first, the *choosing* half, at theta + x_k picks the number of steps k in [0, K]; being a
// minimum over K + 1 candidates it flatters the winner, so the second, the *judging* half, measures
// the loss before and after. A step counts as an improvement only if k > 0 and the mean loss on the
// judging half falls. Held-out losses are without the weight decay.
//
// Everything is one process's (risk.ranks has size 1). Batches come from the seed (sampler.h).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/curvature/empirical_risk.h"
#include "server/curvature/output_factor.h"
#include "server/laplace/fit.h"
#include "server/linalg/conjugate_gradients.h"

namespace laplaced {

enum class NewtonVariant { kSingle, kEqualBudget, kDebiased, kOracle };

// Whether it looks at B2.
bool UsesSecondBatch(NewtonVariant variant);

struct NewtonOptions {
  NewtonVariant variant = NewtonVariant::kDebiased;
  CurvatureKind curvature = CurvatureKind::kGgn;  // or HESSIAN
  int64_t direction_batch_size = 1024;            // |B1|; not looked at by ORACLE
  int64_t curvature_batch_size = 4096;            // |B2|; EQUAL_BUDGET and DEBIASED only
  // Training examples that are held out, if there is no data set of held-out examples.
  int64_t held_out_size = 2048;
  double damping = 1e-3;    // added to the curvature, as in conjugate_gradients.h
  int64_t max_steps = 20;   // K, of conjugate gradients
  double tolerance = 1e-4;  // relative residual at which they end earlier
  uint64_t seed = 0;
};

// The checkpoint (step 0) or the iterate after `step` directions. Slopes and curvatures are of the
// regularised objective, damping included, along the unit vector of the direction that led here, at
// the iterate before; NaN where they were not measured.
struct NewtonTrace {
  int64_t step = 0;
  double slope_b1 = 0, curvature_b1 = 0;  // on the batch of conjugate gradients
  double slope_b2 = 0, curvature_b2 = 0;  // on B2; DEBIASED only
  bool skipped = false;                   // the direction had no positive curvature on B2
  double batch_loss = 0;                  // mean loss of the batch of conjugate gradients
  double choosing_loss = 0;               // mean loss of the choosing half
};

// Of the judging half.
struct HeldOutQuality {
  double loss = 0;      // mean, nats
  double accuracy = 0;  // categorical likelihood; NaN otherwise
};

struct NewtonResult {
  std::vector<NewtonTrace> trace;  // K' + 1 entries, K' <= max_steps
  CgEnd end = CgEnd::kSteps;       // why conjugate gradients ended
  int64_t skipped = 0;
  int64_t chosen = 0;          // k; 0: no iterate is better than the checkpoint
  at::Tensor parameters;       // theta + x_k [P], in the network's precision; x_0 = 0
  double relative_length = 0;  // ||x_k|| / ||theta||
  HeldOutQuality before, after;
  double change = 0;                 // after.loss - before.loss
  double change_standard_error = 0;  // of the mean of the paired differences
  int64_t choosing_count = 0, judging_count = 0;
  bool improved = false;
  std::vector<std::string> warnings;
};

// Directions that conjugate gradients choose on `rows`, and with `second` rows how far to go along
// them by these.
struct NewtonPath {
  CgResult chosen_on_first;
  absl::optional<DirectionSteps> on_second;

  const DirectionSteps& path() const { return on_second ? *on_second : chosen_on_first.path; }
};
// `on_product` is told of every product; `second` undefined: none. Takes damping, max_steps,
// tolerance and curvature of the options.
absl::StatusOr<NewtonPath> FindNewtonPath(
    const EmpiricalRisk& risk, const at::Tensor& first, const at::Tensor& second,
    const NewtonOptions& options,
    const std::function<absl::Status(bool on_second, int64_t products)>& on_product = nullptr);

// INVALID_ARGUMENT with a field path under "options." or "train_dataset_id"/"held_out_dataset_id";
// FAILED_PRECONDITION for a Gaussian likelihood without a noise.
absl::Status CheckNewton(const EmpiricalRisk& risk, const Dataset& held_out,
                         const NewtonOptions& options);

// `held_out` may be empty: then training examples are held out. REQUIRES: CheckNewton is OK, and
// one rank. Replaces parameters inside risk.network while it runs: give it a clone. Progress may
// cancel; its error ends the run within one product. FAILED_PRECONDITION if a loss of the
// checkpoint is not finite.
absl::StatusOr<NewtonResult> RunNewton(const EmpiricalRisk& risk, const Dataset& held_out,
                                       const NewtonOptions& options,
                                       const FitProgressFn& progress = nullptr);

// One line for people: "held-out loss 0.512 -> 0.431 nats (change -0.081 +- 0.004, 1024 examples),
// accuracy 81.2 % -> 84.0 %, 7 of 20 steps".
std::string Summary(const NewtonResult& result);

}  // namespace laplaced
