#include "tests/bench/paper/cg_curves.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/curvature/directional_curvature.h"
#include "server/laplace/newton_step.h"
#include "server/laplace/regularised_objective.h"
#include "server/model/parameter_values.h"
#include "tests/bench/paper/statistics.h"

namespace laplaced::paper {
namespace {

NewtonOptions StepOptions(const Options& options, double damping) {
  NewtonOptions newton;
  newton.max_steps = options.cg_steps;
  newton.damping = damping;
  newton.tolerance = 0;
  return newton;
}

// Slopes and curvatures of the objective along unit directions u [P, K], on some examples.
struct Along {
  at::Tensor slope, curvature;  // [K] fp64
};

Along MeasureAlong(const EmpiricalRisk& risk, const CapturePlan& plan, const at::Tensor& rows,
                   const at::Tensor& u) {
  const at::Tensor decay = WeightDecayVector(risk.network, risk.manifest);
  const auto loss = Must(MeasureCurvature(risk, plan, rows, u.to(risk.network.dtype())));
  return {at::mv(u.t(), Must(RegularisedGradient(risk, rows))),
          loss.along.mean + at::mv(u.square().t(), decay)};
}

// The directions of one run of conjugate gradients, and what its own batch says along them.
struct OwnPath {
  at::Tensor u;  // [P, K] fp64, unit
  Along on_b1;
  int64_t begin;  // of its columns among those of all runs
  int64_t size() const { return u.size(1); }
};

OwnPath FollowBatch(const Options& options, const EmpiricalRisk& risk, const at::Tensor& b1,
                    int64_t begin) {
  const auto path = Must(FindNewtonPath(risk, b1, {}, StepOptions(options, 0))).path();
  const at::Tensor norms = path.directions.norm(2, {0}, /*keepdim=*/true);
  OwnPath own{path.directions / norms, {}, begin};
  own.on_b1.slope = at::mv(own.u.t(), Must(RegularisedGradient(risk, b1)));
  own.on_b1.curvature = at::empty({path.size()}, at::kDouble);
  for (int64_t k = 0; k < path.size(); ++k) {
    const double norm = norms[0][k].item<double>();
    own.on_b1.curvature[k] = path.steps[static_cast<size_t>(k)].curvature / (norm * norm);
  }
  return own;
}

class Slopes {
 public:
  Slopes(const Options& options, const Experiment& e, const EmpiricalRisk& risk,
         std::string checkpoint, Csv& csv)
      : options_(options), e_(e), risk_(risk), checkpoint_(std::move(checkpoint)), csv_(csv) {}

  void Run() {
    std::vector<at::Tensor> all;
    int64_t begin = 0;
    for (const Repetition& repetition : e_.repetitions) {
      std::vector<OwnPath> paths;
      std::vector<at::Tensor> of_repetition;
      begins_.push_back(begin);
      for (const at::Tensor& b1 : repetition.b1) {
        paths.push_back(FollowBatch(options_, risk_, b1, begin));
        begin += paths.back().size();
        of_repetition.push_back(paths.back().u);
      }
      on_b2_.push_back(MeasureAlong(risk_, e_.plan, repetition.b2, at::cat(of_repetition, 1)));
      all.insert(all.end(), of_repetition.begin(), of_repetition.end());
      paths_.push_back(std::move(paths));
    }
    on_d_ = MeasureAlong(risk_, e_.plan, e_.d, at::cat(all, 1));
    for (size_t i = 0; i < options_.batch_sizes.size(); ++i) Write(i);
    std::fflush(stdout);
  }

 private:
  void Write(size_t i) {
    int64_t steps = options_.cg_steps;
    for (const auto& paths : paths_) steps = std::min(steps, paths[i].size());
    for (int64_t k = 0; k < steps; ++k) {
      std::vector<double> s1, s2, sd, c1, c2, cd;
      for (size_t s = 0; s < paths_.size(); ++s) {
        const OwnPath& own = paths_[s][i];
        const int64_t on_all = own.begin + k, on_own = on_all - begins_[s];
        s1.push_back(own.on_b1.slope[k].item<double>());
        s2.push_back(on_b2_[s].slope[on_own].item<double>());
        sd.push_back(on_d_.slope[on_all].item<double>());
        c1.push_back(own.on_b1.curvature[k].item<double>());
        c2.push_back(on_b2_[s].curvature[on_own].item<double>());
        cd.push_back(on_d_.curvature[on_all].item<double>());
      }
      const Estimate biased = RatioOfMeans(s1, sd), debiased = RatioOfMeans(s2, sd);
      csv_.NewRow() << options_.name << checkpoint_ << options_.batch_sizes[i] << options_.b2
                    << k + 1 << options_.seeds << MeanOf(s1).value << MeanOf(s2).value
                    << MeanOf(sd).value << biased << debiased << MeanOf(c1).value
                    << MeanOf(c2).value << MeanOf(cd).value;
      if (k != 0 && k != steps / 2 && k != steps - 1) continue;
      std::printf(
          "%s, |B1| = %5d, CG step %2d: slope on B1 %.2f +- %.2f, on B2 %.2f +- %.2f of D; "
          "curvature %.2f, %.2f\n",
          checkpoint_.c_str(), static_cast<int>(options_.batch_sizes[i]), static_cast<int>(k + 1),
          biased.value, biased.standard_error, debiased.value, debiased.standard_error,
          MeanOf(c1).value / MeanOf(cd).value, MeanOf(c2).value / MeanOf(cd).value);
    }
  }

