#include "server/laplace/low_rank_structure.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "server/curvature/jacobian_products.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr int64_t kRowsAtOnce = 16384;  // of U, when it is converted to fp64

// U_b' diag(w) U_b for rows [begin, begin + count) of U; w undefined: ones.
at::Tensor GramOfRows(const at::Tensor& u, int64_t begin, int64_t count, const at::Tensor& w) {
  at::Tensor sum = at::zeros({u.size(1), u.size(1)}, at::kDouble);
  for (int64_t b = begin; b < begin + count; b += kRowsAtOnce) {
    const int64_t n = std::min(kRowsAtOnce, begin + count - b);
    const at::Tensor rows = u.narrow(0, b, n).to(at::kDouble);
    sum.addmm_(rows.t(), w.defined() ? rows * w.narrow(0, b, n).unsqueeze(1) : rows);
  }
  return sum;
}

// Z with Z' gram Z = I, [K, k]: makes directions with this Gram matrix orthonormal. Combinations of
// them that are nothing but rounding are left out; they are looked for after scaling all directions
// to one length, because lengths may differ by orders of magnitude for good reasons.
at::Tensor RootOfInverse(const at::Tensor& gram, at::ScalarType precision) {
  const at::Tensor lengths = gram.diagonal().clamp_min(1e-300).sqrt();
  const auto [values, vectors] = at::linalg_eigh(gram / at::outer(lengths, lengths), "L");
  const double floor = precision == at::kDouble ? 1e-12 : 1e-6;
  const int64_t k = values.size(0);
  if (k == 0) return vectors;
  const int64_t drop = (values <= floor * values[k - 1]).sum().item<int64_t>();
  const at::Tensor kept = values.narrow(0, drop, k - drop);
  return vectors.narrow(1, drop, k - drop) * kept.rsqrt() / lengths.unsqueeze(1);
}

}  // namespace

LowRankStructure::LowRankStructure(LowRankCurvature curvature) : curvature_(std::move(curvature)) {
  const std::vector<int64_t>& sizes = curvature_.block_sizes;
  if (curvature_.prior_scale.empty()) curvature_.prior_scale.assign(sizes.size(), 1.0);
  const bool layerwise = curvature_.residual_kind == ResidualKind::kLayerwise;
  if (curvature_.residual_kind == ResidualKind::kDiagonal) {
    gram_ = GramOfRows(curvature_.directions, 0, n_parameters(), {});
  } else {
    std::vector<double> residuals, group_sizes;
    std::vector<at::Tensor> grams;
    std::map<double, int64_t> by_scale;
    int64_t offset = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const double scale = curvature_.prior_scale[i];
      int64_t group = static_cast<int64_t>(group_scale_.size());
      if (!layerwise) group = by_scale.emplace(scale, group).first->second;
      if (group == static_cast<int64_t>(group_scale_.size())) {
        group_scale_.push_back(scale);
        group_sizes.push_back(0);
        residuals.push_back(curvature_.residual.defined()
                                ? curvature_.residual[layerwise ? i : 0].item<double>()
                                : 0);
        grams.push_back(
            at::zeros({curvature_.directions.size(1), curvature_.directions.size(1)}, at::kDouble));
      }
      group_of_.push_back(group);
      group_sizes[group] += static_cast<double>(sizes[i]);
      grams[group] += GramOfRows(curvature_.directions, offset, sizes[i], {});
      offset += sizes[i];
    }
    grams_ = at::stack(grams);
    gram_ = grams_.sum(0);
    group_sizes_ = at::tensor(group_sizes, at::kDouble);
    group_residual_ = at::tensor(residuals, at::kDouble);
  }
  const at::ScalarType precision = curvature_.directions.scalar_type();
  const at::Tensor error = gram_ - at::eye(gram_.size(0), at::kDouble);
  orthonormal_ = error.numel() == 0 ||
                 error.abs().max().item<double>() < (precision == at::kDouble ? 1e-10 : 1e-5);
  if (!orthonormal_) orthonormaliser_ = RootOfInverse(gram_, precision);
}

