// Per-example Jacobians, piece by piece: what a posterior needs to know of them is gathered without
// ever holding them all.
//
// ForEachJacobian takes a batch through the network and back, a few examples at a time on each
// thread, and hands every parameter's per-example Jacobian to a sink that contracts and drops it as
// soon as the gradients at its layer are there (reverse_sweep.h). With an output factor L_n [C, R]
// the pieces are those of L_n' J_n instead: with the factors of output_factor.h, everything about
// the curvature J' L L' J. R is C without one. Parameters outside captured layers take one reverse
// pass per example and row. All exact, no sampling. Memory beyond the network's own grows with the
// size of a block, not with the batch, and never holds a Jacobian of all parameters. Functions of
// their arguments; thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "server/model/layer_capture.h"
#include "server/model/network.h"

namespace laplaced {

// Examples [begin, begin + count) of a batch.
struct ExampleRange {
  int64_t begin;
  int64_t in_block;  // where ParameterUse finds the first of them
  int64_t count;
};

// Called from several threads at once, never for the same example at the same time. Gradient mode
// is off.
class JacobianSink {
 public:
  virtual ~JacobianSink() = default;

  // Before anything else: the outputs f [B, C], whose values are there when ForEachJacobian
  // returns.
  virtual void Start(const at::Tensor& /*f*/) {}

  // A parameter that one captured layer uses once, before its Jacobian is formed. True if the sink
  // took all it needs from `use`; then Add is not called for these examples.
  virtual bool AddUse(size_t /*parameter*/, const ExampleRange& /*range*/,
                      const ParameterUse& /*use*/, const at::Tensor& /*grads*/) {
    return false;
  }

  // jacobian [count, R, numel], contiguous, of network.parameters()[parameter], examples [begin,
  // begin + count).
  virtual void Add(size_t parameter, int64_t begin, const at::Tensor& jacobian) = 0;
};

// L [b, C, R] for examples [begin, begin + b) with outputs f [b, C]. Called from several threads at
// once.
using OutputFactorFn = std::function<at::Tensor(const at::Tensor& f, int64_t begin)>;

struct JacobianOptions {
  OutputFactorFn output_factor;  // none: the plain Jacobian
  int64_t columns = 0;           // R, with an output factor
  // Which parameters are wanted, one flag for each; empty: all. The others are neither computed nor
  // given to the sink, and the reverse pass stops where nothing more is wanted.
  std::vector<bool> parameters;
  int64_t tile_bytes = 8 << 20;      // of one parameter's Jacobian
  int64_t gradient_bytes = 3 << 20;  // of the gradients at one layer, for each thread
};

// `x` [B, input_shape...] in the network's precision.
absl::Status ForEachJacobian(const Network& network, const CapturePlan& plan, const at::Tensor& x,
                             const JacobianOptions& options, JacobianSink& sink);

struct JacobianProducts {
  at::Tensor f;  // [B, C] in the network's precision
  at::Tensor t;  // T_n = J_n U: [B, R, K] fp64
  at::Tensor g;  // G_n = J_n J_n': [B, R, R] fp64
};

// f, T and G of a batch for directions U [P, K], K >= 0, row-major in the network's precision.
// Linear layers with one row per example take a closed form that never forms their Jacobian.
absl::StatusOr<JacobianProducts> ComputeJacobianProducts(const Network& network,
                                                         const CapturePlan& plan,
                                                         const at::Tensor& x,
                                                         const at::Tensor& directions,
                                                         const JacobianOptions& options = {});

// The same by groups of parameters: t [L, B, R, K] and g [L, B, R, R], where parameter i adds to
// group_of[i] in [0, L).
absl::StatusOr<JacobianProducts> ComputeGroupedProducts(
    const Network& network, const CapturePlan& plan, const at::Tensor& x,
    const at::Tensor& directions, const std::vector<int64_t>& group_of, int64_t n_groups,
    const JacobianOptions& options = {});

// How many examples to give to one call when the caller wants to look up between calls (progress,
// cancellation): at most 64, fewer for networks with many outputs and parameters, so that a call
// takes seconds at the most.
int64_t ExamplesPerStep(const Network& network);

}  // namespace laplaced
