// Kronecker-factored curvature: its eigenbases from one batch, its eigenvalues from another.
//
// For the weight of a linear or convolutional layer, dW = sum over positions t of g_t a_t', the
// mean curvature of the block is taken to be S (x) A with
//   A = mean over examples of sum_t a_t a_t'                      [in, in]
//   S = mean over examples of 1/T sum_t sum_r g_rt g_rt'          [out, out]
// where r runs over the columns of the output factor (output_factor.h), so that S carries the
// likelihood's Hessian (Martens & Grosse 2015; Grosse & Martens 2016 for convolutions). Every other
// parameter tensor of at most kDenseLimit elements (biases, scales of batch norm, shared weights)
// gets its exact dense block, larger ones their exact diagonal.
//
// With the eigenvectors of the factors (or of the dense block) as basis, eigenvalues are measured
// on other examples: from their factors, (u'A u)(v'S v), or exactly, as the mean curvature along
// u (x) v (the correction of EKFAC, George et al. 2018, on an independent batch). Both are unbiased
// for the bases of another batch, in which the factors' own eigenvalues are not.
//
// Bases and eigenvalues are fp64. Functions on values; thread-safe.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "absl/status/statusor.h"
#include "server/curvature/empirical_risk.h"
#include "server/curvature/jacobian_products.h"
#include "server/curvature/output_factor.h"

namespace laplaced {

inline constexpr int64_t kDenseLimit = 1024;

enum class BlockKind { kKronecker, kDense, kDiagonal };

// The orthonormal eigenbasis of one parameter tensor's block.
struct BlockBasis {
  BlockKind kind = BlockKind::kDiagonal;
  int64_t rows = 0, columns = 0;  // of the weight seen as a matrix; [numel, 1] if not Kronecker
  at::Tensor left;                // [rows, rows], eigenvectors of S or of the dense block
  at::Tensor right;               // [columns, columns], eigenvectors of A; Kronecker only

  // Coordinates of vectors [..., numel] in the basis, and back, in the vectors' precision.
  at::Tensor ToBasis(const at::Tensor& vectors) const;
  at::Tensor FromBasis(const at::Tensor& coordinates) const;
};

// Eigenvalues of all blocks, as means over `count` examples.
struct BlockEigenvalues {
  int64_t count = 0;
  std::vector<at::Tensor> left;   // Kronecker: v'S v [rows]; otherwise the eigenvalues [numel]
  std::vector<at::Tensor> right;  // Kronecker: u'A u [columns]; otherwise undefined
  std::vector<at::Tensor> exact;  // [numel] each; empty if not measured exactly

  // The eigenvalues themselves, [numel] for each block.
  std::vector<at::Tensor> Values() const;
  // As if the other's examples had been measured too.
  void Merge(const BlockEigenvalues& other);
};

struct BlockBases {
  std::vector<BlockBasis> bases;  // one per parameter tensor
  BlockEigenvalues biased;        // of the same examples, by factors
};

// The kind and shape of every parameter tensor's block, without a basis: one pass for one example.
absl::StatusOr<std::vector<BlockBasis>> FindBlockKinds(const Network& network,
                                                       const CapturePlan& plan);

// From the examples `rows` [n].
absl::StatusOr<BlockBases> FindBlockBases(const EmpiricalRisk& risk, const CapturePlan& plan,
                                          const at::Tensor& rows, const CurvatureSpec& curvature,
                                          const ProgressFn& progress = nullptr);

// Along given bases, on the examples `rows` [n].
absl::StatusOr<BlockEigenvalues> MeasureBlocks(const EmpiricalRisk& risk, const CapturePlan& plan,
                                               const at::Tensor& rows,
                                               const std::vector<BlockBasis>& bases, bool exact,
                                               const CurvatureSpec& curvature,
                                               const ProgressFn& progress = nullptr);

}  // namespace laplaced