at::Tensor LowRankStructure::PriorScale() const {
  if (curvature_.residual_kind != ResidualKind::kDiagonal) {
    return at::tensor(group_scale_, at::kDouble);
  }
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < curvature_.block_sizes.size(); ++i) {
    parts.push_back(at::full({curvature_.block_sizes[i]}, curvature_.prior_scale[i], at::kDouble));
  }
  return at::cat(parts);
}

at::Tensor LowRankStructure::WeightedGram(const at::Tensor& weights) const {
  if (curvature_.residual_kind != ResidualKind::kDiagonal) {
    return (grams_ * weights.view({-1, 1, 1})).sum(0);
  }
  return GramOfRows(curvature_.directions, 0, n_parameters(), weights);
}

double LowRankStructure::SumOverParameters(const at::Tensor& weights) const {
  const bool diagonal = curvature_.residual_kind == ResidualKind::kDiagonal;
  return (diagonal ? weights : weights * group_sizes_).sum().item<double>();
}

LowRankStructure::Inner LowRankStructure::Compute(const Precisions& at) const {
  Inner inner;
  const at::Tensor residual =
      curvature_.residual_kind == ResidualKind::kDiagonal ? curvature_.residual : group_residual_;
  inner.diagonal = at.prior * PriorScale() + at.likelihood * residual;
  at::Tensor lambda = curvature_.curvature;
  if (curvature_.standard_errors.defined()) {
    const at::Tensor error = at.likelihood * curvature_.standard_errors;
    lambda = lambda + error.square() / (at.likelihood * lambda + at.prior) / at.likelihood;
  }
  const bool isotropic = curvature_.residual_kind == ResidualKind::kIsotropic;
  if (orthonormal_ && inner.diagonal.numel() == 1) {
    at::Tensor weights = curvature_.share * lambda;
    if (isotropic) weights = weights - curvature_.residual;
    const at::Tensor m = (1 + at.likelihood * weights / inner.diagonal).clamp_min(1e-300);
    inner.shrink = 1 / m;
    inner.log_det = SumOverParameters(inner.diagonal.log()) + m.log().sum().item<double>();
    return inner;
  }
  const at::Tensor gram = WeightedGram(1 / inner.diagonal);
  const at::Tensor to_q = RootOfInverse(gram, curvature_.directions.scalar_type());
  // W', with the isotropic residual's part along the directions taken off.
  at::Tensor weights = at::diag(curvature_.share * lambda);
  if (isotropic) {
    const at::Tensor projector = orthonormal_ ? at::eye(weights.size(0), at::kDouble)
                                              : at::mm(orthonormaliser_, orthonormaliser_.t());
    weights = weights - curvature_.residual * projector;
  }
  const at::Tensor root = at::mm(gram, to_q);  // R_s = S R_s'^-1
  const at::Tensor identity = at::eye(to_q.size(1), at::kDouble);
  at::Tensor inverse_m = identity + at.likelihood * at::mm(root.t(), at::mm(weights, root));
  inverse_m = (inverse_m + inverse_m.t()) / 2;
  auto [m, vectors] = at::linalg_eigh(inverse_m, "L");
  m = m.clamp_min(1e-300);
  inner.to_q = at::mm(to_q, vectors);
  inner.shrink = 1 / m;
  inner.log_det = SumOverParameters(inner.diagonal.log()) + m.log().sum().item<double>();
  return inner;
}

at::Tensor LowRankStructure::ToQ(const Inner& inner, const at::Tensor& t) const {
  return inner.to_q.defined() ? at::matmul(t, inner.to_q) : t * inner.diagonal.sqrt();
}

at::Tensor LowRankStructure::OutsideOf(const at::Tensor& squared_norm, const at::Tensor& t) const {
  const at::Tensor along = orthonormal_ ? t : at::matmul(t, orthonormaliser_);
  return (squared_norm - along.square().sum({1, 2})).clamp_min(0);
}

