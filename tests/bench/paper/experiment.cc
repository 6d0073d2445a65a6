#include "tests/bench/paper/experiment.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/data/sampler.h"
#include "server/laplace/regularised_objective.h"
#include "server/model/parameter_values.h"
#include "tests/bench/paper/statistics.h"

namespace laplaced::paper {
namespace {

constexpr uint64_t kSeed = 2025;

struct Checkpoint {
  Manifest manifest;
  Network network;
};

Checkpoint ReadCheckpoint(const std::string& folder) {
  std::ifstream file(folder + "/model.json");
  if (!file) Die(folder + "/model.json cannot be read");
  std::ostringstream text;
  text << file.rdbuf();
  Manifest manifest = Must(ParseManifest("model.json", text.str()));
  Network network = Must(
      Network::Load(folder + "/model.pt", "model.pt", manifest.input_shape, manifest.n_outputs));
  return {std::move(manifest), std::move(network)};
}

// Images without their channel get it.
at::Tensor AsInputs(const at::Tensor& raw, const Manifest& manifest, const std::string& path) {
  std::vector<int64_t> shape = manifest.input_shape;
  int64_t numel = 1;
  for (const int64_t n : shape) numel *= n;
  if (raw.dim() < 1 || raw.size(0) == 0 || raw.numel() != raw.size(0) * numel) {
    Die(path + ": examples do not have the shape of the model's input");
  }
  shape.insert(shape.begin(), raw.size(0));
  return raw.reshape(shape);
}

// Network::parameters() tell batch norm by its scale.
bool HasNorms(const Network& network) {
  return std::any_of(
      network.parameters().begin(), network.parameters().end(), [](const Parameter& p) {
        return p.value.dim() == 1 && (p.name == "weight" || absl::EndsWith(p.name, ".weight"));
      });
}

// Normal with variance 2 / fan-in for what has more than one dimension, 0 for the rest.
at::Tensor FreshParameters(const Network& network) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(kSeed);
  at::Tensor theta = at::zeros({network.n_parameters()}, at::kDouble);
  for (const Parameter& p : network.parameters()) {
    if (p.value.dim() < 2) continue;
    const auto fan_in = static_cast<double>(p.value.numel() / p.value.size(0));
    theta.narrow(0, p.offset, p.value.numel())
        .copy_(at::randn({p.value.numel()}, generator, at::kDouble) * std::sqrt(2 / fan_in));
  }
  return theta;
}

}  // namespace

Experiment LoadExperiment(const Options& options) {
  Checkpoint checkpoint = ReadCheckpoint(options.model);
  Dataset data = Must(ReadDataset(options.data, options.labels));
  data.inputs = AsInputs(data.inputs, checkpoint.manifest, options.data);
  if (checkpoint.manifest.n_data > 0 && data.size() > checkpoint.manifest.n_data) {
    data = data.Slice(0, checkpoint.manifest.n_data);  // what it was trained on
  }
  const absl::Status targets = checkpoint.manifest.likelihood.CheckTargets(
      options.labels, data.targets, checkpoint.manifest.n_outputs);
  if (!targets.ok()) Die(std::string(targets.message()));

  std::vector<int64_t> sizes = {options.d_size, options.oracle_size};
  for (int64_t s = 0; s < options.seeds; ++s) {
    sizes.insert(sizes.end(), options.batch_sizes.begin(), options.batch_sizes.end());
    sizes.insert(sizes.end(), {options.b2, options.cg_b1, options.cg_b2});
  }
  int64_t needed = 0;
  for (const int64_t size : sizes) needed += size;
  if (needed > data.size()) {
    Die(absl::StrCat(options.data, ": D, the oracle's examples and all batches need ", needed,
                     " examples, there are ", data.size()));
  }
  const std::vector<at::Tensor> rows = DisjointBatches(data.size(), sizes, kSeed);
  CapturePlan plan = FindCapturedParameters(checkpoint.network);
  Experiment experiment{{std::move(checkpoint.network), checkpoint.manifest.likelihood,
                         checkpoint.manifest, std::move(data)},
                        std::move(plan),
                        rows[0],
                        rows[1],
                        {}};
  auto next = rows.begin() + 2;
  for (int64_t s = 0; s < options.seeds; ++s) {
    Repetition repetition;
    for (size_t i = 0; i < options.batch_sizes.size(); ++i) repetition.b1.push_back(*next++);
    repetition.b2 = *next++;
    repetition.cg_b1 = *next++;
    repetition.cg_b2 = *next++;
    experiment.repetitions.push_back(std::move(repetition));
  }
  return experiment;
}

EmpiricalRisk EarlyCheckpoint(const Options& options, const EmpiricalRisk& risk) {
  EmpiricalRisk early = risk;
  if (!options.early.empty()) {
    Checkpoint checkpoint = ReadCheckpoint(options.early);
    if (ManifestFingerprint(checkpoint.manifest) != ManifestFingerprint(risk.manifest)) {
      Die("--early: its model.json says other things than that of --model");
    }
    early.network = std::move(checkpoint.network);
    return early;
  }
  if (HasNorms(risk.network)) {
    Die("the network has norms, whose statistics an early checkpoint made here would lack: give "
        "one with --early (tests/bench/paper/train_early.py), or leave out the parts slopes and "
        "cg");
  }
  constexpr int64_t kBatch = 128;
  constexpr double kRate = 0.05, kMomentum = 0.9;
  at::Tensor theta = FreshParameters(risk.network), velocity = at::zeros_like(theta);
  early.network = Must(WithParameters(risk.network, theta));
  for (int64_t step = 0; step < options.early_steps; ++step) {
    const at::Tensor rows =
        DisjointBatches(risk.size(), {kBatch}, kSeed + 1 + static_cast<uint64_t>(step))[0];
    velocity = velocity * kMomentum + Must(RegularisedGradient(early, rows));
    theta = theta - velocity * kRate;
    SetParameters(early.network, theta);
  }
  return early;
}

Quality Evaluate(const EmpiricalRisk& risk, const Network& network, const at::Tensor& rows) {
  const bool categorical = risk.likelihood.kind == Likelihood::Kind::kCategorical;
  const Dataset data = risk.data.Select(rows);
  double loss = 0, right = 0;
  for (int64_t begin = 0; begin < data.size(); begin += risk.chunk_size) {
    const Dataset part = data.Slice(begin, std::min(begin + risk.chunk_size, data.size()));
    const at::Tensor f = network.Forward(risk.NetworkInput(part.inputs));
    loss += risk.likelihood.Loss(f, part.targets).sum().item<double>();
    if (categorical) right += (f.argmax(1) == part.targets).sum().item<double>();
  }
  const auto n = static_cast<double>(data.size());
  return {loss / n, categorical ? right / n : kNone};
}

}  // namespace laplaced::paper
