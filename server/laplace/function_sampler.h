// Functions drawn from the posterior: f(x) + J(x) (theta - theta_map), theta ~ N(theta_map, Sigma).
//
// Draw i of a seed is one function, whatever it is asked about: the noise behind it is made from
// (seed, i) alone, so two requests with one seed see the same functions, however many of them they
// take and however the batch is cut (up to the rounding of a forward pass). J (theta - theta_map)
// takes one forward-mode pass for each draw and no Jacobian: memory does not grow with the number
// of outputs. Works for every structure.
//
// Thread-safe. Forward-mode passes need a network that nobody else touches (network.h): the sampler
// makes its own copy with the first draw, and one thread at a time uses it.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "server/laplace/structure.h"
#include "server/model/network.h"

namespace laplaced {

struct FunctionDraws {
  uint64_t seed = 0;
  int64_t count = 0;  // draws 0 ... count - 1
  // As in LinearizeRequest: the others stay at the mode.
  std::vector<bool> parameters;
};

// Standard normal noise of draw `draw`, [P].
at::Tensor DrawNoise(uint64_t seed, int64_t draw, int64_t n_parameters, at::ScalarType dtype);

class FunctionSampler {
 public:
  // Takes J (theta - theta_map) [b, C] of draw `draw` at the batch's block number `block`, in the
  // network's precision.
  using Visit = std::function<void(int64_t draw, size_t block, const at::Tensor& deviation)>;

  // `network` is that of the uncertain parameters.
  explicit FunctionSampler(Network network) : network_(std::move(network)) {}

  // Visits all draws of all blocks, [b, input_shape...] each, draw by draw. `check` is asked
  // between passes; what it returns ends the work unless it is OK.
  absl::Status ForEachDraw(const Structure& structure, const Precisions& at,
                           const std::vector<at::Tensor>& blocks, const FunctionDraws& draws,
                           const Visit& visit, const std::function<absl::Status()>& check) const;

 private:
  const Network network_;
  mutable std::mutex mutex_;
  mutable absl::optional<Network> own_;  // guarded by mutex_
};

}  // namespace laplaced