std::shared_ptr<const LowRankStructure::Inner> LowRankStructure::At(const Precisions& at) const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [known, inner] : recent_) {
      if (known.likelihood == at.likelihood && known.prior == at.prior) return inner;
    }
  }
  auto inner = std::make_shared<const Inner>(Compute(at));
  const std::lock_guard<std::mutex> lock(mutex_);
  // All candidates of a validation pass, where that takes little memory.
  const bool large =
      curvature_.residual_kind == ResidualKind::kDiagonal || curvature_.directions.size(1) > 512;
  if (recent_.size() >= (large ? 4u : 64u)) recent_.erase(recent_.begin());
  recent_.emplace_back(at, inner);
  return inner;
}

double LowRankStructure::LogDetPrecision(const Precisions& at) const { return At(at)->log_det; }

double LowRankStructure::EffectiveParameters(const Precisions& at) const {
  // P - tr(prior K Sigma)
  const std::shared_ptr<const Inner> inner = At(at);
  const at::Tensor ratio = at.prior * PriorScale() / inner->diagonal;
  at::Tensor along = ratio;  // Q' K prior / D Q, diagonal
  if (inner->to_q.defined()) {
    const at::Tensor gram = WeightedGram(ratio / inner->diagonal);
    along = at::mm(inner->to_q.t(), at::mm(gram, inner->to_q)).diagonal();
  }
  return static_cast<double>(n_parameters()) - SumOverParameters(ratio) +
         (along * (1 - inner->shrink)).sum().item<double>();
}

at::Tensor LowRankStructure::Deviations(const Precisions& at, const at::Tensor& noise) const {
  const std::shared_ptr<const Inner> inner = At(at);
  at::Tensor diagonal = inner->diagonal;
  if (curvature_.residual_kind != ResidualKind::kDiagonal) {
    std::vector<at::Tensor> parts;
    for (size_t i = 0; i < curvature_.block_sizes.size(); ++i) {
      parts.push_back(diagonal[group_of_[i]].expand({curvature_.block_sizes[i]}));
    }
    diagonal = at::cat(parts);
  }
  const at::ScalarType type = curvature_.directions.scalar_type();
  const at::Tensor scale = diagonal.rsqrt().to(type).unsqueeze(1);
  const at::Tensor z = noise.to(type);
  // Q' z and back, by way of the directions.
  const at::Tensor weighted = at::mm(curvature_.directions.t(), scale * z);  // [K, S]
  const at::Tensor to_q = inner->to_q.defined()
                              ? inner->to_q
                              : at::diag(inner->diagonal.sqrt().expand({weighted.size(0)}));
  const at::Tensor along = at::mm(to_q.t().to(type), weighted);
  const at::Tensor change = (inner->shrink.sqrt() - 1).to(type).unsqueeze(1) * along;
  return scale * (z + scale * at::mm(curvature_.directions, at::mm(to_q.to(type), change)));
}

namespace {

// V from J D^-1 J' [B, R, R], or its diagonal alone from [B, R], and Y [B, R, k].
at::Tensor CovarianceFrom(const at::Tensor& gram, const at::Tensor& y, const at::Tensor& shrink) {
  at::Tensor remaining = gram - at::bmm(y, y.transpose(1, 2));
  remaining.diagonal(0, 1, 2).clamp_min_(0);
  const at::Tensor v = remaining + at::bmm(y * shrink, y.transpose(1, 2));
  return (v + v.transpose(1, 2)) / 2;
}

at::Tensor VarianceFrom(const at::Tensor& diagonal, const at::Tensor& y, const at::Tensor& shrink) {
  const at::Tensor squares = y.square();
  return (diagonal - squares.sum(2)).clamp_min(0) + at::matmul(squares, shrink);
}

}  // namespace

