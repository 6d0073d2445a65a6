#include "server/curvature/output_factor.h"

#include <cmath>
#include <random>
#include <vector>

#include "server/linalg/mix_bits.h"

namespace laplaced {
namespace {

// Draws of one example. Written out, because the distributions of <random> differ between standard
// libraries.
class ExampleRandom {
 public:
  ExampleRandom(uint64_t seed, int64_t row)
      : engine_(MixBits(MixBits(seed) ^ static_cast<uint64_t>(row))) {}

  // In [0, 1), 53 bits.
  double Uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

  // Standard normal, by Box and Muller.
  double Normal() {
    const double radius = std::sqrt(-2 * std::log(1 - Uniform()));
    return radius * std::cos(2 * M_PI * Uniform());
  }

 private:
  std::mt19937_64 engine_;
};

int64_t DrawClass(const double* p, int64_t c, double u) {
  int64_t k = 0;
  for (double sum = p[0]; u >= sum && k + 1 < c; sum += p[k]) ++k;
  return k;
}

// S targets for every example from the model's own predictive distribution, each as the data set
// would have it: [S, B] classes or [S, B, C] in fp64.
at::Tensor DrawTargets(const CurvatureSpec& spec, const Likelihood& likelihood, const at::Tensor& f,
                       const at::Tensor& rows) {
  using Kind = Likelihood::Kind;
  const at::Tensor f64 = f.to(at::kDouble);
  const at::Tensor parameters = (likelihood.kind == Kind::kCategorical ? at::softmax(f64, 1)
                                 : likelihood.kind == Kind::kBernoulli ? at::sigmoid(f64)
                                                                       : f64)
                                    .contiguous();
  const at::Tensor numbers = rows.to(at::kLong).contiguous();
  const int64_t b = f.size(0), c = f.size(1), samples = spec.fisher_samples;
  const bool classes = likelihood.kind == Kind::kCategorical;
  at::Tensor targets =
      classes ? at::empty({samples, b}, at::kLong) : at::empty({samples, b, c}, at::kDouble);
  for (int64_t n = 0; n < b; ++n) {
    ExampleRandom random(spec.seed, numbers.data_ptr<int64_t>()[n]);
    const double* p = parameters.data_ptr<double>() + n * c;
    for (int64_t s = 0; s < samples; ++s) {
      if (classes) {
        targets.data_ptr<int64_t>()[s * b + n] = DrawClass(p, c, random.Uniform());
        continue;
      }
      double* y = targets.data_ptr<double>() + (s * b + n) * c;
      for (int64_t k = 0; k < c; ++k) {
        y[k] = likelihood.kind == Kind::kBernoulli
                   ? (random.Uniform() < p[k] ? 1 : 0)
                   : p[k] + likelihood.sigma_noise * random.Normal();
      }
    }
  }
  return targets;
}

// L with L L' = Lambda, [B, C, C] fp64.
at::Tensor ExactFactor(const Likelihood& likelihood, const at::Tensor& f) {
  const at::Tensor f64 = f.to(at::kDouble);
  switch (likelihood.kind) {
    case Likelihood::Kind::kCategorical: {
      // Column c is sqrt(p_c) (e_c - p).
      const at::Tensor p = at::softmax(f64, 1);
      return (at::eye(f.size(1), f64.options()) - p.unsqueeze(2)) * p.sqrt().unsqueeze(1);
    }
    case Likelihood::Kind::kBernoulli:
      return at::diag_embed((at::sigmoid(f64) * at::sigmoid(-f64)).sqrt());
    case Likelihood::Kind::kGaussian:
      break;
  }
  return at::eye(f.size(1), f64.options()).div_(likelihood.sigma_noise).repeat({f.size(0), 1, 1});
}

}  // namespace

int64_t CurvatureSpec::Columns(int64_t n_outputs) const {
  TORCH_CHECK(kind != CurvatureKind::kHessian, "the Hessian has no output factor");
  if (kind == CurvatureKind::kGgn) return n_outputs;
  return kind == CurvatureKind::kMcFisher ? fisher_samples : 1;
}

at::Tensor OutputFactor(const CurvatureSpec& spec, const Likelihood& likelihood,
                        const at::Tensor& f, const at::Tensor& targets, const at::Tensor& rows) {
  at::NoGradGuard no_grad;
  switch (spec.kind) {
    case CurvatureKind::kGgn:
      return ExactFactor(likelihood, f).to(f.scalar_type());
    case CurvatureKind::kEmpiricalFisher:
      return likelihood.LossGradient(f, targets).unsqueeze(2);
    case CurvatureKind::kMcFisher: {
      const at::Tensor drawn = DrawTargets(spec, likelihood, f, rows);
      std::vector<at::Tensor> columns;
      for (int64_t s = 0; s < spec.fisher_samples; ++s) {
        columns.push_back(likelihood.LossGradient(f, drawn[s]));
      }
      return at::stack(columns, 2).div_(std::sqrt(static_cast<double>(spec.fisher_samples)));
    }
    case CurvatureKind::kHessian:
      break;
  }
  TORCH_CHECK(false, "the Hessian has no output factor");
  return {};  // for compilers that do not see that the line above never returns
}

}  // namespace laplaced
