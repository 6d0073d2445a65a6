#include "server/laplace/newton_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/data/sampler.h"
#include "server/laplace/regularised_objective.h"
#include "server/model/parameter_values.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Of the cost of an example's forward pass.
constexpr int64_t kProductCost = 5, kGradientCost = 3;

// Shares of the whole by cost, which only has to look right.
class Meter {
 public:
  Meter(const FitProgressFn& progress, int64_t total) : progress_(progress), total_(total) {}

  absl::Status Add(const std::string& phase, int64_t done, int64_t of, int64_t cost) {
    spent_ += cost;
    if (!progress_) return absl::OkStatus();
    const double share =
        static_cast<double>(spent_) / static_cast<double>(std::max(total_, spent_));
    return progress_(phase, done, of, 0.95 * share);
  }

 private:
  const FitProgressFn& progress_;
  const int64_t total_;
  int64_t spent_ = 0;
};

struct Batches {
  Dataset choosing, judging;
  at::Tensor first, second;  // rows; second is undefined if there is none
};

Batches DrawBatches(const EmpiricalRisk& risk, const Dataset& held_out,
                    const NewtonOptions& options) {
  const int64_t n = risk.size();
  const bool own = held_out.size() == 0;  // training examples are held out
  const int64_t held = own ? options.held_out_size : held_out.size();
  const int64_t judging = held / 2, choosing = held - judging;
  const int64_t taken = own ? held : 0;
  const bool oracle = options.variant == NewtonVariant::kOracle;
  // Held-out examples come first, so that they are the same whatever the variant.
  const std::vector<at::Tensor> rows = DisjointBatches(
      n,
      {own ? choosing : 0, own ? judging : 0, oracle ? n - taken : options.direction_batch_size,
       UsesSecondBatch(options.variant) ? options.curvature_batch_size : 0},
      options.seed);
  Batches batches;
  if (own) {
    batches.choosing = risk.data.Select(rows[0]);
    batches.judging = risk.data.Select(rows[1]);
  } else {
    const auto halves = DisjointBatches(held, {choosing, judging}, options.seed);
    batches.choosing = held_out.Select(halves[0]);
    batches.judging = held_out.Select(halves[1]);
  }
  batches.first = rows[2];
  if (options.variant == NewtonVariant::kEqualBudget) {
    batches.first = std::get<0>(at::cat({rows[2], rows[3]}).sort());
  } else if (options.variant == NewtonVariant::kDebiased) {
    batches.second = rows[3];
  }
  return batches;
}

struct Answers {
  at::Tensor loss;   // [n] fp64
  at::Tensor right;  // [n] fp64, 0 or 1; undefined unless categorical
};

Answers Evaluate(const EmpiricalRisk& risk, const Network& network, const Dataset& data) {
  const bool categorical = risk.likelihood.kind == Likelihood::Kind::kCategorical;
  std::vector<at::Tensor> losses, right;
  for (int64_t begin = 0; begin < data.size(); begin += risk.chunk_size) {
    const Dataset part = data.Slice(begin, std::min(begin + risk.chunk_size, data.size()));
    const at::Tensor f = network.Forward(risk.NetworkInput(part.inputs));
    losses.push_back(risk.likelihood.Loss(f, part.targets));
    if (categorical) right.push_back((f.argmax(1) == part.targets).to(at::kDouble));
  }
  return {at::cat(losses), categorical ? at::cat(right) : at::Tensor()};
}

double MeanLoss(const EmpiricalRisk& risk, const Network& network, const Dataset& data) {
  return Evaluate(risk, network, data).loss.mean().item<double>();
}

HeldOutQuality QualityOf(const Answers& answers) {
  return {answers.loss.mean().item<double>(),
          answers.right.defined() ? answers.right.mean().item<double>() : kNan};
}

