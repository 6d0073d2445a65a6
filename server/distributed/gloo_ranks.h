// Ranks over the network: LibTorch's c10d with Gloo, and the place where its processes meet.
//
// A rank that is lost, whether its process died, its machine went away or it hangs, ends the call
// that the others are in: at once if its connections close, else when the timeout is over. The
// group is of no use afterwards: every later call fails too. A rank that gives up says why
// (GiveUp), and the others repeat it.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/distributed/launch.h"
#include "server/linalg/ranks.h"

namespace laplaced {

class GlooRanks : public Ranks {
 public:
  ~GlooRanks() override;

  int64_t rank() const override;
  int64_t size() const override;
  // UNAVAILABLE if a rank was lost, with its reason if it gave one.
  absl::Status Sum(at::Tensor& tensor) const override;
  absl::Status Broadcast(at::Tensor& tensor) const override;
  absl::StatusOr<at::Tensor> Gather(const at::Tensor& part) const override;

  // Tells the others why this rank cannot go on, and closes its connections. Does nothing if they
  // are lost already, or if all is well. Rank 0, if it keeps the meeting point, waits up to five
  // seconds until the others have read it.
  void GiveUp(const absl::Status& why);

 private:
  friend class MeetingPoint;
  struct State;
  explicit GlooRanks(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// A store of keys and values that all ranks can reach. Thread-safe.
class MeetingPoint {
 public:
  // At the launch's MASTER_ADDR and MASTER_PORT; rank 0 opens it, unless the launcher did.
  // REQUIRES: launch.size > 1. UNAVAILABLE if it cannot be reached, or opened, within `timeout`.
  static absl::StatusOr<MeetingPoint> Open(const Launch& launch, std::chrono::milliseconds timeout);
  // For ranks that are threads of this process: `first` is that of another rank, or null.
  static MeetingPoint InProcess(const MeetingPoint* first, int64_t rank, int64_t size);

  MeetingPoint(MeetingPoint&&) noexcept;
  MeetingPoint& operator=(MeetingPoint&&) noexcept;
  ~MeetingPoint();

  int64_t rank() const;
  int64_t size() const;

  // All ranks as a group; `name` is new and the same on all. They wait for each other at most
  // `join_timeout` here, and `timeout` in every call. UNAVAILABLE names the ranks that did not
  // come. Once one has given up, it is UNAVAILABLE at once for all that come later.
  absl::StatusOr<std::unique_ptr<GlooRanks>> Join(const std::string& name,
                                                  std::chrono::milliseconds join_timeout,
                                                  std::chrono::milliseconds timeout) const;

  // A value for all to read, once. UNAVAILABLE if the meeting point is gone.
  absl::Status Post(const std::string& key, const std::string& value) const;
  // Waits for it. DEADLINE_EXCEEDED after `timeout`; UNAVAILABLE.
  absl::StatusOr<std::string> Await(const std::string& key,
                                    std::chrono::milliseconds timeout) const;

 private:
  struct State;
  explicit MeetingPoint(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace laplaced
