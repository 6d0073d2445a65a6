#include "server/curvature/kronecker_factors.h"

#include <algorithm>
#include <mutex>

#include "server/curvature/directional_curvature.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// Sums over examples of what the blocks are made of.
struct FactorSums {
  at::Tensor left;   // S, dense block or diagonal
  at::Tensor right;  // A
};

BlockKind KindWithoutFactors(int64_t numel) {
  return numel <= kDenseLimit ? BlockKind::kDense : BlockKind::kDiagonal;
}

// Which parameters come as outer products: found out on one example.
class KindSink : public JacobianSink {
 public:
  explicit KindSink(const Network& network) : bases(network.parameters().size()) {
    for (size_t i = 0; i < bases.size(); ++i) {
      const int64_t numel = network.parameters()[i].value.numel();
      bases[i].kind = KindWithoutFactors(numel);
      bases[i].rows = numel;
      bases[i].columns = 1;
    }
  }
  bool AddUse(size_t parameter, const ExampleRange& range, const ParameterUse& use,
              const at::Tensor& grads) override {
    const auto products = use.AsOuterProducts(grads, range.in_block, range.count);
    if (!products) return false;
    bases[parameter].kind = BlockKind::kKronecker;
    bases[parameter].rows = products->gradients.size(3);
    bases[parameter].columns = products->inputs.size(2);
    return true;
  }
  void Add(size_t, int64_t, const at::Tensor&) override {}

  std::vector<BlockBasis> bases;
};

class FactorSink : public JacobianSink {
 public:
  explicit FactorSink(const std::vector<BlockBasis>& bases) : bases_(bases), sums(bases.size()) {
    for (size_t i = 0; i < bases.size(); ++i) {
      const BlockBasis& b = bases[i];
      sums[i].left = b.kind == BlockKind::kDiagonal ? at::zeros({b.rows}, at::kDouble)
                                                    : at::zeros({b.rows, b.rows}, at::kDouble);
      if (b.kind == BlockKind::kKronecker) {
        sums[i].right = at::zeros({b.columns, b.columns}, at::kDouble);
      }
    }
  }

  bool AddUse(size_t parameter, const ExampleRange& range, const ParameterUse& use,
              const at::Tensor& grads) override {
    if (bases_[parameter].kind != BlockKind::kKronecker) return false;
    const auto products = use.AsOuterProducts(grads, range.in_block, range.count);
    const int64_t positions = products->inputs.size(1);
    const at::Tensor a = products->inputs.reshape({-1, products->inputs.size(2)});
    const at::Tensor g = products->gradients.reshape({-1, products->gradients.size(3)});
    const at::Tensor s = at::mm(g.t(), g) / static_cast<double>(positions);
    const at::Tensor right = at::mm(a.t(), a);
    const std::lock_guard<std::mutex> lock(mutex_);
    sums[parameter].left.add_(s);
    sums[parameter].right.add_(right);
    return true;
  }

  void Add(size_t parameter, int64_t, const at::Tensor& jacobian) override {
    const at::Tensor flat = jacobian.reshape({-1, jacobian.size(2)});
    const at::Tensor sum = bases_[parameter].kind == BlockKind::kDense
                               ? at::mm(flat.t(), flat)
                               : flat.square().sum(at::IntArrayRef({0}), false, at::kDouble);
    const std::lock_guard<std::mutex> lock(mutex_);
    sums[parameter].left.add_(sum);
  }

 private:
  const std::vector<BlockBasis>& bases_;
  std::mutex mutex_;

 public:
  std::vector<FactorSums> sums;
};

// Squared coordinates of L'J in given bases, summed.
class ExactSink : public JacobianSink {
 public:
  explicit ExactSink(const std::vector<BlockBasis>& bases) : bases_(bases) {
    for (const BlockBasis& b : bases) sums.push_back(at::zeros({b.rows * b.columns}, at::kDouble));
  }
  void Add(size_t parameter, int64_t, const at::Tensor& jacobian) override {
    const at::Tensor sum = bases_[parameter].ToBasis(jacobian).square().sum(at::IntArrayRef({0, 1}),
                                                                            false, at::kDouble);
    const std::lock_guard<std::mutex> lock(mutex_);
    sums[parameter].add_(sum);
  }

 private:
  const std::vector<BlockBasis>& bases_;
  std::mutex mutex_;

 public:
  std::vector<at::Tensor> sums;
};

