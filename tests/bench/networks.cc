#include "tests/bench/networks.h"

#include <cstdio>
#include <filesystem>

namespace laplaced::bench {
namespace {

struct Source {
  const char* name;
  const char* path;
  std::vector<int64_t> input_shape;
};

}  // namespace

std::vector<BenchNetwork> LoadBenchNetworks() {
  const Source sources[] = {
      {"fashion_cnn", LAPLACED_SOURCE_DIR "/tests/data/fashion_cnn/model.pt", {1, 28, 28}},
      {"resnet20", LAPLACED_SOURCE_DIR "/../shared/data/resnet20_cifar10/resnet20.pt", {3, 32, 32}},
  };
  std::vector<BenchNetwork> networks;
  for (const Source& source : sources) {
    if (!std::filesystem::exists(source.path)) {
      std::fprintf(stderr, "%s is left out: %s is not there\n", source.name, source.path);
      continue;
    }
    Network network = *Network::Load(source.path, source.name, source.input_shape, 10);
    CapturePlan capture = FindCapturedParameters(network);
    networks.push_back({source.name, std::move(network), std::move(capture)});
  }
  return networks;
}

}  // namespace laplaced::bench
