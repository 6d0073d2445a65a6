// A model that computes next to nothing, to measure what serving costs: float32 [B, 784] in, the
// first ten values of each row out, with one calibrated score.
//
// Checks its inputs as real models do. No LibTorch. Immutable; thread-safe.
#pragma once

#include <cstdint>
#include <memory>

#include "server/serving/model_host.h"

namespace laplaced::bench {

inline constexpr char kIdentityName[] = "identity";
inline constexpr int64_t kIdentityInputs = 784;
inline constexpr int64_t kIdentityOutputs = 10;

// Serves the model as version 1 with posterior "p-1", and nothing else.
std::unique_ptr<ModelHost> MakeIdentityHost();

}  // namespace laplaced::bench
