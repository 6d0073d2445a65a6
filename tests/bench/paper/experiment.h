// One network, its training data, and who gets which examples.
//
// D, the oracle's examples and every batch of every repetition are disjoint: D says the same of all
// batches, and repetitions are independent of each other.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "server/curvature/empirical_risk.h"
#include "server/model/layer_capture.h"
#include "tests/bench/paper/options.h"

namespace laplaced::paper {

struct Repetition {
  std::vector<at::Tensor> b1;  // rows, in the order of Options::batch_sizes
  at::Tensor b2;
  at::Tensor cg_b1, cg_b2;
};

struct Experiment {
  EmpiricalRisk risk;
  CapturePlan plan;
  at::Tensor d, oracle;  // rows
  std::vector<Repetition> repetitions;
};

// Ends the program if files cannot be read or the data has too few examples.
Experiment LoadExperiment(const Options& options);

// The same data with an early checkpoint: that of Options::early, or the network itself after
// Options::early_steps of SGD (128 examples, momentum 0.9, rate 0.05, the manifest's weight decay)
// from fresh weights (He et al. 2015; biases 0).
EmpiricalRisk EarlyCheckpoint(const Options& options, const EmpiricalRisk& risk);

struct Quality {
  double loss = 0;      // mean, nats
  double accuracy = 0;  // NaN unless categorical
};
Quality Evaluate(const EmpiricalRisk& risk, const Network& network, const at::Tensor& rows);

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) Die(std::string(value.status().message()));
  return *std::move(value);
}

}  // namespace laplaced::paper