// Hands those of the examples `rows` that are here to the sink.
absl::Status Pass(const EmpiricalRisk& risk, const CapturePlan& plan, const at::Tensor& rows,
                  const CurvatureSpec& curvature, const ProgressFn& progress, JacobianSink& sink) {
  const at::Tensor here = risk.data.Here(rows);
  const int64_t n = here.size(0);
  const int64_t chunk = std::min(risk.chunk_size, ExamplesPerStep(risk.network));
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const at::Tensor part = here.narrow(0, begin, std::min(chunk, n - begin));
    const at::Tensor x = risk.NetworkInput(risk.data.inputs.index_select(0, part));
    LAPLACED_RETURN_IF_ERROR(ForEachJacobian(risk.network, plan, x,
                                             CurvatureFactorOptions(risk, curvature, part), sink));
    if (progress) LAPLACED_RETURN_IF_ERROR(progress(begin + part.size(0), n));
  }
  return absl::OkStatus();
}

// Sums over all ranks, which must be finite.
absl::Status SumOverRanks(const Ranks& ranks, std::vector<at::Tensor>& sums) {
  for (at::Tensor& sum : sums) {
    if (!sum.defined()) continue;
    LAPLACED_RETURN_IF_ERROR(ranks.Sum(sum));
    if (sum.isfinite().all().item<bool>()) continue;
    return absl::FailedPreconditionError(
        "the measured curvature is not finite: the network's derivatives overflow or do not exist "
        "on some of these examples");
  }
  return absl::OkStatus();
}

absl::Status SumOverRanks(const Ranks& ranks, std::vector<FactorSums>& factors) {
  std::vector<at::Tensor> sums;  // the same tensors, which sums change in place
  for (const FactorSums& f : factors) sums.insert(sums.end(), {f.left, f.right});
  return SumOverRanks(ranks, sums);
}

// The eigenvectors of a symmetric matrix, largest eigenvalue first. Ranks on other processors may
// find other ones where eigenvalues are close: all take those of rank 0.
absl::StatusOr<at::Tensor> Eigenvectors(const Ranks& ranks, const at::Tensor& matrix) {
  at::Tensor vectors = std::get<1>(at::linalg_eigh(matrix, "L")).flip(1).contiguous();
  LAPLACED_RETURN_IF_ERROR(ranks.Broadcast(vectors));
  return vectors;
}

// The diagonal of the factors in given bases.
BlockEigenvalues DiagonalInBases(const std::vector<BlockBasis>& bases,
                                 const std::vector<FactorSums>& sums, int64_t count) {
  BlockEigenvalues eigenvalues;
  eigenvalues.count = count;
  const auto diagonal = [&](const at::Tensor& basis, const at::Tensor& sum) {
    const at::Tensor q = basis.to(at::kDouble);
    return (q * at::mm(sum, q)).sum(0) / static_cast<double>(count);
  };
  for (size_t i = 0; i < bases.size(); ++i) {
    const bool is_diagonal = bases[i].kind == BlockKind::kDiagonal;
    eigenvalues.left.push_back(is_diagonal ? sums[i].left / static_cast<double>(count)
                                           : diagonal(bases[i].left, sums[i].left));
    eigenvalues.right.push_back(bases[i].right.defined() ? diagonal(bases[i].right, sums[i].right)
                                                         : at::Tensor());
  }
  return eigenvalues;
}

at::Tensor WeightedMean(const at::Tensor& a, const at::Tensor& b, double share_of_b) {
  return a + (b - a) * share_of_b;
}

}  // namespace

at::Tensor BlockBasis::ToBasis(const at::Tensor& vectors) const {
  if (kind == BlockKind::kDiagonal) return vectors;
  const at::Tensor l = left.to(vectors.scalar_type());
  if (kind == BlockKind::kDense) return at::matmul(vectors, l);
  const at::Tensor matrices = vectors.reshape({-1, rows, columns});
  const at::Tensor turned =
      at::matmul(at::matmul(l.t(), matrices), right.to(vectors.scalar_type()));
  return turned.reshape(vectors.sizes());
}

at::Tensor BlockBasis::FromBasis(const at::Tensor& coordinates) const {
  if (kind == BlockKind::kDiagonal) return coordinates;
  const at::Tensor l = left.to(coordinates.scalar_type());
  if (kind == BlockKind::kDense) return at::matmul(coordinates, l.t());
  const at::Tensor matrices = coordinates.reshape({-1, rows, columns});
  const at::Tensor turned =
      at::matmul(at::matmul(l, matrices), right.to(coordinates.scalar_type()).t());
  return turned.reshape(coordinates.sizes());
}

