// The usual ways to a functional variance: every example's Jacobian of all parameters is kept, then
// contracted. What the fast path is compared with.
#pragma once

#include <ATen/ATen.h>

#include "server/model/network.h"

namespace laplaced::bench {

// J [B, C, P] as laplace-torch 0.2.3 gets it: torch.func.jacrev of the batch's outputs, which is
// one vectorised reverse pass (vmap) for all B * C outputs through the graph of the whole batch.
at::Tensor JacobiansByJacrev(const Network& network, const at::Tensor& x);

// J by one reverse pass for each output of each example, through a graph of its own: less work than
// jacrev, without its vectorisation.
at::Tensor JacobiansOneByOne(const Network& network, const at::Tensor& x);

// V [B, C, C] of a low-rank posterior from J, for prior precision `delta` and directions U [P, K]
// with shrinkage s [K], by the two einsums of laplace-torch's LowRankLaplace:
//   V = J J' / delta - (J U / delta) diag(s) (J U / delta)'
at::Tensor VarianceByEinsum(const at::Tensor& jacobians, const at::Tensor& u, const at::Tensor& s,
                            double delta);

}  // namespace laplaced::bench
