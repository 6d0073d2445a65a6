// Streaming mean and variance of vectors of one length, by Chan's parallel form of Welford's
// algorithm in fp64: splitting or reordering the data changes nothing but rounding.
//
// A sample may stand for one example or be the mean over `weight` of them; means are over examples
// either way, and the standard error comes from the spread of the samples. A value; not
// synchronised.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "server/linalg/ranks.h"

namespace laplaced {

struct RunningMoments {
  int64_t count = 0;    // examples
  int64_t samples = 0;  // as many, or fewer if samples are means over several
  at::Tensor mean;      // [m] fp64
  at::Tensor m2;        // [m] fp64, sum over samples of weight * squared deviation

  // Adds the rows of `values` [n, m], each the mean over `weight` examples.
  void Add(const at::Tensor& values, int64_t weight = 1);
  // As if the other's samples had been added too.
  void Merge(const RunningMoments& other);
  // Of all ranks' samples, of vectors of `width` numbers; this rank may have none.
  absl::StatusOr<RunningMoments> OverRanks(const Ranks& ranks, int64_t width) const;
  // Of the mean, [m]; infinite for fewer than two samples.
  at::Tensor StandardError() const;
};

}  // namespace laplaced
