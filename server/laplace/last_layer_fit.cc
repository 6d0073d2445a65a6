#include "server/laplace/last_layer_fit.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/curvature/directional_curvature.h"
#include "server/laplace/low_rank_fit.h"
#include "server/laplace/low_rank_structure.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// L'J of a batch, whole: there are few parameters.
class WholeSink : public JacobianSink {
 public:
  WholeSink(const Network& network, int64_t rows) : network_(network), rows_(rows) {}
  void Start(const at::Tensor& f) override {
    jacobian = at::zeros({f.size(0), rows_, network_.n_parameters()}, f.options());
  }
  void Add(size_t parameter, int64_t begin, const at::Tensor& part) override {
    jacobian.narrow(0, begin, part.size(0))
        .narrow(2, network_.parameters()[parameter].offset, part.size(2))
        .copy_(part);
  }

  at::Tensor jacobian;  // [B, R, P]

 private:
  const Network& network_;
  const int64_t rows_;
};

struct Dense {
  at::Tensor matrix;  // mean, [P, P] fp64
  RunningMoments trace;
};

absl::StatusOr<Dense> DenseCurvature(const EmpiricalRisk& risk, const CapturePlan& plan,
                                     const CurvatureSpec& curvature, const ProgressFn& progress) {
  return CatchTorch("last-layer curvature", [&]() -> absl::StatusOr<Dense> {
    const int64_t p = risk.network.n_parameters(), n = risk.data.size();
    Dense dense{at::zeros({p, p}, at::kDouble), {}};
    const int64_t chunk = std::min(risk.chunk_size, ExamplesPerStep(risk.network));
    for (int64_t begin = 0; begin < n; begin += chunk) {
      const int64_t count = std::min(chunk, n - begin);
      const at::Tensor rows = at::arange(begin, begin + count, at::kLong);
      const JacobianOptions factor = CurvatureFactorOptions(risk, curvature, rows);
      WholeSink sink(risk.network, factor.columns);
      const at::Tensor x = risk.NetworkInput(risk.data.inputs.narrow(0, begin, count));
      LAPLACED_RETURN_IF_ERROR(ForEachJacobian(risk.network, plan, x, factor, sink));
      const at::Tensor flat = sink.jacobian.view({-1, p});
      dense.matrix.add_(at::mm(flat.t(), flat));
      dense.trace.Add(
          sink.jacobian.square().sum(at::IntArrayRef({1, 2}), false, at::kDouble).unsqueeze(1));
      if (progress) LAPLACED_RETURN_IF_ERROR(progress(begin + count, n));
    }
    LAPLACED_RETURN_IF_ERROR(risk.ranks->Sum(dense.matrix));
    LAPLACED_ASSIGN_OR_RETURN(dense.trace, dense.trace.OverRanks(*risk.ranks, 1));
    dense.matrix.div_(static_cast<double>(risk.size()));
    if (!dense.matrix.isfinite().all().item<bool>()) {
      return absl::FailedPreconditionError(
          "the measured curvature is not finite: the network's derivatives overflow on some of "
          "these "
          "examples");
    }
    return dense;
  });
}

}  // namespace

LastLayerFit::LastLayerFit(at::Tensor matrix, RunningMoments trace, at::ScalarType precision,
                           std::vector<int64_t> block_sizes) {
  const auto [values, vectors] = at::linalg_eigh(matrix, "L");
  parts_.eigenvalues = values.flip(0).clamp_min(0);
  parts_.directions = vectors.flip(1).to(precision).contiguous();
  parts_.matrix = std::move(matrix);
  parts_.trace = std::move(trace);
  parts_.block_sizes = std::move(block_sizes);
}

std::shared_ptr<const Structure> LastLayerFit::MakeStructure(
    const std::vector<double>& prior_scale) const {
  LowRankCurvature curvature;
  curvature.directions = parts_.directions;
  curvature.curvature = parts_.eigenvalues;
  curvature.block_sizes = parts_.block_sizes;
  curvature.prior_scale = prior_scale;
  return std::make_shared<const LowRankStructure>(std::move(curvature));
}

