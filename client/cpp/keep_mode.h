// The mode that answered the first rows answers them all: what the server chooses for AUTO may
// depend on how many there are.
//
// Free functions on values; thread-safe.
#pragma once

#include "client/cpp/types.h"

namespace laplace::client {

// Makes `request`, if it leaves the mode to the server, ask for the one that `first` came in.
void KeepMode(const Prediction& first, PredictRequest& request);
void KeepMode(const Scores& first, ScoreRequest& request);

}  // namespace laplace::client
