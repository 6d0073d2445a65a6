#include "server/laplace/kronecker_fit.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/data/sampler.h"
#include "server/laplace/kronecker_structure.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

std::string Key(size_t i, const char* name) { return absl::StrCat("blocks.", i, ".", name); }

const char* Name(BlockKind kind) {
  switch (kind) {
    case BlockKind::kKronecker:
      return "kronecker";
    case BlockKind::kDense:
      return "dense";
    case BlockKind::kDiagonal:
      return "diagonal";
  }
  return "";
}

void PutValues(TensorMap& tensors, const std::string& prefix, const BlockEigenvalues& values) {
  tensors[prefix + ".count"] = at::full({1}, values.count, at::kLong);
  for (size_t i = 0; i < values.left.size(); ++i) {
    tensors[absl::StrCat(prefix, ".", i, ".left")] = values.left[i];
    if (values.right[i].defined())
      tensors[absl::StrCat(prefix, ".", i, ".right")] = values.right[i];
  }
  for (size_t i = 0; i < values.exact.size(); ++i) {
    tensors[absl::StrCat(prefix, ".", i, ".exact")] = values.exact[i];
  }
}

absl::StatusOr<BlockEigenvalues> TakeValues(const TensorMap& tensors, const std::string& prefix,
                                            const std::vector<BlockBasis>& bases, bool exact) {
  BlockEigenvalues values;
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor count, FindTensor(tensors, prefix + ".count", {1}));
  values.count = count.item<int64_t>();
  for (size_t i = 0; i < bases.size(); ++i) {
    const std::string key = absl::StrCat(prefix, ".", i);
    at::Tensor left, right;
    if (exact) {
      LAPLACED_ASSIGN_OR_RETURN(
          left, FindTensor(tensors, key + ".exact", {bases[i].rows * bases[i].columns}));
      values.exact.push_back(left);
      continue;
    }
    LAPLACED_ASSIGN_OR_RETURN(left, FindTensor(tensors, key + ".left", {bases[i].rows}));
    if (bases[i].kind == BlockKind::kKronecker) {
      LAPLACED_ASSIGN_OR_RETURN(right, FindTensor(tensors, key + ".right", {bases[i].columns}));
    }
    values.left.push_back(left);
    values.right.push_back(right);
  }
  return values;
}

void Scale(BlockEigenvalues& values, double factor) {
  for (at::Tensor& t : values.left) t = t * factor;
  for (at::Tensor& t : values.exact) t = t * factor;
}

}  // namespace

KroneckerFit::KroneckerFit(Parts parts) : parts_(std::move(parts)) {}

std::shared_ptr<const Structure> KroneckerFit::MakeStructure(
    const std::vector<double>& prior_scale) const {
  std::vector<at::Tensor> values = parts_.second.Values();
  for (at::Tensor& v : values) v = v.clamp_min(0);
  return std::make_shared<const KroneckerStructure>(
      KroneckerCurvature{parts_.first.bases, std::move(values), prior_scale}, parts_.precision);
}

CurvatureReport KroneckerFit::Report() const {
  CurvatureReport report;
  const std::vector<at::Tensor> values = parts_.second.Values();
  const std::vector<at::Tensor> biased = parts_.first.biased.Values();
  for (size_t i = 0; i < values.size(); ++i) {
    BlockReport block;
    block.n_parameters = values[i].numel();
    block.kind = Name(parts_.first.bases[i].kind);
    block.biased_sum = biased[i].sum().item<double>();
    block.debiased_sum = values[i].sum().item<double>();
    block.trace = block.debiased_sum;
    report.trace += block.trace;
    report.blocks.push_back(block);
  }
  report.count = parts_.second.count;
  return report;
}

absl::Status KroneckerFit::CanTakeData() const {
  if (parts_.debiased) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this posterior was fitted without debiasing: its eigenvalues belong to the batch that chose "
      "the bases, and no other data can join them. Fit again with debiasing two_batch");
}

absl::StatusOr<std::shared_ptr<const FittedCurvature>> KroneckerFit::WithData(
    const EmpiricalRisk& risk, const CapturePlan& plan, const CurvatureSpec& curvature,
    const ProgressFn& progress) const {
  LAPLACED_RETURN_IF_ERROR(CanTakeData());
  LAPLACED_ASSIGN_OR_RETURN(
      const BlockEigenvalues added,
      MeasureBlocks(risk, plan, at::arange(risk.size(), at::kLong), parts_.first.bases,
                    !parts_.second.exact.empty(), curvature, progress));
  Parts next = parts_;
  next.second.Merge(added);
  return std::make_shared<const KroneckerFit>(std::move(next));
}

