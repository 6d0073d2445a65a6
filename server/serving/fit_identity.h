// What fits must have the same to be one: the ranks of a server's fit, which read the checkpoint
// when a fit begins, while rank 0 has had it in memory for days.
//
// A value and pure functions.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/serving/fit_service.h"
#include "server/serving/loaded_model.h"

namespace laplaced {

struct FitIdentity {
  std::string program;               // version of laplaced
  std::string model;                 // NAME/VERSION
  std::string checkpoint_sha256;     // of the file that the network was read from
  std::string manifest_fingerprint;  // ManifestFingerprint
  std::string request;               // data sets and options, as EncodeFitRequest
};

FitIdentity IdentityOf(const LoadedModel& model, const FitRequest& request);

// OK if `mine` is `first`, rank 0's. FAILED_PRECONDITION says what differs and what to do.
absl::Status CheckSameFit(const FitIdentity& first, const FitIdentity& mine);

// As text and back. DATA_LOSS if it is not one.
std::string EncodeFitIdentity(const FitIdentity& identity);
absl::StatusOr<FitIdentity> DecodeFitIdentity(const std::string& text);

}  // namespace laplaced