std::vector<at::Tensor> BlockEigenvalues::Values() const {
  if (!exact.empty()) return exact;
  std::vector<at::Tensor> values;
  for (size_t i = 0; i < left.size(); ++i) {
    values.push_back(right[i].defined() ? at::outer(left[i], right[i]).flatten() : left[i]);
  }
  return values;
}

void BlockEigenvalues::Merge(const BlockEigenvalues& other) {
  if (other.count == 0) return;
  if (count == 0) {
    *this = other;
    return;
  }
  const double share = static_cast<double>(other.count) / static_cast<double>(count + other.count);
  const auto merge = [share](std::vector<at::Tensor>& mine, const std::vector<at::Tensor>& theirs) {
    for (size_t i = 0; i < mine.size(); ++i) {
      if (mine[i].defined()) mine[i] = WeightedMean(mine[i], theirs[i], share);
    }
  };
  merge(left, other.left);
  merge(right, other.right);
  merge(exact, other.exact);
  count += other.count;
}

absl::StatusOr<std::vector<BlockBasis>> FindBlockKinds(const Network& network,
                                                       const CapturePlan& plan) {
  return CatchTorch("kinds of blocks", [&]() -> absl::StatusOr<std::vector<BlockBasis>> {
    // One reverse pass, for the sum of the outputs, shows the uses as well as one for each.
    JacobianOptions options;
    options.columns = 1;
    options.output_factor = [](const at::Tensor& f, int64_t) {
      return at::ones({f.size(0), f.size(1), 1}, f.options());
    };
    KindSink kinds(network);
    LAPLACED_RETURN_IF_ERROR(
        ForEachJacobian(network, plan, network.TrialInputs(1), options, kinds));
    return std::move(kinds.bases);
  });
}

absl::StatusOr<BlockBases> FindBlockBases(const EmpiricalRisk& risk, const CapturePlan& plan,
                                          const at::Tensor& rows, const CurvatureSpec& curvature,
                                          const ProgressFn& progress) {
  return CatchTorch("Kronecker factors", [&]() -> absl::StatusOr<BlockBases> {
    BlockBases result;
    LAPLACED_ASSIGN_OR_RETURN(result.bases, FindBlockKinds(risk.network, plan));
    FactorSink factors(result.bases);
    LAPLACED_RETURN_IF_ERROR(Pass(risk, plan, rows, curvature, progress, factors));
    LAPLACED_RETURN_IF_ERROR(SumOverRanks(*risk.ranks, factors.sums));
    for (size_t i = 0; i < result.bases.size(); ++i) {
      BlockBasis& basis = result.bases[i];
      const FactorSums& sums = factors.sums[i];
      if (basis.kind == BlockKind::kDiagonal) continue;
      LAPLACED_ASSIGN_OR_RETURN(basis.left, Eigenvectors(*risk.ranks, sums.left));
      if (sums.right.defined()) {
        LAPLACED_ASSIGN_OR_RETURN(basis.right, Eigenvectors(*risk.ranks, sums.right));
      }
    }
    result.biased = DiagonalInBases(result.bases, factors.sums, rows.size(0));
    return result;
  });
}

absl::StatusOr<BlockEigenvalues> MeasureBlocks(const EmpiricalRisk& risk, const CapturePlan& plan,
                                               const at::Tensor& rows,
                                               const std::vector<BlockBasis>& bases, bool exact,
                                               const CurvatureSpec& curvature,
                                               const ProgressFn& progress) {
  return CatchTorch("Kronecker eigenvalues", [&]() -> absl::StatusOr<BlockEigenvalues> {
    if (!exact) {
      FactorSink factors(bases);
      LAPLACED_RETURN_IF_ERROR(Pass(risk, plan, rows, curvature, progress, factors));
      LAPLACED_RETURN_IF_ERROR(SumOverRanks(*risk.ranks, factors.sums));
      return DiagonalInBases(bases, factors.sums, rows.size(0));
    }
    ExactSink sink(bases);
    LAPLACED_RETURN_IF_ERROR(Pass(risk, plan, rows, curvature, progress, sink));
    LAPLACED_RETURN_IF_ERROR(SumOverRanks(*risk.ranks, sink.sums));
    BlockEigenvalues eigenvalues;
    eigenvalues.count = rows.size(0);
    for (const at::Tensor& sum : sink.sums) {
      eigenvalues.exact.push_back(sum / static_cast<double>(rows.size(0)));
    }
    return eigenvalues;
  });
}

}  // namespace laplaced
