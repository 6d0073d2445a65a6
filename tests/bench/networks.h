// Networks that the benchmarks run on: the demo CNN from the repository, and ResNet-20 if the
// shared data are there.
#pragma once

#include <string>
#include <vector>

#include "server/model/layer_capture.h"
#include "server/model/network.h"

namespace laplaced::bench {

struct BenchNetwork {
  std::string name;
  Network network;
  CapturePlan capture;
};

std::vector<BenchNetwork> LoadBenchNetworks();

}  // namespace laplaced::bench
