// The processes that compute one thing together, each on its share of the examples: what the
// statistical core needs to know of them.
//
// Every rank makes the same calls in the same order with tensors of the same shape and type, or all
// of them wait for each other. What comes out has the same bits on every rank, so that decisions
// that follow from it are the same everywhere, whatever processors the ranks run on. A rank that is
// lost ends the calls of all others with UNAVAILABLE (server/distributed/gloo_ranks.h). One call at
// a time.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace laplaced {

class Ranks {
 public:
  virtual ~Ranks() = default;

  virtual int64_t rank() const = 0;  // in [0, size)
  virtual int64_t size() const = 0;

  // `tensor`, contiguous, becomes the sum over all ranks.
  virtual absl::Status Sum(at::Tensor& tensor) const = 0;
  // `tensor`, contiguous, becomes that of rank 0.
  virtual absl::Status Broadcast(at::Tensor& tensor) const = 0;
  // The ranks' parts [n_r, ...], whose first sizes may differ, one after the other.
  virtual absl::StatusOr<at::Tensor> Gather(const at::Tensor& part) const = 0;
};

// A process that computes alone; nothing is copied.
const Ranks& OneRank();

// `text` becomes that of rank 0.
absl::Status BroadcastText(const Ranks& ranks, std::string& text);

// The same on all ranks: OK if all are, else what the first rank with an error says, with its
// number.
absl::Status FirstError(const Ranks& ranks, const absl::Status& mine);

// Which of n things (examples, coordinates) are a rank's: contiguous parts whose sizes differ by at
// most 1.
struct Share {
  int64_t begin = 0, end = 0;

  int64_t size() const { return end - begin; }
};
Share ShareOf(int64_t n, int64_t rank, int64_t size);
inline Share ShareOf(int64_t n, const Ranks& ranks) {
  return ShareOf(n, ranks.rank(), ranks.size());
}

}  // namespace laplaced
