#include "server/laplace/low_rank_fit.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/curvature/curvature_operator.h"
#include "server/data/sampler.h"
#include "server/laplace/stopwatch.h"
#include "server/linalg/lanczos.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr int64_t kSpareVectors = 12;  // beside the K wanted ones, by default
constexpr int64_t kWorkVectors = 4;    // of Lanczos, beside its basis

std::string Key(size_t i, const char* name) { return absl::StrCat("statistics.", i, ".", name); }

void Scale(RunningMoments& moments, double factor) {
  moments.mean = moments.mean * factor;
  moments.m2 = moments.m2 * (factor * factor);
}

at::Tensor Shuffled(const at::Tensor& rows, uint64_t seed) {
  // A batch of all places, in the order in which they are drawn.
  std::vector<at::Tensor> places =
      DisjointBatches(rows.size(0), std::vector<int64_t>(rows.size(0), 1), seed);
  return places.empty() ? rows : rows.index_select(0, at::cat(places));
}

}  // namespace

std::vector<int64_t> BlockSizes(const Network& network) {
  std::vector<int64_t> sizes;
  for (const Parameter& p : network.parameters()) sizes.push_back(p.value.numel());
  return sizes;
}

int64_t LanczosVectors(const LowRankOptions& options, int64_t coordinates) {
  if (options.lanczos_memory_bytes > 0) return options.lanczos_memory_bytes / (8 * coordinates);
  return options.rank + kSpareVectors;
}

LowRankFit::LowRankFit(Parts parts) : parts_(std::move(parts)) {}

at::Tensor LowRankFit::DirectionsOf(size_t i) const {
  if (parts_.debiasing != Debiasing::kCrossFit) return parts_.directions;
  const int64_t first = parts_.statistics[0].along.mean.size(0);
  return i == 0
             ? parts_.directions.narrow(1, 0, first).contiguous()
             : parts_.directions.narrow(1, first, parts_.directions.size(1) - first).contiguous();
}

LowRankFit::Combined LowRankFit::Combine() const {
  const std::vector<CurvatureStatistics>& s = parts_.statistics;
  Combined combined;
  const auto take = [&combined](const CurvatureStatistics& from) {
    combined.trace = from.total.mean[0].item<double>();
    combined.trace_standard_error = from.total.StandardError()[0].item<double>();
    combined.blocks = from.blocks.mean;
    combined.diagonal = from.diagonal;
    combined.count = from.count();
  };
  if (parts_.debiasing == Debiasing::kCrossFit) {
    combined.along = at::cat({s[0].along.mean, s[1].along.mean});
    combined.standard_errors = at::cat({s[0].along.StandardError(), s[1].along.StandardError()});
    // Both batches measure the same trace; their directions have different numbers of columns.
    CurvatureStatistics both = s[0];
    both.along = {};
    CurvatureStatistics second = s[1];
    both.total.Merge(second.total);
    both.blocks.Merge(second.blocks);
    if (both.diagonal.defined()) {
      const double share = static_cast<double>(second.total.count) / both.total.count;
      both.diagonal = both.diagonal + (second.diagonal - both.diagonal) * share;
    }
    take(both);
    combined.count = both.total.count;
    return combined;
  }
  if (parts_.debiasing == Debiasing::kFullPass && s[1].count() > 0) {
    const double w = static_cast<double>(s[0].count()) / static_cast<double>(parts_.population);
    const auto mix = [w](const at::Tensor& a, const at::Tensor& b) { return w * a + (1 - w) * b; };
    take(s[1]);
    combined.along = mix(s[0].along.mean, s[1].along.mean);
    // Of the training set's curvature: nothing is uncertain once all of it has been measured.
    const double outside = static_cast<double>(parts_.population - s[0].count());
    const double unseen =
        std::sqrt(std::clamp(1 - static_cast<double>(s[1].count()) / outside, 0.0, 1.0));
    combined.standard_errors = (1 - w) * unseen * s[1].along.StandardError();
    combined.trace = mix(s[0].total.mean, s[1].total.mean)[0].item<double>();
    combined.trace_standard_error *= (1 - w) * unseen;
    combined.blocks = mix(s[0].blocks.mean, s[1].blocks.mean);
    if (combined.diagonal.defined()) combined.diagonal = mix(s[0].diagonal, s[1].diagonal);
    combined.count += s[0].count();
    return combined;
  }
  take(s[0]);
  combined.along = parts_.debiasing == Debiasing::kNone ? parts_.ritz : s[0].along.mean;
  combined.standard_errors = s[0].along.StandardError();
  return combined;
}

