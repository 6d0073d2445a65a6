#include "server/curvature/directional_curvature.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <mutex>

#include "server/curvature/hessian_operator.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr int64_t kFewestForStop = 200;

// From L'J of a batch: L'J U, the squared norm of every parameter's part, and the summed diagonal.
class CurvatureSink : public JacobianSink {
 public:
  CurvatureSink(const Network& network, const at::Tensor& directions, int64_t rows, bool diagonal)
      : network_(network), directions_(directions.contiguous()), rows_(rows) {
    if (diagonal) diagonal_ = at::zeros({network.n_parameters()}, at::kDouble);
  }

  void Start(const at::Tensor& f) override {
    const auto n = static_cast<int64_t>(network_.parameters().size());
    t_ = at::zeros({f.size(0), rows_, directions_.size(1)}, at::kDouble);
    traces_ = at::zeros({f.size(0), n}, at::kDouble);
  }

  bool AddUse(size_t parameter, const ExampleRange& range, const ParameterUse& use,
              const at::Tensor& grads) override {
    if (diagonal_.defined()) return false;
    at::Tensor gram = at::zeros({range.count, rows_, rows_}, at::kDouble);
    if (!use.AddProducts(grads, range.in_block, range.count, Rows(parameter),
                         t_.narrow(0, range.begin, range.count), gram)) {
      return false;
    }
    Trace(parameter, range.begin, range.count).add_(gram.diagonal(0, 1, 2).sum(1));
    return true;
  }

  void Add(size_t parameter, int64_t begin, const at::Tensor& jacobian) override {
    const int64_t b = jacobian.size(0), r = jacobian.size(1), p = jacobian.size(2);
    const at::Tensor squares = jacobian.square();
    Trace(parameter, begin, b).add_(squares.sum(at::IntArrayRef({1, 2}), false, at::kDouble));
    const at::Tensor u = Rows(parameter);
    if (u.size(1) > 0) {
      t_.narrow(0, begin, b).add_(at::mm(jacobian.reshape({b * r, p}), u).view({b, r, u.size(1)}));
    }
    if (diagonal_.defined()) {
      const at::Tensor sums = squares.sum(at::IntArrayRef({0, 1}), false, at::kDouble);
      const std::lock_guard<std::mutex> lock(mutex_);
      diagonal_.narrow(0, network_.parameters()[parameter].offset, p).add_(sums);
    }
  }

  CurvatureStatistics Take() const {
    CurvatureStatistics statistics;
    statistics.along.Add(t_.square().sum(1));
    statistics.total.Add(traces_.sum(1, true));
    statistics.blocks.Add(traces_);
    if (diagonal_.defined()) {
      statistics.diagonal = diagonal_ / static_cast<double>(traces_.size(0));
    }
    return statistics;
  }

 private:
  at::Tensor Rows(size_t parameter) const {
    const Parameter& p = network_.parameters()[parameter];
    return directions_.narrow(0, p.offset, p.value.numel());
  }
  at::Tensor Trace(size_t parameter, int64_t begin, int64_t count) const {
    return traces_.select(1, static_cast<int64_t>(parameter)).narrow(0, begin, count);
  }

  const Network& network_;
  const at::Tensor directions_;
  const int64_t rows_;
  std::mutex mutex_;     // of diagonal_, which all examples share
  at::Tensor diagonal_;  // [P]
  at::Tensor t_;         // [B, R, K]
  at::Tensor traces_;    // [B, parameter tensors]
};

// The Hessian of a chunk as a whole: one sample that stands for all its examples.
absl::StatusOr<CurvatureStatistics> MeasureHessianChunk(const EmpiricalRisk& risk,
                                                        const at::Tensor& rows,
                                                        const at::Tensor& directions, bool diagonal,
                                                        at::Generator& generator) {
  const HessianOperator hessian(risk, rows);
  const at::Tensor u = directions.to(at::kDouble);
  const at::Tensor signs = at::randint(0, 2, {u.size(0), 1}, generator, u.options()) * 2 - 1;
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor products, hessian.Apply(at::cat({u, signs}, 1)));
  const at::Tensor estimate = products.select(1, u.size(1)) * signs.select(1, 0);  // [P]
  std::vector<at::Tensor> traces;
  for (const Parameter& p : risk.network.parameters()) {
    traces.push_back(estimate.narrow(0, p.offset, p.value.numel()).sum());
  }
  CurvatureStatistics statistics;
  const int64_t weight = rows.size(0);
  statistics.along.Add((u * products.narrow(1, 0, u.size(1))).sum(0, true), weight);
  statistics.total.Add(estimate.sum().view({1, 1}), weight);
  statistics.blocks.Add(at::stack(traces).unsqueeze(0), weight);
  if (diagonal) statistics.diagonal = estimate;
  return statistics;
}

bool PreciseEnough(const RunningMoments& along, double target) {
  return target > 0 && along.count >= kFewestForStop && along.samples > 1 &&
         (along.StandardError() <= target * along.mean.abs()).all().item<bool>();
}

}  // namespace

void CurvatureStatistics::Merge(const CurvatureStatistics& other) {
  if (other.count() == 0) return;
  if (diagonal.defined() && other.diagonal.defined()) {
    const double share =
        static_cast<double>(other.count()) / static_cast<double>(count() + other.count());
    diagonal = diagonal + (other.diagonal - diagonal) * share;
  } else if (count() == 0) {
    diagonal = other.diagonal;
  }
  along.Merge(other.along);
  total.Merge(other.total);
  blocks.Merge(other.blocks);
}

