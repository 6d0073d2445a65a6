#include "tests/bench/paper/spectra.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/curvature/directional_curvature.h"
#include "server/curvature/ggn_operator.h"
#include "server/curvature/mean_gradient.h"
#include "server/data/sampler.h"
#include "server/linalg/lanczos.h"
#include "server/model/parameter_values.h"
#include "tests/bench/paper/statistics.h"

namespace laplaced::paper {
namespace {

constexpr int64_t kBlock = 64;  // of D, for draws of B2

// The top of G_B1 for one batch.
struct Top {
  at::Tensor values;   // [K] fp64, on B1
  at::Tensor vectors;  // [P, K + 1] in the network's precision; the last is (u1 + u2) / sqrt(2)
};

Top FindTop(const Options& options, const Experiment& e, const at::Tensor& rows) {
  LanczosOptions lanczos;
  lanczos.rank = options.rank;
  lanczos.tolerance = options.tolerance;
  const EigenPairs pairs = Must(Lanczos(GgnOperator(e.risk, rows), lanczos));
  if (pairs.values.size(0) < options.rank) {
    Die(absl::StrCat("a batch of ", rows.size(0), " has curvature along ", pairs.values.size(0),
                     " directions only, fewer than --rank"));
  }
  if (!pairs.converged) std::fprintf(stderr, "Lanczos did not converge\n");
  const at::Tensor between =
      (pairs.vectors.narrow(1, 0, 1) + pairs.vectors.narrow(1, 1, 1)) / std::sqrt(2.0);
  return {pairs.values, at::cat({pairs.vectors, between}, 1).to(e.risk.network.dtype())};
}

// D along all directions at once, and the means of its blocks.
struct OnD {
  CurvatureStatistics all;
  at::Tensor blocks;  // [blocks, directions] fp64, of kBlock examples each
};

OnD MeasureOnD(const Experiment& e, const at::Tensor& directions) {
  const int64_t n = e.d.size(0), whole = n / kBlock;
  std::vector<int64_t> sizes(static_cast<size_t>(whole), kBlock);
  sizes.push_back(n - whole * kBlock);
  OnD on_d;
  std::vector<at::Tensor> means;
  for (const at::Tensor& part : DisjointBatches(n, sizes, 1)) {
    if (part.size(0) == 0) continue;
    const auto measured =
        Must(MeasureCurvature(e.risk, e.plan, e.d.index_select(0, part), directions));
    on_d.all.Merge(measured);
    if (part.size(0) == kBlock) means.push_back(measured.along.mean);
  }
  on_d.blocks = at::stack(means);
  return on_d;
}

// A quadratic on the plane of u1 and u2.
struct Quadratic {
  double loss, slope1, slope2, c11, c12, c22;
  double operator()(double a, double b) const {
    return loss + a * slope1 + b * slope2 + 0.5 * (c11 * a * a + 2 * c12 * a * b + c22 * b * b);
  }
};

// From the curvature along u1, u2 and the vector between them.
Quadratic MakeQuadratic(const Experiment& e, const at::Tensor& rows, const at::Tensor& u1,
                        const at::Tensor& u2, double c11, double c22, double between) {
  const at::Tensor gradient = Must(MeanGradient(e.risk, rows));
  return {Evaluate(e.risk, e.risk.network, rows).loss,
          at::dot(gradient, u1).item<double>(),
          at::dot(gradient, u2).item<double>(),
          c11,
          between - 0.5 * (c11 + c22),
          c22};
}

class Spectra {
 public:
  Spectra(const Options& options, const Experiment& e)
      : options_(options),
        e_(e),
        width_(options.rank + 1),
        c1_(options.out, "c1_bias_ratio.csv",
            "network,b1,index,repetitions,on_b1,on_d,ratio,ratio_se,on_d_se"),
        c2_(options.out, "c2_debiased_ratio.csv",
            "network,b1,b2,index,repetitions,on_b2,on_d,ratio,ratio_se,on_d_se"),
        c3_(options.out, "c3_relative_sd.csv", "network,b1,index,b2,draws,relative_sd,predicted"),
        c4_(options.out, "c4_overlap.csv", "network,batch,k,repetitions,overlap,overlap_se,chance"),
        quadratics_(options.out, "c6_quadratics.csv",
                    "network,b1,seed,measured_on,loss,slope1,slope2,c11,c12,c22"),
        cut_(options.out, "c6_cut.csv", "network,b1,seed,a,b,q_b1,q_b2,q_d,loss_d") {}