at::Tensor LowRankFit::Residual(const Combined& combined, const at::Tensor& curvature) const {
  const at::Tensor w = share() * curvature;
  switch (parts_.residual) {
    case ResidualKind::kNone:
      return {};
    case ResidualKind::kIsotropic:
      return at::full({1},
                      IsotropicResidual(combined.trace, w, parts_.directions.size(0) + Overlap()),
                      at::kDouble);
    case ResidualKind::kLayerwise: {
      const at::Tensor sizes = at::tensor(parts_.block_sizes, at::kLong).to(at::kDouble);
      const at::Tensor along = at::mv(BlockShares(parts_.directions, parts_.block_sizes), w);
      return (combined.blocks - along).clamp_min(0) / sizes;
    }
    case ResidualKind::kDiagonal: {
      at::Tensor along = at::empty_like(combined.diagonal);
      constexpr int64_t kRows = 16384;
      for (int64_t b = 0; b < along.size(0); b += kRows) {
        const int64_t n = std::min(kRows, along.size(0) - b);
        along.narrow(0, b, n).copy_(
            at::mv(parts_.directions.narrow(0, b, n).to(at::kDouble).square(), w));
      }
      return (combined.diagonal - along).clamp_min(0);
    }
  }
  return {};
}

std::shared_ptr<const Structure> LowRankFit::MakeStructure(
    const std::vector<double>& prior_scale) const {
  const Combined combined = Combine();
  LowRankCurvature curvature;
  curvature.directions = parts_.directions;
  curvature.curvature = combined.along.clamp_min(0);
  if (parts_.variance_correction) curvature.standard_errors = combined.standard_errors;
  curvature.share = share();
  curvature.residual_kind = parts_.residual;
  curvature.residual = Residual(combined, curvature.curvature);
  curvature.block_sizes = parts_.block_sizes;
  curvature.prior_scale = prior_scale;
  return std::make_shared<const LowRankStructure>(std::move(curvature));
}

int64_t LowRankFit::Overlap() const {
  if (parts_.debiasing != Debiasing::kCrossFit) return 0;
  const at::Tensor u = parts_.directions.to(at::kDouble);
  const at::Tensor rank = at::linalg_matrix_rank(at::mm(u.t(), u), 1e-6, /*hermitian=*/true);
  return u.size(1) - rank.item<int64_t>();
}

absl::Status LowRankFit::CanTakeData() const {
  if (parts_.debiasing != Debiasing::kNone) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this posterior was fitted without debiasing: its curvature belongs to the batch that chose "
      "the directions, and no other data can join it. Fit again with debiasing two_batch");
}

