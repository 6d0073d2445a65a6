// The laplace-fit command: flags, launcher's environment, LibTorch start-up, the fit or the Newton
// step.
//
// Exit codes: 0 done, 1 failed or stopped by SIGTERM or SIGINT, 2 bad flags or environment, 128
// plus the signal's number if a second one came before it had stopped.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/distributed/gloo_ranks.h"
#include "server/distributed/launch.h"
#include "server/model/torch_runtime.h"
#include "server/observe/log.h"
#include "server/offline/offline_fit.h"
#include "server/offline/offline_newton.h"

namespace laplaced {
namespace {

std::atomic<bool> stop{false};

// Nothing on disk is ever half-written, so leaving at once is safe.
void Stop(int signal) {
  if (stop.exchange(true)) _exit(128 + signal);
}

std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(1000 * seconds));
}

int Fail(int code, const absl::Status& status) {
  LogError(std::string(status.message()));
  return code;
}

absl::Status Fit(const FitCommand& command, const Launch& launch) {
  absl::optional<MeetingPoint> meeting;  // outlives the ranks
  std::unique_ptr<GlooRanks> others;
  if (launch.size > 1) {
    auto opened = MeetingPoint::Open(launch, Milliseconds(command.join_timeout_seconds));
    if (!opened.ok()) return opened.status();
    meeting = *std::move(opened);
    auto joined = meeting->Join("fit", Milliseconds(command.join_timeout_seconds),
                                Milliseconds(command.rank_timeout_seconds));
    if (!joined.ok()) return joined.status();
    others = *std::move(joined);
  }
  const auto id =
      FitOffline(command, others ? static_cast<const Ranks&>(*others) : OneRank(), stop);
  if (!id.ok()) {
    if (others) others->GiveUp(id.status());
    return id.status();
  }
  if (launch.rank == 0) std::printf("%s\n", id->c_str());
  return absl::OkStatus();
}

// Of every command, once its flags are known.
void Begin(char** argv) {
  // Whoever reads our log, and other ranks, may go away; that is no reason to end without a word.
  std::signal(SIGPIPE, SIG_IGN);
  // Executes this program again, before it has started any thread.
  ReexecWithPassiveOpenMp(argv);
  LogFormat format = LogFormat::kText;
  ParseLogFormat("auto", &format);
  SetLogFormat(format);
  struct sigaction action = {};
  action.sa_handler = Stop;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

int FitMain(int argc, char** argv) {
  const auto parsed = ParseFitCommand(argc, argv);
  if (!parsed.ok()) return Fail(2, parsed.status());
  if (!parsed->command) {
    std::fputs(parsed->output.c_str(), stdout);
    return 0;
  }
  Begin(argv);
  const auto launch = LaunchOf([](const char* name) { return std::getenv(name); });
  if (!launch.ok()) return Fail(2, launch.status());

  const FitCommand& command = *parsed->command;
  const int share = CpuQuotaThreads() / static_cast<int>(launch->local_size);
  const int threads = command.compute_threads > 0 ? command.compute_threads : std::max(1, share);
  absl::Status status = InitTorchRuntime(threads, command.allow_slow_blas);
  if (status.ok()) status = Fit(command, *launch);
  return status.ok() ? 0 : Fail(1, status);
}

int NewtonMain(int argc, char** argv) {
  const auto parsed = ParseNewtonCommand(argc, argv);
  if (!parsed.ok()) return Fail(2, parsed.status());
  if (!parsed->command) {
    std::fputs(parsed->output.c_str(), stdout);
    return 0;
  }
  Begin(argv);
  const NewtonCommand& command = *parsed->command;
  const absl::Status ready = InitTorchRuntime(command.compute_threads, command.allow_slow_blas);
  if (!ready.ok()) return Fail(1, ready);
  const auto made = NewtonOffline(command, stop);
  if (!made.ok()) return Fail(1, made.status());
  std::printf("%s\n", made->c_str());
  return 0;
}

int Main(int argc, char** argv) {
  return IsNewtonCommand(argc, argv) ? NewtonMain(argc, argv) : FitMain(argc, argv);
}

}  // namespace
}  // namespace laplaced

int main(int argc, char** argv) { return laplaced::Main(argc, argv); }