at::Tensor LowRankStructure::RowCovariance(const Precisions& at, const at::Tensor& jacobian) const {
  const std::shared_ptr<const Inner> inner = At(at);
  const bool diagonal = curvature_.residual_kind == ResidualKind::kDiagonal;
  const at::Tensor weights = 1 / inner->diagonal;
  const int64_t n = jacobian.size(0);
  at::Tensor gram = at::zeros({n, n}, at::kDouble),
             t = at::zeros({n, curvature_.directions.size(1)}, at::kDouble);
  int64_t offset = 0;
  for (size_t i = 0; i < curvature_.block_sizes.size(); ++i) {
    const int64_t numel = curvature_.block_sizes[i];
    const at::Tensor j = jacobian.narrow(1, offset, numel);
    const at::Tensor weight =
        diagonal ? weights.narrow(0, offset, numel).to(j.scalar_type()) : weights[group_of_[i]];
    const at::Tensor scaled = diagonal ? j * weight : j;
    const at::Tensor scale = diagonal ? at::ones({}, at::kDouble) : weight;
    gram += at::mm(scaled, j.t()).to(at::kDouble) * scale;
    t += at::mm(scaled, curvature_.directions.narrow(0, offset, numel)).to(at::kDouble) * scale;
    offset += numel;
  }
  return CovarianceFrom(gram.unsqueeze(0), ToQ(*inner, t).unsqueeze(0), inner->shrink)[0];
}

absl::StatusOr<Linearized> LowRankStructure::Linearize(const Network& network,
                                                       const CapturePlan& plan, const at::Tensor& x,
                                                       const LinearizeRequest& request) const {
  return curvature_.residual_kind == ResidualKind::kDiagonal
             ? LinearizeDiagonal(network, plan, x, request)
             : LinearizeGroups(network, plan, x, request);
}

absl::StatusOr<Linearized> LowRankStructure::LinearizeGroups(
    const Network& network, const CapturePlan& plan, const at::Tensor& x,
    const LinearizeRequest& request) const {
  const auto groups = static_cast<int64_t>(group_scale_.size());
  LAPLACED_ASSIGN_OR_RETURN(
      const JacobianProducts products,
      ComputeGroupedProducts(network, plan, x, curvature_.directions, group_of_, groups,
                             JacobiansFor(request, network)));
  return CatchTorch("functional variance", [&]() -> absl::StatusOr<Linearized> {
    // sum over groups of weight * part, for parts [L, ...]
    const auto combine = [&](const at::Tensor& parts, const at::Tensor& weights) {
      if (groups == 1) return parts[0] * weights[0];
      std::vector<int64_t> shape(parts.sizes().begin() + 1, parts.sizes().end());
      return at::mm(weights.unsqueeze(0), parts.view({groups, -1})).view(shape);
    };
    Linearized result;
    result.f = products.f.to(at::kDouble);
    const at::Tensor diagonals = products.g.diagonal(0, 2, 3).contiguous();  // [L, B, C]
    for (const Precisions& at : request.variance_at) {
      const std::shared_ptr<const Inner> inner = At(at);
      const at::Tensor weights = 1 / inner->diagonal;
      result.variance.push_back(VarianceFrom(
          combine(diagonals, weights), ToQ(*inner, combine(products.t, weights)), inner->shrink));
    }
    for (const Precisions& at : request.covariance_at) {
      const std::shared_ptr<const Inner> inner = At(at);
      const at::Tensor weights = 1 / inner->diagonal;
      result.covariance.push_back(CovarianceFrom(
          combine(products.g, weights), ToQ(*inner, combine(products.t, weights)), inner->shrink));
    }
    if (request.outside) {
      result.outside = OutsideOf(diagonals.sum(at::IntArrayRef({0, 2})), products.t.sum(0));
    }
    return result;
  });
}

namespace {

// J S U and J S J' (or its diagonal) for several diagonal matrices S.
class ScaledSink : public JacobianSink {
 public:
  ScaledSink(const Network& network, const at::Tensor& directions, int64_t rows,
             const std::vector<at::Tensor>& scales, size_t with_gram)
      : network_(network), directions_(directions), rows_(rows), with_gram_(with_gram) {
    for (const at::Tensor& s : scales) scales_.push_back(s.to(directions.scalar_type()));
  }