CurvatureReport LowRankFit::Report() const {
  const Combined combined = Combine();
  CurvatureReport report;
  report.eigenvalues = combined.along.clamp_min(0);
  report.standard_errors = combined.standard_errors;
  report.biased = parts_.ritz;
  report.lanczos_residuals = parts_.lanczos_residuals;
  report.trace = combined.trace;
  report.trace_standard_error = combined.trace_standard_error;
  report.count = combined.count;
  // Below zero by more than rounding.
  const double scale = combined.along.abs().max().item<double>();
  report.clipped = (combined.along < -1e-7 * scale).sum().item<int64_t>();
  const double along = share() * report.eigenvalues.sum().item<double>();
  if (report.trace > 0) {
    report.residual_share = std::clamp((report.trace - along) / report.trace, 0.0, 1.0);
  }
  const at::Tensor residual = Residual(combined, report.eigenvalues);
  const auto p = static_cast<double>(parts_.directions.size(0));
  int64_t offset = 0;
  for (size_t i = 0; i < parts_.block_sizes.size(); ++i) {
    BlockReport block;
    block.n_parameters = parts_.block_sizes[i];
    block.kind = "directions";
    block.trace = combined.blocks[static_cast<int64_t>(i)].item<double>();
    if (parts_.residual == ResidualKind::kLayerwise) {
      block.residual = residual[static_cast<int64_t>(i)].item<double>();
    } else if (parts_.residual == ResidualKind::kDiagonal) {
      block.residual = residual.narrow(0, offset, block.n_parameters).mean().item<double>();
    } else if (parts_.residual == ResidualKind::kIsotropic) {
      block.residual = residual.item<double>();
    }
    report.residual += block.residual * static_cast<double>(block.n_parameters) / p;
    report.blocks.push_back(block);
    offset += block.n_parameters;
  }
  return report;
}

absl::StatusOr<std::shared_ptr<const FittedCurvature>> LowRankFit::WithData(
    const EmpiricalRisk& risk, const CapturePlan& plan, const CurvatureSpec& curvature,
    const ProgressFn& progress) const {
  LAPLACED_RETURN_IF_ERROR(CanTakeData());
  MeasureOptions options;
  options.curvature = curvature;
  options.diagonal = parts_.residual == ResidualKind::kDiagonal;
  const at::Tensor rows = at::arange(risk.size(), at::kLong);
  Parts next = parts_;
  // FULL_PASS: the new examples belong to those outside B1.
  const size_t first = parts_.debiasing == Debiasing::kFullPass ? 1 : 0;
  for (size_t i = first; i < next.statistics.size(); ++i) {
    const ProgressFn part = [&](int64_t done, int64_t total) {
      const auto passes = static_cast<int64_t>(next.statistics.size() - first);
      const auto before = static_cast<int64_t>(i - first) * total;
      return progress ? progress(before + done, passes * total) : absl::OkStatus();
    };
    LAPLACED_ASSIGN_OR_RETURN(const CurvatureStatistics added,
                              MeasureCurvature(risk, plan, rows, DirectionsOf(i), options, part));
    // CROSS_FIT: both sets see the new data, which add to the traces once.
    if (i > first) {
      next.statistics[i].along.Merge(added.along);
    } else {
      next.statistics[i].Merge(added);
    }
  }
  if (next.population > 0) next.population += risk.size();
  return std::make_shared<const LowRankFit>(std::move(next));
}

std::shared_ptr<const FittedCurvature> LowRankFit::ScaledBy(double factor) const {
  Parts next = parts_;
  next.ritz = next.ritz * factor;
  next.lanczos_residuals = next.lanczos_residuals * factor;
  for (CurvatureStatistics& s : next.statistics) {
    if (s.count() == 0) continue;
    Scale(s.along, factor);
    Scale(s.total, factor);
    Scale(s.blocks, factor);
    if (s.diagonal.defined()) s.diagonal = s.diagonal * factor;
  }
  return std::make_shared<const LowRankFit>(std::move(next));
}

TensorMap LowRankFit::ToTensors() const {
  TensorMap tensors;
  tensors["directions"] = parts_.directions;
  tensors["ritz"] = parts_.ritz;
  tensors["lanczos_residuals"] = parts_.lanczos_residuals;
  tensors["population"] = at::full({1}, parts_.population, at::kLong);
  for (size_t i = 0; i < parts_.statistics.size(); ++i) {
    const CurvatureStatistics& s = parts_.statistics[i];
    if (s.count() == 0) continue;
    PutMoments(tensors, Key(i, "along"), s.along);
    PutMoments(tensors, Key(i, "total"), s.total);
    PutMoments(tensors, Key(i, "blocks"), s.blocks);
    if (s.diagonal.defined()) tensors[Key(i, "diagonal")] = s.diagonal;
  }
  return tensors;
}

