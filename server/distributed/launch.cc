#include "server/distributed/launch.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr int64_t kMostRanks = 1 << 16;

absl::StatusOr<int64_t> Number(const LaunchVariables& variables, const char* name, int64_t least,
                               int64_t most) {
  const char* text = variables(name);
  if (text == nullptr) {
    return FieldError(name,
                      "is not set, but WORLD_SIZE is: a launcher sets RANK, WORLD_SIZE, "
                      "MASTER_ADDR and MASTER_PORT for every process");
  }
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < least || value > most) {
    return FieldError(name, absl::StrCat("expected a whole number from ", least, " to ", most,
                                         ", got '", text, "'"));
  }
  return value;
}

}  // namespace

absl::StatusOr<Launch> LaunchOf(const LaunchVariables& variables) {
  Launch launch;
  if (variables("WORLD_SIZE") == nullptr) return launch;
  LAPLACED_ASSIGN_OR_RETURN(launch.size, Number(variables, "WORLD_SIZE", 1, kMostRanks));
  LAPLACED_ASSIGN_OR_RETURN(launch.rank, Number(variables, "RANK", 0, launch.size - 1));
  if (variables("LOCAL_WORLD_SIZE") != nullptr) {
    LAPLACED_ASSIGN_OR_RETURN(launch.local_size,
                              Number(variables, "LOCAL_WORLD_SIZE", 1, launch.size));
  }
  if (launch.size == 1) return launch;
  LAPLACED_ASSIGN_OR_RETURN(const int64_t port, Number(variables, "MASTER_PORT", 1, 65535));
  launch.master_port = static_cast<uint16_t>(port);
  const char* host = variables("MASTER_ADDR");
  if (host == nullptr || *host == '\0') {
    return FieldError("MASTER_ADDR", "is not set: expected the host name or address of rank 0");
  }
  launch.master_host = host;
  const char* store = variables("TORCHELASTIC_USE_AGENT_STORE");
  launch.launcher_has_store = store != nullptr && std::string(store) == "True";
  if (const char* attempt = variables("TORCHELASTIC_RESTART_COUNT")) launch.attempt = attempt;
  if (const char* interface = variables("GLOO_SOCKET_IFNAME")) launch.interface = interface;
  return launch;
}

}  // namespace laplaced