std::shared_ptr<const FittedCurvature> KroneckerFit::ScaledBy(double factor) const {
  Parts next = parts_;
  Scale(next.first.biased, factor);
  Scale(next.second, factor);
  return std::make_shared<const KroneckerFit>(std::move(next));
}

TensorMap KroneckerFit::ToTensors() const {
  TensorMap tensors;
  for (size_t i = 0; i < parts_.first.bases.size(); ++i) {
    const BlockBasis& basis = parts_.first.bases[i];
    tensors[Key(i, "shape")] =
        at::tensor({static_cast<int64_t>(basis.kind), basis.rows, basis.columns}, at::kLong);
    if (basis.left.defined()) tensors[Key(i, "left")] = basis.left.to(parts_.precision);
    if (basis.right.defined()) tensors[Key(i, "right")] = basis.right.to(parts_.precision);
  }
  PutValues(tensors, "biased", parts_.first.biased);
  PutValues(tensors, "values", parts_.second);
  return tensors;
}

absl::StatusOr<std::shared_ptr<const KroneckerFit>> KroneckerFit::FromTensors(
    const TensorMap& tensors, const Network& network, bool debiased, bool exact) {
  Parts parts;
  parts.debiased = debiased;
  parts.precision = network.dtype();
  for (size_t i = 0; i < network.parameters().size(); ++i) {
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor shape, FindTensor(tensors, Key(i, "shape"), {3}));
    BlockBasis basis;
    const auto kind = shape[0].item<int64_t>();
    basis.kind = static_cast<BlockKind>(kind);
    basis.rows = shape[1].item<int64_t>();
    basis.columns = shape[2].item<int64_t>();
    const int64_t numel = network.parameters()[i].value.numel();
    if (kind < 0 || kind > 2 || basis.rows < 1 || basis.rows > numel || basis.columns < 1 ||
        basis.columns > numel || basis.rows * basis.columns != numel) {
      return absl::DataLossError(
          absl::StrCat("block ", i, " does not fit parameter ", network.parameters()[i].name));
    }
    if (basis.kind != BlockKind::kDiagonal) {
      LAPLACED_ASSIGN_OR_RETURN(basis.left,
                                FindTensor(tensors, Key(i, "left"), {basis.rows, basis.rows}));
    }
    if (basis.kind == BlockKind::kKronecker) {
      LAPLACED_ASSIGN_OR_RETURN(
          basis.right, FindTensor(tensors, Key(i, "right"), {basis.columns, basis.columns}));
    }
    parts.first.bases.push_back(std::move(basis));
  }
  LAPLACED_ASSIGN_OR_RETURN(parts.first.biased,
                            TakeValues(tensors, "biased", parts.first.bases, false));
  LAPLACED_ASSIGN_OR_RETURN(parts.second, TakeValues(tensors, "values", parts.first.bases, exact));
  return std::make_shared<const KroneckerFit>(std::move(parts));
}

absl::StatusOr<std::shared_ptr<const KroneckerFit>> FitKronecker(
    const EmpiricalRisk& risk, const CapturePlan& plan, const KroneckerOptions& options,
    const ProgressFn& bases_progress, const ProgressFn& values_progress) {
  const std::vector<at::Tensor> batches = DisjointBatches(
      risk.size(),
      {options.direction_batch_size, options.debias ? options.curvature_batch_size : 0},
      options.seed);
  KroneckerFit::Parts parts;
  parts.debiased = options.debias;
  parts.precision = risk.network.dtype();
  LAPLACED_ASSIGN_OR_RETURN(
      parts.first, FindBlockBases(risk, plan, batches[0], options.curvature, bases_progress));
  // The bases are kept in the network's precision: what is measured is measured along those.
  for (BlockBasis& basis : parts.first.bases) {
    if (basis.left.defined()) basis.left = basis.left.to(parts.precision);
    if (basis.right.defined()) basis.right = basis.right.to(parts.precision);
  }
  if (!options.debias && !options.exact) {
    parts.second = parts.first.biased;
  } else {
    LAPLACED_ASSIGN_OR_RETURN(
        parts.second, MeasureBlocks(risk, plan, batches[options.debias ? 1 : 0], parts.first.bases,
                                    options.exact, options.curvature, values_progress));
  }
  return std::make_shared<const KroneckerFit>(std::move(parts));
}

}  // namespace laplaced
