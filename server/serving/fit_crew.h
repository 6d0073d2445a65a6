// The processes that fit together with a server: a launcher started the server's program several
// times, rank 0 serves, and the others wait for its fits.
//
// Rank 0 makes a fit known at the meeting point; all ranks load the same model and their shares of
// the data from the registry, which all must see, and run the same job. A rank that is lost ends
// that fit on all of them with UNAVAILABLE; the next fit calls all ranks anew.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "server/distributed/gloo_ranks.h"
#include "server/linalg/ranks.h"
#include "server/registry/dataset_store.h"
#include "server/registry/repository.h"
#include "server/serving/fit_service.h"

namespace laplaced {

class FitCrew {
 public:
  struct Timeouts {
    std::chrono::milliseconds join{std::chrono::seconds(60)};   // for all to come to a fit
    std::chrono::milliseconds call{std::chrono::seconds(300)};  // for the slowest, in every call
  };

  explicit FitCrew(MeetingPoint meeting) : FitCrew(std::move(meeting), Timeouts()) {}
  FitCrew(MeetingPoint meeting, Timeouts timeouts)
      : meeting_(std::move(meeting)), timeouts_(timeouts) {}

  int64_t size() const { return meeting_.size(); }

  // Rank 0: calls the others to the fit of `request`, which names a version, and runs `body` with
  // them. One at a time; others wait. Thread-safe.
  absl::Status Fit(const FitRequest& request,
                   const std::function<absl::Status(const Ranks& ranks)>& body);

  // The other ranks: takes part in all fits to come. OK once `stop` is set; UNAVAILABLE when rank 0
  // has gone. A fit that fails is logged.
  absl::Status Work(const Repository& repository, const DatasetStore& datasets,
                    const std::atomic<bool>& stop);

 private:
  absl::Status TakePart(int64_t number, const std::string& request, const Repository& repository,
                        const DatasetStore& datasets, const std::atomic<bool>& stop);

  const MeetingPoint meeting_;
  const Timeouts timeouts_;
  std::mutex mutex_;  // held during a fit
  int64_t fits_ = 0;  // made known so far
};

// A request as text and back: what the ranks send each other. DATA_LOSS if it is not one.
std::string EncodeFitRequest(const FitRequest& request);
absl::StatusOr<FitRequest> DecodeFitRequest(const std::string& text);

}  // namespace laplaced