// Fills slopes and curvatures of the directions of `path`.
void Trace(const NewtonPath& path, std::vector<NewtonTrace>& trace) {
  const DirectionSteps& first = path.chosen_on_first.path;
  for (int64_t k = 0; k < first.size(); ++k) {
    NewtonTrace row;
    row.step = k + 1;
    const double norm = first.directions.select(1, k).norm().item<double>();
    const DirectionStep& on_first = first.steps[static_cast<size_t>(k)];
    row.slope_b1 = on_first.slope / norm;
    row.curvature_b1 = on_first.curvature / (norm * norm);
    row.slope_b2 = row.curvature_b2 = kNan;
    if (path.on_second) {
      const DirectionStep& on_second = path.on_second->steps[static_cast<size_t>(k)];
      row.slope_b2 = on_second.slope / norm;
      row.curvature_b2 = on_second.curvature / (norm * norm);
      row.skipped = on_second.skipped;
    }
    trace.push_back(row);
  }
}

// Compares checkpoint and chosen iterate on examples that had no part in the choice.
absl::Status Judge(const EmpiricalRisk& risk, const Network& moved, const Dataset& judging,
                   NewtonResult& result) {
  const Answers before = Evaluate(risk, risk.network, judging),
                after = Evaluate(risk, moved, judging);
  result.before = QualityOf(before);
  result.after = QualityOf(after);
  if (!std::isfinite(result.before.loss)) {
    return absl::FailedPreconditionError("the held-out loss of the checkpoint is not finite");
  }
  const at::Tensor change = after.loss - before.loss;
  result.change = change.mean().item<double>();
  result.change_standard_error =
      change.std(/*unbiased=*/true).item<double>() / std::sqrt(static_cast<double>(change.size(0)));
  // False for NaN too.
  result.improved = result.chosen > 0 && result.change < 0;
  if (result.improved && !(-result.change > 2 * result.change_standard_error)) {
    result.warnings.push_back(absl::StrFormat(
        "the held-out loss falls by %.3g, which is within two standard errors (%.3g) of no change: "
        "hold out more examples to be sure",
        -result.change, result.change_standard_error));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<NewtonPath> FindNewtonPath(
    const EmpiricalRisk& risk, const at::Tensor& first, const at::Tensor& second,
    const NewtonOptions& options,
    const std::function<absl::Status(bool on_second, int64_t products)>& on_product) {
  return CatchTorch("Newton step", [&]() -> absl::StatusOr<NewtonPath> {
    const CurvatureSpec spec{options.curvature};
    const auto told = [&](bool on_second) {
      return [&on_product, on_second](int64_t k) {
        return on_product ? on_product(on_second, k) : absl::OkStatus();
      };
    };
    CgOptions cg;
    cg.max_steps = options.max_steps;
    cg.damping = options.damping;
    cg.tolerance = options.tolerance;
    cg.on_step = told(false);
    NewtonPath path;
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor gradient, RegularisedGradient(risk, first));
    LAPLACED_ASSIGN_OR_RETURN(
        path.chosen_on_first,
        ConjugateGradients(*MakeRegularisedOperator(risk, first, spec), gradient, cg));
    if (!second.defined() || path.chosen_on_first.path.size() == 0) return path;
    LAPLACED_ASSIGN_OR_RETURN(const at::Tensor other, RegularisedGradient(risk, second));
    LAPLACED_ASSIGN_OR_RETURN(
        path.on_second,
        MinimiseAlong(*MakeRegularisedOperator(risk, second, spec), other,
                      path.chosen_on_first.path.directions, options.damping, told(true)));
    return path;
  });
}

absl::StatusOr<NewtonResult> RunNewton(const EmpiricalRisk& risk, const Dataset& held_out,
                                       const NewtonOptions& options,
                                       const FitProgressFn& progress) {
  return CatchTorch("Newton step", [&]() -> absl::StatusOr<NewtonResult> {
    NewtonResult result;
    const Batches batches = DrawBatches(risk, held_out, options);
    const int64_t n1 = batches.first.size(0), n_choosing = batches.choosing.size(),
                  n2 = batches.second.defined() ? batches.second.size(0) : 0;
    result.choosing_count = n_choosing;
    result.judging_count = batches.judging.size();
    if (held_out.size() > 0) {
      const int64_t shared = SharedHashes(InputHashes(risk.data), InputHashes(held_out));
      if (100 * shared > held_out.size()) {
        result.warnings.push_back(absl::StrCat(shared, " of ", held_out.size(),
                                               " held-out examples are in the training data too: "
                                               "their loss is optimistic"));
      }
    }
    const int64_t most = options.max_steps;
    Meter meter(progress, kGradientCost * (n1 + n2) + most * kProductCost * (n1 + n2) +
                              (most + 1) * (n1 + n_choosing) + 2 * result.judging_count);
    LAPLACED_RETURN_IF_ERROR(meter.Add("directions", 0, most, 0));
    const auto on_product = [&](bool on_second, int64_t k) {
      return meter.Add(on_second ? "curvature" : "directions", k, most,
                       kProductCost * (on_second ? n2 : n1) + (k == 1 ? kGradientCost * n1 : 0));
    };
    LAPLACED_ASSIGN_OR_RETURN(
        const NewtonPath path,
        FindNewtonPath(risk, batches.first, batches.second, options, on_product));
    result.end = path.chosen_on_first.end;
    result.skipped = path.path().skipped();
    result.trace = {{0, kNan, kNan, kNan, kNan}};
    Trace(path, result.trace);

    const Dataset first = risk.data.Select(batches.first);
    const at::Tensor theta = risk.network.FlatParameters().to(at::kDouble);
    const auto n_trace = static_cast<int64_t>(result.trace.size());
    for (NewtonTrace& row : result.trace) {
      LAPLACED_ASSIGN_OR_RETURN(
          const Network moved, WithParameters(risk.network, theta + path.path().Iterate(row.step)));
      row.batch_loss = MeanLoss(risk, moved, first);
      row.choosing_loss = MeanLoss(risk, moved, batches.choosing);
      // A loss that is not finite never wins.
      if (row.choosing_loss < result.trace[static_cast<size_t>(result.chosen)].choosing_loss) {
        result.chosen = row.step;
      }
      LAPLACED_RETURN_IF_ERROR(meter.Add("held-out loss", row.step + 1, n_trace, n1 + n_choosing));
    }
    if (!std::isfinite(result.trace[0].choosing_loss)) {
      return absl::FailedPreconditionError("the held-out loss of the checkpoint is not finite");
    }
    const at::Tensor x = path.path().Iterate(result.chosen);
    result.relative_length = x.norm().item<double>() / theta.norm().item<double>();
    LAPLACED_ASSIGN_OR_RETURN(const Network moved, WithParameters(risk.network, theta + x));
    result.parameters = moved.FlatParameters();
    LAPLACED_RETURN_IF_ERROR(Judge(risk, moved, batches.judging, result));
    return result;
  });
}

std::string Summary(const NewtonResult& result) {
  const auto steps = static_cast<int64_t>(result.trace.size()) - 1;
  if (result.chosen == 0) {
    return absl::StrFormat(
        "no iterate has a lower held-out loss than the checkpoint (%.4f nats on %d examples; tried "
        "%d steps)",
        result.trace.empty() ? kNan : result.trace[0].choosing_loss, result.choosing_count, steps);
  }
  std::string text = absl::StrFormat(
      "held-out loss %.4f -> %.4f nats (change %+.2g +- %.1g, %d examples)", result.before.loss,
      result.after.loss, result.change, result.change_standard_error, result.judging_count);
  if (!std::isnan(result.before.accuracy)) {
    absl::StrAppend(&text,
                    absl::StrFormat(", accuracy %.2f %% -> %.2f %%", 100 * result.before.accuracy,
                                    100 * result.after.accuracy));
  }
  absl::StrAppend(&text, ", ", result.chosen, " of ", steps, " steps");
  return text;
}

}  // namespace laplaced