  void Start(const at::Tensor& f) override {
    outputs = f;
    const int64_t b = f.size(0);
    for (size_t i = 0; i < scales_.size(); ++i) {
      t.push_back(at::zeros({b, rows_, directions_.size(1)}, at::kDouble));
      g.push_back(i < with_gram_ ? at::zeros({b, rows_, rows_}, at::kDouble)
                                 : at::zeros({b, rows_}, at::kDouble));
    }
  }

  void Add(size_t parameter, int64_t begin, const at::Tensor& jacobian) override {
    const Parameter& p = network_.parameters()[parameter];
    const int64_t b = jacobian.size(0), c = jacobian.size(1), n = p.value.numel();
    const at::Tensor u = directions_.narrow(0, p.offset, n);
    for (size_t i = 0; i < scales_.size(); ++i) {
      const at::Tensor scaled = jacobian * scales_[i].narrow(0, p.offset, n);
      t[i].narrow(0, begin, b).add_(at::mm(scaled.view({b * c, n}), u).view({b, c, u.size(1)}));
      g[i].narrow(0, begin, b)
          .add_(i < with_gram_ ? at::bmm(scaled, jacobian.transpose(1, 2))
                               : (scaled * jacobian).sum(at::IntArrayRef({2}), false, at::kDouble));
    }
  }

  at::Tensor outputs;
  std::vector<at::Tensor> t;  // [B, R, K] for each scale
  std::vector<at::Tensor> g;  // [B, R, R], or [B, R] after the first `with_gram`

 private:
  const Network& network_;
  const at::Tensor directions_;
  const int64_t rows_;  // R
  const size_t with_gram_;
  std::vector<at::Tensor> scales_;  // [P]
};

}  // namespace

absl::StatusOr<Linearized> LowRankStructure::LinearizeDiagonal(
    const Network& network, const CapturePlan& plan, const at::Tensor& x,
    const LinearizeRequest& request) const {
  std::vector<std::shared_ptr<const Inner>> inner;
  std::vector<at::Tensor> scales;
  for (const auto* list : {&request.covariance_at, &request.variance_at}) {
    for (const Precisions& at : *list) {
      inner.push_back(At(at));
      scales.push_back(1 / inner.back()->diagonal);
    }
  }
  if (request.outside) scales.push_back(at::ones({n_parameters()}, at::kDouble));
  const size_t n_covariances = request.covariance_at.size();
  const JacobianOptions options = JacobiansFor(request, network);
  ScaledSink sink(network, curvature_.directions, RowsOf(request, network), scales, n_covariances);
  LAPLACED_RETURN_IF_ERROR(ForEachJacobian(network, plan, x, options, sink));
  return CatchTorch("functional variance", [&]() -> absl::StatusOr<Linearized> {
    Linearized result;
    result.f = sink.outputs.to(at::kDouble);
    for (size_t i = 0; i < inner.size(); ++i) {
      const at::Tensor y = ToQ(*inner[i], sink.t[i]);
      if (i < n_covariances) {
        result.covariance.push_back(CovarianceFrom(sink.g[i], y, inner[i]->shrink));
      } else {
        result.variance.push_back(VarianceFrom(sink.g[i], y, inner[i]->shrink));
      }
    }
    if (request.outside) {
      result.outside = OutsideOf(sink.g.back().sum(1), sink.t.back());
    }
    return result;
  });
}

double IsotropicResidual(double trace, const at::Tensor& curvature, int64_t n_parameters) {
  const int64_t remaining = n_parameters - curvature.size(0);
  if (remaining <= 0) return 0;
  return std::max(0.0, trace - curvature.sum().item<double>()) / static_cast<double>(remaining);
}

at::Tensor BlockShares(const at::Tensor& directions, const std::vector<int64_t>& block_sizes) {
  std::vector<at::Tensor> shares;
  int64_t offset = 0;
  for (const int64_t size : block_sizes) {
    shares.push_back(directions.narrow(0, offset, size).to(at::kDouble).square().sum(0));
    offset += size;
  }
  return at::stack(shares);
}

}  // namespace laplaced
