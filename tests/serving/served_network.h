// A network behind the served model with a posterior made by hand, and this process's memory.
#pragma once

#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "server/laplace/low_rank_structure.h"
#include "server/serving/torch_served_model.h"
#include "tests/reference/networks.h"
#include "tests/support/temp_folder.h"

namespace laplaced::test_support {

// Serves `network`, whose last layer are the parameters `last_layer`, with a layerwise posterior of
// `rank` random directions that are nearly orthogonal, as random directions in a large space are.
inline std::unique_ptr<TorchServedModel> Serve(const Network& network,
                                               std::vector<std::string> last_layer, int64_t rank) {
  LowRankCurvature curvature;
  curvature.directions =
      reference::RandomNormal({network.n_parameters(), rank}, 2, network.dtype());
  curvature.directions.div_(curvature.directions.norm(2, {0}, true));
  curvature.curvature = at::linspace(3, 0.1, rank, at::kDouble);
  curvature.residual_kind = ResidualKind::kLayerwise;
  for (const Parameter& parameter : network.parameters()) {
    curvature.block_sizes.push_back(parameter.value.numel());
  }
  curvature.residual =
      at::full({static_cast<int64_t>(curvature.block_sizes.size())}, 1e-3, at::kDouble);
  Manifest manifest;
  manifest.input_shape = network.input_shape();
  manifest.n_outputs = network.n_outputs();
  ModelInfo info;
  info.name = "by_hand";
  info.n_outputs = network.n_outputs();
  info.last_layer_parameters = std::move(last_layer);
  Posterior value;
  value.structure = std::make_shared<const LowRankStructure>(std::move(curvature));
  value.n_data = 50000;
  value.prior_precision = 50;
  // The structure is made by hand; a record always comes with a file.
  const TempFolder folder;
  const std::string path = folder.path() + "/tensors.safetensors";
  const float nothing = 0;
  if (!WriteSafetensors(path, {{"nothing", {DType::kFloat32, {1}, &nothing}}}, {}).ok()) {
    throw std::runtime_error("cannot write " + path);
  }
  PosteriorArtifact artifact{{}, *MappedSafetensors::Open(path)};
  artifact.record.id = "p-1";
  artifact.record.default_ood_score = "laplace_entropy";
  artifact.record.ood_thresholds = {{"laplace_entropy", 1, 0.05, 100, 0, 1, {}},
                                    {"msp", 0.5, 0.05, 100, 0, 1, {}}};
  const CapturePlan plan = FindCapturedParameters(network);
  auto sampler = std::make_shared<const FunctionSampler>(network);
  auto posterior =
      std::make_shared<const LoadedPosterior>(LoadedPosterior{std::move(artifact),
                                                              {network, plan},
                                                              manifest.likelihood,
                                                              nullptr,
                                                              value,
                                                              value.WithPriorPrecision(200),
                                                              std::move(sampler),
                                                              {}});
  auto model = std::make_shared<const LoadedModel>(
      LoadedModel{std::move(manifest), network, plan, std::move(info)});
  return std::make_unique<TorchServedModel>(std::move(model), std::move(posterior),
                                            ModelHostOptions{}, 0);
}

// Bytes of a line of /proc/self/status such as "VmHWM:"; -1 if there is none.
inline int64_t StatusBytes(const std::string& name) {
  std::ifstream file("/proc/self/status");
  std::string word;
  while (file >> word) {
    int64_t kilobytes = 0;
    if (word == name && file >> kilobytes) return kilobytes * 1024;
  }
  return -1;
}

// Forgets the peak so far. False if this kernel or sandbox does not allow it.
inline bool ResetPeak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return static_cast<bool>(file);
}

}  // namespace laplaced::test_support