  const Options& options_;
  const Experiment& e_;
  const EmpiricalRisk& risk_;
  const std::string checkpoint_;
  Csv& csv_;
  std::vector<std::vector<OwnPath>> paths_;  // by repetition and batch size
  std::vector<int64_t> begins_;              // of each repetition's columns
  std::vector<Along> on_b2_;                 // by repetition
  Along on_d_;
};

// Losses after every step: [steps + 1], of one run.
struct Curve {
  std::vector<double> batch, d, accuracy;
};

Curve Follow(const Options& options, const EmpiricalRisk& risk, const NewtonPath& path,
             const at::Tensor& batch, const at::Tensor& d) {
  Curve curve;
  const at::Tensor theta = risk.network.FlatParameters().to(at::kDouble);
  for (int64_t k = 0; k <= options.cg_steps; ++k) {
    if (k > path.path().size()) {
      curve.batch.push_back(curve.batch.back());
      curve.d.push_back(curve.d.back());
      curve.accuracy.push_back(curve.accuracy.back());
      continue;
    }
    const Network moved = Must(WithParameters(risk.network, theta + path.path().Iterate(k)));
    curve.batch.push_back(Evaluate(risk, moved, batch).loss);
    const Quality on_d = Evaluate(risk, moved, d);
    curve.d.push_back(on_d.loss);
    curve.accuracy.push_back(on_d.accuracy);
  }
  return curve;
}

class Curves {
 public:
  Curves(const Options& options, const Experiment& e, const EmpiricalRisk& early)
      : options_(options),
        e_(e),
        risk_(early),
        csv_(options.out, "c7_cg_curves.csv",
             "network,checkpoint,b1,b2,damping,variant,step,repetitions,loss_b1,loss_b1_se,loss_d,"
             "loss_d_se,accuracy_d,accuracy_d_se") {}

  void Run() {
    for (const double damping : options_.dampings) {
      std::vector<Curve> single, equal, debiased;
      for (const Repetition& r : e_.repetitions) {
        const at::Tensor both = std::get<0>(at::cat({r.cg_b1, r.cg_b2}).sort());
        // Both single batch and debiased, out of one run of conjugate gradients.
        const NewtonPath path = Find(damping, r.cg_b1, r.cg_b2);
        single.push_back(Trace({path.chosen_on_first, {}}, r.cg_b1));
        debiased.push_back(Trace(path, r.cg_b1));
        equal.push_back(Trace(Find(damping, both, {}), both));
      }
      Write(damping, "single", single);
      Write(damping, "equal_budget", equal);
      Write(damping, "debiased", debiased);
      Write(damping, "oracle", {Trace(Find(damping, e_.oracle, {}), e_.oracle)});
    }
  }

 private:
  NewtonPath Find(double damping, const at::Tensor& first, const at::Tensor& second) const {
    return Must(FindNewtonPath(risk_, first, second, StepOptions(options_, damping)));
  }
  Curve Trace(const NewtonPath& path, const at::Tensor& batch) const {
    return Follow(options_, risk_, path, batch, e_.d);
  }

  void Write(double damping, const std::string& variant, const std::vector<Curve>& curves) {
    const bool oracle = variant == "oracle";
    for (int64_t k = 0; k <= options_.cg_steps; ++k) {
      std::vector<double> batch, d, accuracy;
      for (const Curve& curve : curves) {
        batch.push_back(curve.batch[static_cast<size_t>(k)]);
        d.push_back(curve.d[static_cast<size_t>(k)]);
        accuracy.push_back(curve.accuracy[static_cast<size_t>(k)]);
      }
      csv_.NewRow() << options_.name << std::string("early")
                    << (oracle ? options_.oracle_size : options_.cg_b1)
                    << (oracle || variant == "single" ? int64_t{0} : options_.cg_b2) << damping
                    << variant << k << static_cast<int64_t>(curves.size()) << MeanOf(batch)
                    << MeanOf(d) << MeanOf(accuracy);
      if (k == 0 || k == options_.cg_steps / 2 || k == options_.cg_steps) {
        std::printf("damping %g, %-12s step %2d: loss %.3f on its batch, %.3f +- %.3f on D\n",
                    damping, variant.c_str(), static_cast<int>(k), MeanOf(batch).value,
                    MeanOf(d).value, MeanOf(d).standard_error);
      }
    }
    std::fflush(stdout);
  }

  const Options& options_;
  const Experiment& e_;
  const EmpiricalRisk& risk_;
  Csv csv_;
};

void MeasureSlopes(const Options& options, const Experiment& experiment,
                   const EmpiricalRisk& early) {
  Csv slopes(options.out, "c5_slope_ratio.csv",
             "network,checkpoint,b1,b2,step,repetitions,on_b1,on_b2,on_d,biased_ratio,"
             "biased_ratio_se,debiased_ratio,debiased_ratio_se,curvature_b1,curvature_b2,"
             "curvature_d");
  if (!options.quick) Slopes(options, experiment, experiment.risk, "trained", slopes).Run();
  Slopes(options, experiment, early, "early", slopes).Run();
}

}  // namespace

void MeasureConjugateGradients(const Options& options, const Experiment& experiment, bool slopes,
                               bool curves) {
  const EmpiricalRisk early = EarlyCheckpoint(options, experiment.risk);
  if (slopes) MeasureSlopes(options, experiment, early);
  if (curves) Curves(options, experiment, early).Run();
}

}  // namespace laplaced::paper