absl::StatusOr<CurvatureStatistics> CurvatureStatistics::OverRanks(const Ranks& ranks,
                                                                   int64_t n_directions,
                                                                   int64_t n_blocks,
                                                                   int64_t n_diagonal) const {
  if (ranks.size() == 1) return *this;
  CurvatureStatistics merged;
  LAPLACED_ASSIGN_OR_RETURN(merged.along, along.OverRanks(ranks, n_directions));
  LAPLACED_ASSIGN_OR_RETURN(merged.total, total.OverRanks(ranks, 1));
  LAPLACED_ASSIGN_OR_RETURN(merged.blocks, blocks.OverRanks(ranks, n_blocks));
  if (n_diagonal > 0) {
    merged.diagonal = count() > 0 ? diagonal * static_cast<double>(count())
                                  : at::zeros({n_diagonal}, at::kDouble);
    LAPLACED_RETURN_IF_ERROR(ranks.Sum(merged.diagonal));
    merged.diagonal = merged.diagonal / static_cast<double>(merged.count());
  }
  return merged;
}

JacobianOptions CurvatureFactorOptions(const EmpiricalRisk& risk, const CurvatureSpec& curvature,
                                       const at::Tensor& rows) {
  JacobianOptions options;
  options.columns = curvature.Columns(risk.network.n_outputs());
  options.output_factor = [&risk, curvature, rows](const at::Tensor& f, int64_t begin) {
    const at::Tensor of_block = rows.narrow(0, begin, f.size(0));
    return OutputFactor(curvature, risk.likelihood, f, risk.data.targets.index_select(0, of_block),
                        of_block + risk.data.first);
  };
  return options;
}

absl::StatusOr<CurvatureStatistics> MeasureCurvature(
    const EmpiricalRisk& risk, const CapturePlan& plan, const at::Tensor& rows,
    const at::Tensor& directions, const MeasureOptions& options, const ProgressFn& progress) {
  return CatchTorch("directional curvature", [&]() -> absl::StatusOr<CurvatureStatistics> {
    CurvatureStatistics statistics;
    const int64_t n = rows.size(0),
                  n_blocks = static_cast<int64_t>(risk.network.parameters().size());
    const at::Tensor here = risk.data.Here(rows);
    const int64_t n_here = here.size(0);
    const EmpiricalRisk alone = risk.Alone();
    const bool hessian = options.curvature.kind == CurvatureKind::kHessian;
    // Enough chunks for a standard error of the Hessian.
    const int64_t chunk = hessian ? std::clamp<int64_t>(n / 64, 1, risk.chunk_size)
                                  : std::min(risk.chunk_size, ExamplesPerStep(risk.network));
    at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(
        options.curvature.seed + (static_cast<uint64_t>(risk.ranks->rank()) << 32));
    // Ranks have different numbers of chunks; they look together whether all of them may stop.
    const bool may_stop = options.target_relative_standard_error > 0;
    int64_t chunks = (n_here + chunk - 1) / chunk;
    if (may_stop) {
      LAPLACED_ASSIGN_OR_RETURN(const at::Tensor all,
                                risk.ranks->Gather(at::full({1}, chunks, at::kLong)));
      chunks = all.max().item<int64_t>();
    }
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t begin = std::min(i * chunk, n_here), count = std::min(chunk, n_here - begin);
      const at::Tensor part = here.narrow(0, begin, count);
      if (count == 0) {
        // The others are still at work.
      } else if (hessian) {
        LAPLACED_ASSIGN_OR_RETURN(
            const CurvatureStatistics measured,
            MeasureHessianChunk(alone, part, directions, options.diagonal, generator));
        statistics.Merge(measured);
      } else {
        const JacobianOptions factor = CurvatureFactorOptions(risk, options.curvature, part);
        CurvatureSink sink(risk.network, directions, factor.columns, options.diagonal);
        const at::Tensor x = risk.NetworkInput(risk.data.inputs.index_select(0, part));
        LAPLACED_RETURN_IF_ERROR(ForEachJacobian(risk.network, plan, x, factor, sink));
        statistics.Merge(sink.Take());
      }
      if (progress) {
        // As if the others were as far.
        LAPLACED_RETURN_IF_ERROR(progress(n_here > 0 ? n * (begin + count) / n_here : n, n));
      }
      if (!may_stop) continue;
      LAPLACED_ASSIGN_OR_RETURN(const RunningMoments along,
                                statistics.along.OverRanks(*risk.ranks, directions.size(1)));
      at::Tensor stop = at::full(
          {1}, PreciseEnough(along, options.target_relative_standard_error) ? 1 : 0, at::kLong);
      LAPLACED_RETURN_IF_ERROR(risk.ranks->Broadcast(stop));
      if (stop.item<int64_t>() == 1) break;
    }
    LAPLACED_ASSIGN_OR_RETURN(statistics,
                              statistics.OverRanks(*risk.ranks, directions.size(1), n_blocks,
                                                   options.diagonal ? directions.size(0) : 0));
    if (n > 0 && !(statistics.along.mean.isfinite().all().item<bool>() &&
                   statistics.total.mean.isfinite().all().item<bool>())) {
      return absl::FailedPreconditionError(
          "the measured curvature is not finite: the network's derivatives overflow or do not "
          "exist "
          "on some of these examples");
    }
    return statistics;
  });
}

}  // namespace laplaced
