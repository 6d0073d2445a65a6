// Which parameters of a network are meant: by name, or as its last layer.
//
// Both answer with names as in Network::parameters(), in that order, for Network::Restrict. Pure
// functions; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/model/network.h"

namespace laplaced {

// The parameters whose whole names match one of `patterns`, where * stands for any characters (dots
// too, or none) and ? for one; without patterns all of them. INVALID_ARGUMENT about field
// "options.parameters[i]" if pattern i matches no parameter; the message lists some that there are.
absl::StatusOr<std::vector<std::string>> MatchParameters(const Network& network,
                                                         const std::vector<std::string>& patterns);

// The parameters that the outputs reach first when the autograd graph of a trial pass is walked
// back breadth-first, with those of the same modules (the same name up to the last dot; none for
// parameters of the root). Several modules if they are equally near: every output has one. A bias
// that stands alone in an addition counts as added to the layer before it, which belongs too.
// Throws LibTorch exceptions.
std::vector<std::string> LastLayerParameters(const Network& network);

}  // namespace laplaced
