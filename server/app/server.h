// A running laplaced: registry, queues, operations, services and the gRPC server, wired together.
//
// The model host and the fit service come from the caller, so that tests can serve fakes. Start
// returns when calls can be made: the selected models are loaded and health says SERVING for "" and
// for laplace.v1.PredictionService. The HTTP port (http_endpoint.h) is open from before models are
// loaded, and says ready when health says SERVING. Stop drains: health says NOT_SERVING, after
// `drain_delay_seconds` no new calls are taken, calls in progress get `drain_seconds`, then they
// are cancelled; running operations are stopped at once and recorded as failed with ABORTED,
// because a fit takes longer than any drain. Thread-safe: Stop may be called from any thread, more
// than once. The destructor stops without patience, and then waits for the work of operations,
// which uses what the server owns.
//
// A server holds the lock of its registry (registry_lock.h) from before it recovers anything until
// it is destroyed. A read-only one takes no lock and changes nothing in the registry, so that any
// number may serve one folder.
#pragma once

#include <laplace/v1/config.pb.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/registry/dataset_store.h"
#include "server/registry/repository.h"
#include "server/serving/fit_service.h"
#include "server/serving/model_host.h"
#include "server/serving/operations.h"

namespace laplaced {

struct ServerBackend {
  std::function<std::unique_ptr<ModelHost>(const Repository&, const ModelHostOptions&)>
      make_model_host;
  std::function<std::unique_ptr<FitService>(const Repository&, const DatasetStore&, ModelHost&,
                                            Operations&)>
      make_fit_service;
  // Runs first on every thread that may compute; may be empty.
  std::function<void()> on_compute_thread;
};

class Server {
 public:
  // Removes an `address_file` that an earlier run left, once the registry is this server's. Errors:
  // INVALID_ARGUMENT (a setting), FAILED_PRECONDITION (another server has the registry; nothing was
  // changed), UNAVAILABLE (the address cannot be bound), those of the registry.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const laplace::v1::ServerConfig& config,
                                                       const ServerBackend& backend);
  ~Server();

  // As a client writes it, with the port that was chosen: "127.0.0.1:8033".
  const std::string& address() const;

  // Likewise of the HTTP port for metrics and probes; empty if there is none.
  const std::string& http_address() const;

  // Predict and Score requests and batches of streams that wait for the compute thread.
  int64_t waiting_requests() const;

  // Returns when all calls have ended and everything is recorded. False if the work of an operation
  // ignored its cancellation for `drain_seconds` and still runs: the operation is recorded as
  // ABORTED, and the process should end without destroying the server, which would wait for it.
  bool Stop();

 private:
  struct Parts;
  explicit Server(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace laplaced
