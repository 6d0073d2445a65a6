// The processes that fit together with a server: a launcher started the server's program several
// times, rank 0 serves, and the others wait for its fits.
//
// Rank 0 makes a fit known at the meeting point; all ranks load the same model and their shares of
// the data from the registry, which all must see, and run the same job. A rank that is lost ends
// that fit on all of them with UNAVAILABLE, and a rank that cannot begin, or would compute with
// another model than rank 0 has in memory, with the reason; the next fit calls all ranks anew. What
// ends on rank 0 ends on the others within about a second, and a rank that comes late leaves out
// what has ended.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/distributed/launch.h"
#include "server/linalg/ranks.h"
#include "server/registry/dataset_store.h"
#include "server/registry/repository.h"
#include "server/serving/fit_service.h"

namespace laplaced {

class MeetingPoint;
struct FitIdentity;

class FitCrew {
 public:
  struct Timeouts {
    std::chrono::milliseconds join{std::chrono::seconds(60)};   // for all to come to a fit
    std::chrono::milliseconds call{std::chrono::seconds(300)};  // for the slowest, in every call
  };

  // Where the launcher says. REQUIRES: launch.size > 1. UNAVAILABLE if the meeting point cannot be
  // reached or opened within timeouts.join.
  static absl::StatusOr<std::unique_ptr<FitCrew>> Open(const Launch& launch,
                                                       const Timeouts& timeouts);
  FitCrew(std::unique_ptr<MeetingPoint> meeting, const Timeouts& timeouts);
  ~FitCrew();

  // Who will take part, as this rank sees it: what is checked and read before the others are
  // called. Calls are INTERNAL errors.
  const Ranks& planned() const { return *planned_; }

  // Rank 0: calls the others to the fit of `request`, which names a version, and runs `body` with
  // them once all have read their data. `identity` is that of the request and the model in memory.
  // One at a time; others wait, until `cancelled`. Thread-safe.
  absl::Status Fit(const FitRequest& request, const FitIdentity& identity,
                   const std::function<bool()>& cancelled,
                   const std::function<absl::Status(const Ranks& ranks)>& body);

  // The other ranks: takes part in all fits to come. OK once `stop` is set; UNAVAILABLE when rank 0
  // has gone. A fit that fails is logged.
  absl::Status Work(const Repository& repository, const DatasetStore& datasets,
                    const std::atomic<bool>& stop);

 private:
  absl::Status TakePart(int64_t number, const std::string& request, const Repository& repository,
                        const DatasetStore& datasets, const std::atomic<bool>& stop);

  const std::unique_ptr<MeetingPoint> meeting_;
  const std::unique_ptr<const Ranks> planned_;
  const Timeouts timeouts_;
  std::timed_mutex mutex_;  // held during a fit
  int64_t fits_ = 0;        // made known so far
};

// A request as text and back: what the ranks send each other. DATA_LOSS if it is not one.
std::string EncodeFitRequest(const FitRequest& request);
absl::StatusOr<FitRequest> DecodeFitRequest(const std::string& text);

}  // namespace laplaced
