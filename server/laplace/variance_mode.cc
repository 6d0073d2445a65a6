#include "server/laplace/variance_mode.h"

#include <algorithm>
#include <cmath>

namespace laplaced {
namespace {

constexpr double kGradientBytes = 3 << 20;  // what JacobianOptions lets a layer's gradients take
constexpr double kLiveGradients = 3;        // of the layers that a sweep is between

// Multiply-adds and memory of R rows of Jacobians for parameters of which `p` elements count.
VarianceCost CostOfRows(const VarianceProblem& problem, double rows, double p, double largest,
                        double backward_macs) {
  const auto batch = static_cast<double>(problem.batch), block = static_cast<double>(problem.block),
             element = static_cast<double>(problem.element_bytes);
  const double share = p / static_cast<double>(problem.n_parameters);
  double macs =
      problem.forward_macs + rows * (backward_macs + problem.row_macs * share) + rows * rows * p;
  if (problem.generic_parameters > 0) macs += rows * problem.forward_macs;
  const auto threads = static_cast<double>(std::min(problem.threads, problem.block));
  // A tile holds all rows of one example of one parameter tensor, and its product with the
  // structure is as large again.
  const double tile = 2 * rows * largest * element * threads;
  const double example = rows * static_cast<double>(problem.largest_gradient) * element;
  const double gradients =
      kLiveGradients * threads * std::max(example, std::min(block * example, kGradientBytes));
  const double products =
      block * rows * rows * static_cast<double>(sizeof(double) * problem.n_tensors);
  return {2 * batch * macs, tile + gradients + products};
}

}  // namespace

VarianceCost CostOf(VarianceMode mode, int64_t count, const VarianceProblem& problem) {
  const auto c = static_cast<double>(problem.n_outputs),
             p = static_cast<double>(problem.n_parameters),
             largest = static_cast<double>(problem.largest_parameter),
             batch = static_cast<double>(problem.batch),
             element = static_cast<double>(problem.element_bytes), m = problem.forward_macs;
  switch (mode) {
    case VarianceMode::kTopClasses: {
      const double rows = std::min(static_cast<double>(count), c);
      VarianceCost cost = CostOfRows(problem, rows, p, largest, 2 * m);
      cost.flops += 2 * batch * m;  // to find the classes
      return cost;
    }
    case VarianceMode::kLastLayer: {
      const auto last = static_cast<double>(problem.last_layer_parameters);
      return CostOfRows(problem, c, last, std::min(largest, last), 2 * last);
    }
    case VarianceMode::kSampled: {
      const auto draws = static_cast<double>(count);
      const auto precisions = static_cast<double>(problem.precisions);
      const double macs = precisions * draws * (2 * problem.row_macs + 3 * batch * m) + batch * m;
      // Noise, deviations and their intermediates for the draws that are made together; outputs,
      // sums over draws and a few copies; activations with their tangents.
      constexpr double kNoiseNumel = 1 << 23;
      return {2 * macs, 6 * std::max(p, kNoiseNumel) * element +
                            10 * batch * c * static_cast<double>(sizeof(double)) +
                            4 * static_cast<double>(problem.gradient_numel) * element};
    }
    case VarianceMode::kAuto:
    case VarianceMode::kExact:
      break;
  }
  return CostOfRows(problem, c, p, largest, 2 * m);
}

VarianceMode ChooseVarianceMode(const VarianceProblem& problem, bool allow_top_classes) {
  const VarianceCost exact = CostOf(VarianceMode::kExact, 0, problem);
  const VarianceCost sampled = CostOf(VarianceMode::kSampled, kDefaultSamples, problem);
  const bool cheap = problem.n_outputs <= kDefaultSamples || exact.flops <= 2 * sampled.flops;
  if (exact.bytes <= kAutoBytes && cheap) return VarianceMode::kExact;
  const VarianceCost top = CostOf(VarianceMode::kTopClasses, kDefaultTopClasses, problem);
  if (allow_top_classes && top.bytes <= kAutoBytes) return VarianceMode::kTopClasses;
  return VarianceMode::kSampled;
}

double VarianceRelativeError(int64_t samples) {
  return std::sqrt(2.0 / static_cast<double>(samples));
}

}  // namespace laplaced
