#include "server/laplace/kronecker_structure.h"

#include <utility>

#include "server/model/torch_status.h"

namespace laplaced {
namespace {

// V or its diagonal at several precisions, from Jacobians in the eigenbasis.
class EigenbasisSink : public JacobianSink {
 public:
  // Variances of Sigma's eigenvalues: `dense` for full covariances, [P] each; `diagonal` [P, D].
  EigenbasisSink(const Network& network, const std::vector<BlockBasis>& bases, int64_t rows,
                 std::vector<at::Tensor> dense, at::Tensor diagonal)
      : network_(network),
        bases_(bases),
        rows_(rows),
        dense_(std::move(dense)),
        diagonal_(std::move(diagonal)) {}

  void Start(const at::Tensor& f) override {
    outputs = f;
    const int64_t b = f.size(0);
    covariance.assign(dense_.size(), {});
    for (at::Tensor& v : covariance) v = at::zeros({b, rows_, rows_}, at::kDouble);
    variance = at::zeros({b, rows_, diagonal_.size(1)}, at::kDouble);
  }

  void Add(size_t parameter, int64_t begin, const at::Tensor& jacobian) override {
    const Parameter& p = network_.parameters()[parameter];
    const int64_t b = jacobian.size(0), c = jacobian.size(1), n = p.value.numel();
    const at::Tensor turned = bases_[parameter].ToBasis(jacobian);
    for (size_t i = 0; i < dense_.size(); ++i) {
      covariance[i]
          .narrow(0, begin, b)
          .add_(at::bmm(turned * dense_[i].narrow(0, p.offset, n), turned.transpose(1, 2)));
    }
    if (diagonal_.size(1) > 0) {
      variance.narrow(0, begin, b)
          .add_(at::mm(turned.square().view({b * c, n}), diagonal_.narrow(0, p.offset, n))
                    .view({b, c, diagonal_.size(1)}));
    }
  }

  at::Tensor outputs;
  std::vector<at::Tensor> covariance;  // [B, R, R] each
  at::Tensor variance;                 // [B, R, D]

 private:
  const Network& network_;
  const std::vector<BlockBasis>& bases_;
  const int64_t rows_;  // R
  const std::vector<at::Tensor> dense_;
  const at::Tensor diagonal_;
};

}  // namespace

KroneckerStructure::KroneckerStructure(KroneckerCurvature curvature, at::ScalarType precision)
    : curvature_(std::move(curvature)) {
  if (curvature_.prior_scale.empty()) curvature_.prior_scale.assign(curvature_.bases.size(), 1.0);
  std::vector<at::Tensor> values, scales;
  for (size_t i = 0; i < curvature_.bases.size(); ++i) {
    BlockBasis& basis = curvature_.bases[i];
    if (basis.left.defined()) basis.left = basis.left.to(precision);
    if (basis.right.defined()) basis.right = basis.right.to(precision);
    values.push_back(curvature_.values[i]);
    scales.push_back(at::full_like(curvature_.values[i], curvature_.prior_scale[i]));
  }
  values_ = at::cat(values);
  scale_ = at::cat(scales);
}

at::Tensor KroneckerStructure::Eigenprecisions(const Precisions& at) const {
  return at.likelihood * values_ + at.prior * scale_;
}

double KroneckerStructure::LogDetPrecision(const Precisions& at) const {
  return Eigenprecisions(at).log().sum().item<double>();
}

double KroneckerStructure::EffectiveParameters(const Precisions& at) const {
  return (at.likelihood * values_ / Eigenprecisions(at)).sum().item<double>();
}

at::Tensor KroneckerStructure::Deviations(const Precisions& at, const at::Tensor& noise) const {
  const at::Tensor scaled =
      noise * Eigenprecisions(at).rsqrt().to(noise.scalar_type()).unsqueeze(1);
  std::vector<at::Tensor> parts;
  int64_t offset = 0;
  for (size_t i = 0; i < curvature_.bases.size(); ++i) {
    const int64_t n = curvature_.values[i].size(0);
    parts.push_back(
        curvature_.bases[i].FromBasis(scaled.narrow(0, offset, n).t().contiguous()).t());
    offset += n;
  }
  return at::cat(parts);
}

at::Tensor KroneckerStructure::RowCovariance(const Precisions& at,
                                             const at::Tensor& jacobian) const {
  const at::Tensor deviations = Eigenprecisions(at).rsqrt().to(jacobian.scalar_type());
  at::Tensor covariance = at::zeros({jacobian.size(0), jacobian.size(0)}, at::kDouble);
  int64_t offset = 0;
  for (size_t i = 0; i < curvature_.bases.size(); ++i) {
    const int64_t n = curvature_.values[i].size(0);
    const at::Tensor turned = curvature_.bases[i].ToBasis(jacobian.narrow(1, offset, n)) *
                              deviations.narrow(0, offset, n);
    covariance += at::mm(turned, turned.t());
    offset += n;
  }
  return (covariance + covariance.t()) / 2;
}

double KroneckerStructure::RowMacs() const {
  double macs = 0;
  for (const BlockBasis& basis : curvature_.bases) {
    const auto rows = static_cast<double>(basis.rows), columns = static_cast<double>(basis.columns);
    if (basis.left.defined()) macs += rows * rows * columns;
    if (basis.right.defined()) macs += rows * columns * columns;
  }
  return macs;
}

absl::StatusOr<Linearized> KroneckerStructure::Linearize(const Network& network,
                                                         const CapturePlan& plan,
                                                         const at::Tensor& x,
                                                         const LinearizeRequest& request) const {
  return CatchTorch("functional variance", [&]() -> absl::StatusOr<Linearized> {
    const auto eigenvariances = [&](const Precisions& at) {
      return (1 / Eigenprecisions(at)).to(x.scalar_type());
    };
    std::vector<at::Tensor> dense, diagonal;
    for (const Precisions& at : request.covariance_at) dense.push_back(eigenvariances(at));
    for (const Precisions& at : request.variance_at) diagonal.push_back(eigenvariances(at));
    const JacobianOptions options = JacobiansFor(request, network);
    EigenbasisSink sink(
        network, curvature_.bases, RowsOf(request, network), std::move(dense),
        diagonal.empty() ? at::empty({n_parameters(), 0}, x.options()) : at::stack(diagonal, 1));
    LAPLACED_RETURN_IF_ERROR(ForEachJacobian(network, plan, x, options, sink));
    Linearized result;
    result.f = sink.outputs.to(at::kDouble);
    for (const at::Tensor& v : sink.covariance) {
      result.covariance.push_back((v + v.transpose(1, 2)) / 2);
    }
    for (size_t i = 0; i < request.variance_at.size(); ++i) {
      result.variance.push_back(sink.variance.select(2, static_cast<int64_t>(i)).contiguous());
    }
    return result;
  });
}

}  // namespace laplaced