CurvatureReport LastLayerFit::Report() const {
  CurvatureReport report;
  report.eigenvalues = parts_.eigenvalues;
  report.trace = parts_.trace.mean[0].item<double>();
  report.trace_standard_error = parts_.trace.StandardError()[0].item<double>();
  report.count = parts_.trace.count;
  const at::Tensor diagonal = parts_.matrix.diagonal();
  int64_t offset = 0;
  for (const int64_t size : parts_.block_sizes) {
    BlockReport block;
    block.n_parameters = size;
    block.kind = "directions";
    block.trace = diagonal.narrow(0, offset, size).sum().item<double>();
    report.blocks.push_back(block);
    offset += size;
  }
  return report;
}

absl::Status LastLayerFit::CanTakeData() const { return absl::OkStatus(); }

absl::StatusOr<std::shared_ptr<const FittedCurvature>> LastLayerFit::WithData(
    const EmpiricalRisk& risk, const CapturePlan& plan, const CurvatureSpec& curvature,
    const ProgressFn& progress) const {
  LAPLACED_ASSIGN_OR_RETURN(const Dense added, DenseCurvature(risk, plan, curvature, progress));
  RunningMoments trace = parts_.trace;
  trace.Merge(added.trace);
  const double share = static_cast<double>(added.trace.count) / static_cast<double>(trace.count);
  return std::make_shared<const LastLayerFit>(
      parts_.matrix + (added.matrix - parts_.matrix) * share, std::move(trace),
      parts_.directions.scalar_type(), parts_.block_sizes);
}

std::shared_ptr<const FittedCurvature> LastLayerFit::ScaledBy(double factor) const {
  Parts next = parts_;
  next.matrix = next.matrix * factor;
  next.trace.mean = next.trace.mean * factor;
  next.trace.m2 = next.trace.m2 * (factor * factor);
  next.eigenvalues = next.eigenvalues * factor;
  return std::shared_ptr<const LastLayerFit>(new LastLayerFit(std::move(next)));
}

TensorMap LastLayerFit::ToTensors() const {
  TensorMap tensors;
  tensors["matrix"] = parts_.matrix;
  tensors["directions"] = parts_.directions;
  tensors["eigenvalues"] = parts_.eigenvalues;
  PutMoments(tensors, "trace", parts_.trace);
  return tensors;
}

absl::StatusOr<std::shared_ptr<const LastLayerFit>> LastLayerFit::FromTensors(
    const TensorMap& tensors, const Network& network) {
  const int64_t p = network.n_parameters();
  Parts parts;
  parts.block_sizes = BlockSizes(network);
  LAPLACED_ASSIGN_OR_RETURN(parts.matrix, FindTensor(tensors, "matrix", {p, p}));
  LAPLACED_ASSIGN_OR_RETURN(parts.directions, FindTensor(tensors, "directions", {p, p}));
  LAPLACED_ASSIGN_OR_RETURN(parts.eigenvalues, FindTensor(tensors, "eigenvalues", {p}));
  LAPLACED_ASSIGN_OR_RETURN(parts.trace, TakeMoments(tensors, "trace", 1));
  if (parts.trace.count == 0) return absl::DataLossError("tensor trace.counts is missing");
  return std::shared_ptr<const LastLayerFit>(new LastLayerFit(std::move(parts)));
}

absl::StatusOr<std::shared_ptr<const LastLayerFit>> FitLastLayer(const EmpiricalRisk& risk,
                                                                 const CapturePlan& plan,
                                                                 const CurvatureSpec& curvature,
                                                                 const ProgressFn& progress) {
  LAPLACED_ASSIGN_OR_RETURN(Dense dense, DenseCurvature(risk, plan, curvature, progress));
  return CatchTorch("last-layer curvature", [&] {
    return absl::StatusOr<std::shared_ptr<const LastLayerFit>>(
        std::make_shared<LastLayerFit>(std::move(dense.matrix), std::move(dense.trace),
                                       risk.network.dtype(), BlockSizes(risk.network)));
  });
}

}  // namespace laplaced
