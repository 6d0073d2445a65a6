// laplace health
#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cli/context.h"

namespace laplace::cli {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(200);

struct HealthOptions {
  std::string service;
  double wait_seconds = 0;  // 0: ask once
};

absl::StatusOr<client::HealthState> Ask(const Context& context, const std::string& service,
                                        const client::ClientOptions& options) {
  auto client = client::Client::Connect(context.server, options);
  if (!client.ok()) return client.status();
  return (*client)->Health(service);
}

// Asks again and again until the service serves, the answer is one that waiting does not change, or
// time is up, and returns the last answer.
absl::StatusOr<client::HealthState> AskUntilServing(const Context& context,
                                                    const HealthOptions& health_options,
                                                    client::ClientOptions options) {
  const absl::Duration timeout = options.timeout;
  options.retry.max_attempts = 1;
  const absl::Time end = absl::Now() + absl::Seconds(health_options.wait_seconds);
  for (;;) {
    options.timeout = std::min(timeout, std::max(end - absl::Now(), absl::Milliseconds(1)));
    // A new channel each time: one that has failed to connect would wait longer and longer.
    absl::StatusOr<client::HealthState> health = Ask(context, health_options.service, options);
    const bool not_yet = health.ok() ? *health != client::HealthState::kServing
                                     : absl::IsUnavailable(health.status()) ||
                                           absl::IsDeadlineExceeded(health.status());
    if (!not_yet || absl::Now() + kPause >= end) return health;
    absl::SleepFor(kPause);
  }
}

absl::Status Check(const Context& context, const HealthOptions& options) {
  const std::string& service = options.service;
  const absl::StatusOr<client::ClientOptions> connection = context.Options();
  if (!connection.ok()) return connection.status();
  const absl::StatusOr<client::HealthState> health =
      options.wait_seconds > 0 ? AskUntilServing(context, options, *connection)
                               : Ask(context, service, *connection);
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
  const auto options = std::make_shared<HealthOptions>();
  verb->add_option("--service", options->service,
                   "One service of the server (default the server itself)")
      ->type_name("NAME");
  verb->add_option(
          "--wait", options->wait_seconds,
          "Ask until it serves, for at most this long; a server answers once it has loaded "
          "its models (default: ask once)")
      ->type_name("SECONDS")
      ->check(Positive());
  SetExample(*verb,
             "Example:\n"
             "  laplace health --server 127.0.0.1:8033 --timeout 2\n"
             "  laplace health --wait 60 && laplace models ls");
  verb->callback([&context, options] {
    context.command = [&context, options] { return Check(context, *options); };
  });
}

}  // namespace laplace::cli
