// Ways to the variance of the outputs, what each costs, and which one AUTO takes.
//
//   EXACT        every output's variance, by one reverse pass per output
//   TOP_CLASSES  the same for the m outputs with the largest logits of each example only
//   SAMPLED      from s functions drawn from the posterior, one forward-mode pass each
//   LAST_LAYER   as EXACT, with all parameters but those of the last layer held at the mode
//
// The cost model counts multiply-adds and working memory. With B examples, M multiply-adds of a
// forward pass of one of them, P parameters, and W multiply-adds that take one row of a Jacobian
// into V (P K for K directions), R rows cost
//   B [M + R (2 M + W) + R^2 P]            EXACT: R = C; TOP_CLASSES: R = m and one more M;
//                                          LAST_LAYER: R = C, P, W and the 2 M of its layer alone
//   s [2 W + 3 B M]                        SAMPLED: a draw of the parameters, then forward mode
// once for every precision that SAMPLED has to serve; parameters outside captured layers add R M B
// for their own reverse passes. FLOPs are twice that. It is an estimate for choosing, not a
// promise: matrix products run at many times the speed of small operations.
//
// No LibTorch here: the API's enums map to these. Pure functions; thread-safe.
#pragma once

#include <cstdint>

namespace laplaced {

enum class VarianceMode { kAuto, kExact, kTopClasses, kSampled, kLastLayer };

inline constexpr int64_t kDefaultTopClasses = 16;  // m
inline constexpr int64_t kDefaultSamples = 64;     // s: a relative standard error of 18 %

// AUTO takes no mode whose working memory is estimated above the first, and a request that names a
// mode is refused above the second.
inline constexpr double kAutoBytes = 1024.0 * 1024 * 1024, kMostBytes = 2 * kAutoBytes;

struct VarianceProblem {
  int64_t batch = 1;                  // B
  int64_t block = 1;                  // examples that are differentiated at once
  int64_t n_outputs = 0;              // C
  int64_t n_parameters = 0;           // P
  int64_t largest_parameter = 0;      // elements of the largest parameter tensor
  int64_t n_tensors = 1;              // parameter tensors; a layerwise residual keeps R^2 for each
  int64_t generic_parameters = 0;     // elements outside captured layers
  int64_t last_layer_parameters = 0;  // elements
  // Elements of one output's gradient at all captured layers together, and at the largest.
  int64_t gradient_numel = 0, largest_gradient = 0;
  double forward_macs = 0;  // M
  double row_macs = 0;      // W
  int64_t element_bytes = 4;
  int64_t threads = 1;     // tiles of Jacobians in memory at once
  int64_t precisions = 1;  // at which SAMPLED has to draw
};

struct VarianceCost {
  double flops = 0;
  double bytes = 0;  // at the most at one time, beside model and posterior
};

// `count` is m or s; ignored by the other modes. REQUIRES: mode is not AUTO.
VarianceCost CostOf(VarianceMode mode, int64_t count, const VarianceProblem& problem);

// What AUTO runs: EXACT, unless its memory does not fit or it costs more than twice SAMPLED with
// kDefaultSamples draws; then TOP_CLASSES with kDefaultTopClasses if `allow_top_classes`, else
// SAMPLED. Up to kDefaultSamples outputs, EXACT is taken whenever it fits: it needs no more passes
// than there would be draws, and has no sampling error.
VarianceMode ChooseVarianceMode(const VarianceProblem& problem, bool allow_top_classes);

// sqrt(2 / s), the relative standard error of a variance over s draws.
double VarianceRelativeError(int64_t samples);

}  // namespace laplaced