absl::StatusOr<std::shared_ptr<const LowRankFit>> LowRankFit::FromTensors(
    const TensorMap& tensors, Debiasing debiasing, ResidualKind residual, bool variance_correction,
    std::vector<int64_t> block_sizes) {
  Parts parts;
  parts.debiasing = debiasing;
  parts.residual = residual;
  parts.variance_correction = variance_correction;
  parts.block_sizes = std::move(block_sizes);
  LAPLACED_ASSIGN_OR_RETURN(parts.directions, FindTensor(tensors, "directions"));
  LAPLACED_ASSIGN_OR_RETURN(parts.ritz, FindTensor(tensors, "ritz"));
  LAPLACED_ASSIGN_OR_RETURN(parts.lanczos_residuals, FindTensor(tensors, "lanczos_residuals"));
  LAPLACED_ASSIGN_OR_RETURN(const at::Tensor population, FindTensor(tensors, "population", {1}));
  parts.population = population.item<int64_t>();
  const bool two = debiasing == Debiasing::kCrossFit || debiasing == Debiasing::kFullPass;
  const auto n_blocks = static_cast<int64_t>(parts.block_sizes.size());
  for (size_t i = 0; i < (two ? 2u : 1u); ++i) {
    CurvatureStatistics s;
    LAPLACED_ASSIGN_OR_RETURN(s.along, TakeMoments(tensors, Key(i, "along")));
    LAPLACED_ASSIGN_OR_RETURN(s.total, TakeMoments(tensors, Key(i, "total"), 1));
    LAPLACED_ASSIGN_OR_RETURN(s.blocks, TakeMoments(tensors, Key(i, "blocks"), n_blocks));
    // With FULL_PASS, B1 may have been the whole training set.
    const bool may_be_empty = i == 1 && debiasing == Debiasing::kFullPass;
    // CROSS_FIT: the second set's traces leave out what updates added (WithData).
    const bool fewer = i == 1 && debiasing == Debiasing::kCrossFit;
    if ((s.count() == 0 && !may_be_empty) || s.total.count != s.blocks.count ||
        (fewer ? s.total.count < 1 || s.total.count > s.count() : s.total.count != s.count())) {
      return absl::DataLossError(absl::StrCat("statistics ", i, " are missing or incomplete"));
    }
    if (s.count() > 0 && residual == ResidualKind::kDiagonal) {
      LAPLACED_ASSIGN_OR_RETURN(
          s.diagonal, FindTensor(tensors, Key(i, "diagonal"), {parts.directions.size(0)}));
    }
    parts.statistics.push_back(std::move(s));
  }
  int64_t columns = 0;
  for (const CurvatureStatistics& s : parts.statistics) {
    if (s.count() > 0 && (columns == 0 || debiasing == Debiasing::kCrossFit)) {
      columns += s.along.mean.numel();
    }
  }
  if (parts.directions.dim() != 2 || columns != parts.directions.size(1) ||
      parts.ritz.numel() != columns || parts.lanczos_residuals.numel() != columns) {
    return absl::DataLossError("statistics and directions have different numbers of columns");
  }
  return std::make_shared<const LowRankFit>(std::move(parts));
}

namespace {

// The pairs' vectors, [P, k] in the network's precision, from all ranks. Frees the fp64 basis.
absl::StatusOr<at::Tensor> TakeVectors(const EmpiricalRisk& risk, EigenPairs& pairs) {
  const at::Tensor mine = std::exchange(pairs.vectors, {}).to(risk.network.dtype());
  if (risk.ranks->size() == 1) return mine.contiguous();
  const at::Tensor whole = at::empty({risk.network.n_parameters(), mine.size(1)}, mine.options());
  for (int64_t k = 0; k < mine.size(1); ++k) {  // one at a time: they come twice for a moment
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor column,
                              risk.ranks->Gather(mine.select(1, k).contiguous()));
    whole.select(1, k).copy_(column);
  }
  return whole;
}

