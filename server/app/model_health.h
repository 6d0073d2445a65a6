// The health of single models in grpc.health.v1, for Check and Watch: "models/net" and
// "models/net/3" are SERVING while the model, or that version of it, is loaded and has an active
// posterior, NOT_SERVING afterwards and while the server drains. Thread-safe.
#pragma once

#include <grpcpp/health_check_service_interface.h>

#include <map>
#include <mutex>
#include <set>
#include <string>

#include "server/serving/model_host.h"

namespace laplaced {

class ModelHealth {
 public:
  // The model `name` may have changed. Without effect outside of Begin and End.
  void Update(const std::string& name);

  // Everything about the models of `host` is said to `service` from now on, which must both live
  // until End.
  void Begin(const ModelHost& host, grpc::HealthCheckServiceInterface& service);
  void End();

 private:
  std::mutex mutex_;
  const ModelHost* host_ = nullptr;
  grpc::HealthCheckServiceInterface* service_ = nullptr;
  std::map<std::string, std::set<int64_t>> serving_;  // versions by name
};

}  // namespace laplaced
