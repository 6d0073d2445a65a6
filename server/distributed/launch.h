// What a launcher says about the processes that it started: torchrun's environment, which
// Kubeflow's PyTorchJob, SLURM scripts and a shell loop set just as well.
//
//   RANK, WORLD_SIZE            this process's number in [0, WORLD_SIZE), and how many there are
//   MASTER_ADDR, MASTER_PORT    where rank 0 (or torchrun itself) can be reached by all of them
//   LOCAL_WORLD_SIZE            how many run on this machine (default 1): they share its processors
//
// Pure functions of the environment.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace laplaced {

struct Launch {
  int64_t rank = 0;
  int64_t size = 1;
  int64_t local_size = 1;
  std::string master_host;
  uint16_t master_port = 0;
  // torchrun keeps the meeting point itself; otherwise rank 0 does.
  bool launcher_has_store = false;
  // Of torchrun's restarts: the meeting point keeps what earlier attempts left there.
  std::string attempt = "0";
  std::string
      interface;  // GLOO_SOCKET_IFNAME: the network to talk over; empty: the host's own name
};

// Null if the variable is not set.
using LaunchVariables = std::function<const char*(const char* name)>;

// One process alone if WORLD_SIZE is not set. INVALID_ARGUMENT names the variable that is missing
// or wrong.
absl::StatusOr<Launch> LaunchOf(const LaunchVariables& variables);

}  // namespace laplaced
