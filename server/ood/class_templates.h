// What the probabilities of in-distribution examples look like, one template for every class: the
// mean of p over the validation examples that are predicted as that class (Hendrycks et al. 2022).
// A value; not synchronised. Functions throw LibTorch exceptions.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/statusor.h"
#include "server/laplace/tensor_map.h"

namespace laplaced {

struct ClassTemplates {
  at::Tensor counts;  // [C] fp64, examples behind each template
  at::Tensor means;   // [C, C] fp64; rows without examples are zero

  explicit ClassTemplates(int64_t n_classes);

  // f [B, C], logits.
  void Add(const at::Tensor& f);

  bool empty() const;

  // min_c KL(softmax(f) || template c) over the classes that have one, nats: [B]. REQUIRES: not
  // empty.
  at::Tensor LeastDivergence(const at::Tensor& f) const;

  void PutInto(TensorMap& tensors) const;
};

// Empty templates if PutInto has not been there; DATA_LOSS if they are not for `n_classes`.
absl::StatusOr<ClassTemplates> TakeClassTemplates(const TensorMap& tensors, int64_t n_classes);

}  // namespace laplaced