  void Run() {
    std::vector<at::Tensor> directions;
    for (const Repetition& repetition : e_.repetitions) {
      std::vector<at::Tensor> of_repetition;
      std::vector<Top> tops;
      for (const at::Tensor& b1 : repetition.b1) {
        tops.push_back(FindTop(options_, e_, b1));
        of_repetition.push_back(tops.back().vectors);
      }
      on_b2_.push_back(
          Must(MeasureCurvature(e_.risk, e_.plan, repetition.b2, at::cat(of_repetition, 1)))
              .along.mean);
      directions.insert(directions.end(), of_repetition.begin(), of_repetition.end());
      tops_.push_back(std::move(tops));
    }
    on_d_ = MeasureOnD(e_, at::cat(directions, 1));
    for (size_t i = 0; i < options_.batch_sizes.size(); ++i) {
      WriteRatios(i);
      WriteScatter(i);
      WriteOverlap(i);
      WriteCut(i);
    }
  }

 private:
  // Where direction k of batch size i stands in what was measured on all, and on B2 of a
  // repetition.
  int64_t Column(size_t s, size_t i, int64_t k) const {
    return (static_cast<int64_t>(s * options_.batch_sizes.size() + i)) * width_ + k;
  }
  double AlongD(size_t s, size_t i, int64_t k) const {
    return on_d_.all.along.mean[Column(s, i, k)].item<double>();
  }
  double AlongB2(size_t s, size_t i, int64_t k) const {
    return on_b2_[s][static_cast<int64_t>(i) * width_ + k].item<double>();
  }

  void WriteRatios(size_t i) {
    const int64_t b1 = options_.batch_sizes[i];
    const at::Tensor errors_on_d = on_d_.all.along.StandardError();
    for (int64_t k = 0; k < options_.rank; ++k) {
      std::vector<double> on_b1, on_b2, on_d, errors;
      for (size_t s = 0; s < tops_.size(); ++s) {
        on_b1.push_back(tops_[s][i].values[k].item<double>());
        on_b2.push_back(AlongB2(s, i, k));
        on_d.push_back(AlongD(s, i, k));
        errors.push_back(errors_on_d[Column(s, i, k)].item<double>());
      }
      const Estimate biased = RatioOfMeans(on_b1, on_d), debiased = RatioOfMeans(on_b2, on_d);
      c1_.NewRow() << options_.name << b1 << k + 1 << options_.seeds << MeanOf(on_b1).value
                   << MeanOf(on_d).value << biased << MeanOf(errors).value;
      c2_.NewRow() << options_.name << b1 << options_.b2 << k + 1 << options_.seeds
                   << MeanOf(on_b2).value << MeanOf(on_d).value << debiased << MeanOf(errors).value;
      if (k == 0 || k == options_.rank / 2 - 1 || k == options_.rank - 1) {
        std::printf("|B1| = %5d, direction %2d: on B1 %.2f +- %.2f, on B2 %.2f +- %.2f of D\n",
                    static_cast<int>(b1), static_cast<int>(k + 1), biased.value,
                    biased.standard_error, debiased.value, debiased.standard_error);
      }
    }
    std::fflush(stdout);
  }

  void WriteScatter(size_t i) {
    const RunningMoments& along = on_d_.all.along;
    const at::Tensor spread =
        (along.m2 / static_cast<double>(along.samples - 1)).sqrt() / along.mean;
    constexpr int64_t kFewestDraws = 3;
    for (int64_t m = 1; on_d_.blocks.size(0) / m >= kFewestDraws; m *= 2) {
      const int64_t draws = on_d_.blocks.size(0) / m;
      const at::Tensor means =
          on_d_.blocks.narrow(0, 0, draws * m).view({draws, m, -1}).mean(1);  // [draws, directions]
      const at::Tensor sd = means.std(0, /*unbiased=*/true) / along.mean;
      for (int64_t k = 0; k < options_.rank; ++k) {
        const int64_t column = Column(0, i, k);
        c3_.NewRow() << options_.name << options_.batch_sizes[i] << k + 1 << m * kBlock << draws
                     << sd[column].item<double>()
                     << spread[column].item<double>() / std::sqrt(static_cast<double>(m * kBlock));
      }
    }
  }

