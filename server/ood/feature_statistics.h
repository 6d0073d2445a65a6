// What feature scores remember of the training data: moments of the features by class, and a bank
// of examples.
//
// Gathered batch by batch, in any number of passes, and mergeable: a posterior that takes more data
// goes on from where it was. G is the number of classes with a categorical likelihood and 1
// otherwise, D the number of features. Moments are fp64 and exact over all examples. The bank is
// all examples or, of more than kBankRows, a sample without replacement by seeded priorities, so
// that it depends neither on batch sizes nor on the number of passes. Values; not synchronised.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "server/laplace/tensor_map.h"
#include "server/linalg/ranks.h"

namespace laplaced {

// Rows of the bank, fewer where they would take more than kBankBytes.
inline constexpr int64_t kBankRows = 10'000;
inline constexpr int64_t kBankBytes = int64_t{64} << 20;

struct FeatureStatistics {
  at::Tensor counts;   // [G], examples of each class
  at::Tensor means;    // [G, D]
  at::Tensor scatter;  // [D, D], sum of (phi - mean of its class) (phi - mean of its class)'
  at::Tensor bank;     // [M, D] fp32
  at::Tensor bank_max_logits;  // [M] fp32, max_c f_c
  at::Tensor bank_priorities;  // [M] int64; the M smallest of all examples seen

  int64_t count() const;  // examples seen
  int64_t width() const { return means.size(1); }

  // The mean of all features, [D], and the sum of (phi - mean) (phi - mean)', [D, D].
  at::Tensor GlobalMean() const;
  at::Tensor TotalScatter() const;

  // Of all ranks' examples, which were gathered with the same seed, each rank's after those of the
  // ranks before it; this rank may have none.
  absl::StatusOr<FeatureStatistics> OverRanks(const Ranks& ranks) const;

  void PutInto(TensorMap& tensors) const;
};

// Whether PutInto has been there.
bool HasFeatureStatistics(const TensorMap& tensors);
// DATA_LOSS if something is missing or does not fit together.
absl::StatusOr<FeatureStatistics> TakeFeatureStatistics(const TensorMap& tensors);

class FeatureGatherer {
 public:
  // `first`: the number of the first example to come, of a rank's share of the data.
  FeatureGatherer(int64_t groups, int64_t width, uint64_t seed, int64_t first = 0);
  // Goes on from `start`. REQUIRES: start.width() == width etc. were gathered with the same seed.
  FeatureGatherer(FeatureStatistics start, uint64_t seed);

  // features [B, D] fp64, f [B, C], groups [B] int64 in [0, G): the class of each example, zeros
  // where there is one group only. Throws LibTorch exceptions.
  void Add(const at::Tensor& features, const at::Tensor& f, const at::Tensor& groups);

  FeatureStatistics Finish();

 private:
  void AddMoments(const at::Tensor& features, const at::Tensor& groups);

  FeatureStatistics statistics_;
  const uint64_t seed_;
  int64_t seen_;
};

}  // namespace laplaced
