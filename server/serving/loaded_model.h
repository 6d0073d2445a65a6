// A checkpoint that has been read and checked: network, manifest and what capture found. Immutable;
// shared by requests.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "server/model/layer_capture.h"
#include "server/model/manifest.h"
#include "server/model/network.h"
#include "server/registry/repository.h"
#include "server/serving/engine_types.h"

namespace laplaced {

struct LoadedModel {
  Manifest manifest;
  Network network;
  CapturePlan capture;
  ModelInfo info;  // without the active posterior
};

// Reads `<folder>/model.json` and the checkpoint beside it (checkpoint_file.h). NOT_FOUND if one is
// missing, FAILED_PRECONDITION for a damaged or unsuitable checkpoint.
absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadModel(const Repository& repository,
                                                             const ModelVersion& version);

}  // namespace laplaced
