// laplace health
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/cli/context.h"

namespace laplace::cli {
namespace {

absl::Status Check(const Context& context, const std::string& service) {
  auto client = context.Connect();
  if (!client.ok()) return client.status();
  const absl::StatusOr<client::HealthState> health = (*client)->Health(service);
  if (!health.ok()) return health.status();
  const bool serving = *health == client::HealthState::kServing;
  const std::string subject =
      service.empty() ? absl::StrCat("the server at ", context.server) : service;
  if (context.json)
    Print(Json{{"server", context.server}, {"service", service}, {"serving", serving}});
  if (!serving) return absl::UnavailableError(absl::StrCat(subject, " is not serving"));
  if (!context.json) Print(absl::StrCat(subject, " is serving\n"));
  return absl::OkStatus();
}

}  // namespace

void AddHealthVerb(CLI::App& app, Context& context) {
  CLI::App* verb = app.add_subcommand(
      "health", "Ask whether the server answers; exits with 0 if it does, for probes");
  const auto service = std::make_shared<std::string>();
  verb->add_option("--service", *service, "One service of the server (default the server itself)")
      ->type_name("NAME");
  SetExample(*verb, "Example:\n  laplace health --server 127.0.0.1:8033 --timeout 2");
  verb->callback([&context, service] {
    context.command = [&context, service] { return Check(context, *service); };
  });
}

}  // namespace laplace::cli