// Why there are fewer directions than were asked for: `found`, of `looked` pairs of Lanczos.
std::string WhyFewer(const LowRankOptions& options, const EigenPairs& pairs, int64_t looked,
                     int64_t found) {
  if (looked < options.rank && pairs.products == options.max_products && !pairs.rank_exhausted) {
    return absl::StrCat(
        "max_products ", options.max_products, " allowed only ", looked, " of the ", options.rank,
        " directions asked for",
        found < looked ? absl::StrCat(", ", found, " of them with positive curvature") : "");
  }
  if (options.curvature.kind == CurvatureKind::kHessian) {
    return absl::StrCat("only ", found, " of the ", options.rank,
                        " directions asked for have positive curvature");
  }
  return absl::StrCat("the curvature of the direction batch has rank ", found, ", less than the ",
                      options.rank, " directions asked for");
}

// Lanczos on batch number `set`, with what is worth a warning.
absl::StatusOr<EigenPairs> FindDirections(const EmpiricalRisk& risk, const at::Tensor& rows,
                                          const LowRankOptions& options, uint64_t set,
                                          const ProgressFn& progress, LanczosCheckpoint* checkpoint,
                                          std::vector<std::string>* warnings) {
  LanczosOptions lanczos;
  lanczos.rank = options.rank;
  lanczos.tolerance = options.lanczos_tolerance;
  lanczos.max_products = options.max_products;
  lanczos.seed = options.seed + set;
  lanczos.ranks = risk.ranks;
  const int64_t coordinates = ShareOf(risk.network.n_parameters(), 0, risk.ranks->size()).size();
  const int64_t vectors = LanczosVectors(options, coordinates);
  lanczos.max_basis = std::max(options.rank + 2, vectors - kWorkVectors);
  lanczos.on_product = [&](int64_t, int64_t converged) {
    return progress ? progress(converged, options.rank) : absl::OkStatus();
  };
  if (checkpoint != nullptr) {
    LAPLACED_ASSIGN_OR_RETURN(lanczos.start, checkpoint->Find(set, *risk.ranks));
    // As before, or as many vectors as there is memory for on these ranks.
    if (lanczos.start) {
      lanczos.max_basis = std::min(lanczos.max_basis, lanczos.start->max_basis);
    }
    lanczos.on_state = [&](const LanczosState& state) {
      return checkpoint->Keep(set, state, *risk.ranks);
    };
  }
  LAPLACED_ASSIGN_OR_RETURN(
      EigenPairs pairs,
      Lanczos(*MakeCurvatureOperator(risk, rows, options.curvature), std::move(lanczos)));
  const int64_t looked = pairs.values.size(0);
  if (options.curvature.kind == CurvatureKind::kHessian) {
    // Only valleys make a posterior: pairs without positive curvature are not directions of it.
    const int64_t positive = (pairs.values > 0).sum().item<int64_t>();
    pairs.values = pairs.values.narrow(0, 0, positive);
    pairs.residuals = pairs.residuals.narrow(0, 0, positive);
    pairs.vectors = pairs.vectors.narrow(1, 0, positive);
  }
  const int64_t found = pairs.values.size(0);
  if (found == 0) {
    return absl::FailedPreconditionError(
        "the curvature of the direction batch is zero: the network's predictions do not change "
        "with its parameters on these examples (are the outputs saturated?)");
  }
  const int64_t loose = (pairs.residuals > options.lanczos_tolerance * pairs.values.abs().max())
                            .sum()
                            .item<int64_t>();
  if (!pairs.converged && loose > 0) {
    warnings->push_back(absl::StrCat(
        loose, " of ", found, " directions did not converge in ", pairs.products,
        " products; curvature along them is still measured without bias (raise max_products to "
        "sharpen them)"));
  }
  if (found < options.rank) warnings->push_back(WhyFewer(options, pairs, looked, found));
  return pairs;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const LowRankFit>> FitLowRank(
    const EmpiricalRisk& risk, const CapturePlan& plan, const LowRankOptions& options,
    const LowRankProgress& progress, LowRankCost* cost, std::vector<std::string>* warnings) {
  const Debiasing debiasing = options.debiasing;
  const bool cross = debiasing == Debiasing::kCrossFit, full = debiasing == Debiasing::kFullPass;
  const int64_t second = full ? risk.size() - options.direction_batch_size
                         : debiasing == Debiasing::kNone ? 0
                                                         : options.curvature_batch_size;
  const std::vector<at::Tensor> batches =
      DisjointBatches(risk.size(), {options.direction_batch_size, second}, options.seed);

  const Stopwatch lanczos_time;
  std::vector<EigenPairs> sets;
  for (size_t i = 0; i < (cross ? 2u : 1u); ++i) {
    const ProgressFn half = [&](int64_t done, int64_t total) {
      if (!progress.directions) return absl::OkStatus();
      const auto before = static_cast<int64_t>(i) * total;
      return progress.directions(before + done, cross ? 2 * total : total);
    };
    LAPLACED_ASSIGN_OR_RETURN(EigenPairs pairs, FindDirections(risk, batches[i], options, i, half,
                                                               progress.checkpoint, warnings));
    cost->products += pairs.products;
    sets.push_back(std::move(pairs));
  }
  cost->lanczos_seconds = lanczos_time.Seconds();

  const Stopwatch curvature_time;
  LowRankFit::Parts parts;
  parts.debiasing = debiasing;
  parts.residual = options.residual;
  parts.variance_correction = options.variance_correction;
  parts.block_sizes = BlockSizes(risk.network);
  std::vector<at::Tensor> directions, ritz, residuals;
  for (EigenPairs& pairs : sets) {
    LAPLACED_ASSIGN_OR_RETURN(at::Tensor vectors, TakeVectors(risk, pairs));
    directions.push_back(std::move(vectors));
    ritz.push_back(pairs.values);
    residuals.push_back(pairs.residuals);
  }
  parts.ritz = at::cat(ritz);
  parts.lanczos_residuals = at::cat(residuals);

  MeasureOptions measure;
  measure.curvature = options.curvature;
  measure.diagonal = options.residual == ResidualKind::kDiagonal;
  int64_t done_before = 0;
  const int64_t all = debiasing == Debiasing::kNone ? options.direction_batch_size
                      : cross || full               ? options.direction_batch_size + second
                                                    : second;
  const auto run = [&](const at::Tensor& rows, const at::Tensor& u, double target) -> absl::Status {
    measure.target_relative_standard_error = target;
    measure.curvature.seed = options.curvature.seed + parts.statistics.size();
    const at::Tensor ordered = target > 0 ? Shuffled(rows, options.seed) : rows;
    LAPLACED_ASSIGN_OR_RETURN(
        CurvatureStatistics statistics,
        MeasureCurvature(risk, plan, ordered, u, measure, [&](int64_t done, int64_t) {
          return progress.curvature ? progress.curvature(done_before + done, all)
                                    : absl::OkStatus();
        }));
    done_before += rows.size(0);
    parts.statistics.push_back(std::move(statistics));
    return absl::OkStatus();
  };
  const double target = options.target_relative_standard_error;
  if (cross) {
    LAPLACED_RETURN_IF_ERROR(run(batches[1], directions[0], 0));
    LAPLACED_RETURN_IF_ERROR(run(batches[0], directions[1], 0));
  } else if (full) {
    parts.population = risk.size();
    LAPLACED_RETURN_IF_ERROR(run(batches[0], directions[0], 0));
    LAPLACED_RETURN_IF_ERROR(run(batches[1], directions[0], target));
  } else if (debiasing == Debiasing::kTwoBatch) {
    LAPLACED_RETURN_IF_ERROR(run(batches[1], directions[0], target));
  } else {
    LAPLACED_RETURN_IF_ERROR(run(batches[0], directions[0], 0));
  }
  parts.directions = cross ? at::cat(directions, 1) : directions[0];
  cost->curvature_seconds = curvature_time.Seconds();
  return std::make_shared<const LowRankFit>(std::move(parts));
}

}  // namespace laplaced