  void WriteOverlap(size_t i) {
    const auto p = static_cast<double>(e_.risk.network.n_parameters());
    for (int64_t k = 1;; k = std::min(2 * k, options_.rank)) {
      std::vector<double> overlaps;
      for (size_t s = 0; s < tops_.size(); ++s) {
        const at::Tensor& u = tops_[s][i].vectors;
        const at::Tensor& v = tops_[(s + 1) % tops_.size()][i].vectors;
        const at::Tensor gram = at::mm(u.narrow(1, 0, k).t(), v.narrow(1, 0, k));
        overlaps.push_back(gram.to(at::kDouble).square().sum().item<double>() /
                           static_cast<double>(k));
      }
      c4_.NewRow() << options_.name << options_.batch_sizes[i] << k << options_.seeds
                   << MeanOf(overlaps) << static_cast<double>(k) / p;
      if (k == options_.rank) break;
    }
  }

  void WriteCut(size_t i) {
    const Repetition& repetition = e_.repetitions[0];
    const Top& top = tops_[0][i];
    const int64_t last = options_.rank;  // the vector between
    const at::Tensor u1 = top.vectors.select(1, 0).to(at::kDouble),
                     u2 = top.vectors.select(1, 1).to(at::kDouble);
    const double l1 = top.values[0].item<double>(), l2 = top.values[1].item<double>();
    const Quadratic on_b1 = MakeQuadratic(e_, repetition.b1[i], u1, u2, l1, l2, 0.5 * (l1 + l2));
    const Quadratic on_b2 = MakeQuadratic(e_, repetition.b2, u1, u2, AlongB2(0, i, 0),
                                          AlongB2(0, i, 1), AlongB2(0, i, last));
    const Quadratic on_d =
        MakeQuadratic(e_, e_.d, u1, u2, AlongD(0, i, 0), AlongD(0, i, 1), AlongD(0, i, last));
    const int64_t b1 = options_.batch_sizes[i], seed = 1;
    for (const auto& [name, q] : {std::pair{"b1", on_b1}, {"b2", on_b2}, {"d", on_d}}) {
      quadratics_.NewRow() << options_.name << b1 << seed << std::string(name) << q.loss << q.slope1
                           << q.slope2 << q.c11 << q.c12 << q.c22;
    }
    const at::Tensor theta = e_.risk.network.FlatParameters().to(at::kDouble);
    const at::Tensor seen = e_.d.narrow(0, 0, options_.cut_examples);
    const double reach1 = std::sqrt(2 / on_d.c11), reach2 = std::sqrt(2 / on_d.c22);
    const auto at_point = [&](int64_t j, double reach) {
      return reach *
             (2 * static_cast<double>(j) / static_cast<double>(options_.cut_points - 1) - 1);
    };
    for (int64_t j = 0; j < options_.cut_points; ++j) {
      for (int64_t l = 0; l < options_.cut_points; ++l) {
        const double a = at_point(j, reach1), b = at_point(l, reach2);
        double loss = kNone;
        if (options_.cut_examples > 0) {
          const Network moved = Must(WithParameters(e_.risk.network, theta + u1 * a + u2 * b));
          loss = Evaluate(e_.risk, moved, seen).loss;
        }
        cut_.NewRow() << options_.name << b1 << seed << a << b << on_b1(a, b) << on_b2(a, b)
                      << on_d(a, b) << loss;
      }
    }
  }

  const Options& options_;
  const Experiment& e_;
  const int64_t width_;  // directions of one batch, the vector between included
  Csv c1_, c2_, c3_, c4_, quadratics_, cut_;
  std::vector<std::vector<Top>> tops_;  // by repetition and batch size
  std::vector<at::Tensor> on_b2_;       // by repetition, [batch sizes * width]
  OnD on_d_;
};

}  // namespace

void MeasureSpectra(const Options& options, const Experiment& experiment) {
  Spectra(options, experiment).Run();
}

}  // namespace laplaced::paper
