// Model, likelihood and data in one place: the only place that tells a mean from a sum.
//
// Everything downstream of it (operators, directional curvature, traces) is a *mean over examples*;
// the number of examples N enters once, in the posterior. Holds shared values; thread-safe where
// its Network is (ForwardAndJvp is not).
#pragma once

#include <ATen/ATen.h>

#include <functional>

#include "absl/status/statusor.h"
#include "server/data/dataset.h"
#include "server/linalg/ranks.h"
#include "server/model/input_transform.h"
#include "server/model/likelihood.h"
#include "server/model/manifest.h"
#include "server/model/network.h"

namespace laplaced {

// Called with examples done and total; an error stops the computation with that error.
using ProgressFn = std::function<absl::Status(int64_t done, int64_t total)>;

// f(x) [B, C] of a chunk of examples, in place of the network's own forward pass: for those who
// want to see more of the same pass.
using ForwardFn =
    std::function<absl::StatusOr<at::Tensor>(const at::Tensor& x, const at::Tensor& targets)>;

// Of several ranks (server/linalg/ranks.h), each has all but its own share of the data the same.
// Rows are numbered in the whole data everywhere, and a rank looks at those that it has; results
// are about all of them, and the same on all ranks.
struct EmpiricalRisk {
  Network network;
  Likelihood likelihood;
  Manifest manifest;
  Dataset data;
  int64_t chunk_size =
      256;  // examples that go through the network at once; no result depends on it beyond rounding

  const Ranks* ranks = &OneRank();  // must outlive the risk

  int64_t size() const { return data.total(); }
  // Of this rank's share, as if there were no other.
  EmpiricalRisk Alone() const {
    return {network, likelihood, manifest, {data.inputs, data.targets}, chunk_size};
  }

  // Network inputs for a slice of raw inputs.
  at::Tensor NetworkInput(const at::Tensor& raw) const {
    return ToNetworkInput(raw, manifest, network.dtype());
  }

  // Mean loss over all examples, nats. FAILED_PRECONDITION if it is not finite (names the first
  // example).
  absl::StatusOr<double> MeanLoss(const ProgressFn& progress = nullptr,
                                  const ForwardFn& forward = nullptr) const;
};

// Into which chunks a curvature product cuts a batch of n > 0 examples: about equal ones of at most
// risk.chunk_size examples, and of so few that the largest intermediate result takes 4 MB (but no
// fewer than 4). Results that leave the caches, in memory that is fetched anew every time, cost
// more than small batches do. Throws LibTorch exceptions.
int64_t ProductChunk(const EmpiricalRisk& risk, int64_t n);

// Sums curvature products over examples, [P, m] fp64, over all ranks too; in between they travel in
// the network's precision, which they were computed in.
absl::Status SumProducts(const EmpiricalRisk& risk, at::Tensor& sums);

}  // namespace laplaced
