// The laplaced command: settings, LibTorch start-up, the server, signals.
//
// Exit codes: 0 after a drain (also one that had to leave a fit behind) or an answered --help and
// the like, 1 if the server could not start, 2 for bad settings, 128 plus the signal's number if a
// signal came before the server was ready, or again while it drained.
//
// Started several times by a launcher (server/distributed/launch.h), rank 0 serves and the others
// take part in its fits until they are stopped, or until rank 0 has gone (exit code 1).
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "formats/atomic_file.h"
#include "server/app/command_line.h"
#include "server/app/server.h"
#include "server/distributed/launch.h"
#include "server/model/torch_runtime.h"
#include "server/observe/log.h"
#include "server/serving/fit_crew.h"

// Settings of jemalloc, which looks for this name before main(); those of the environment's
// MALLOC_CONF win. Two arenas, because small blocks come from caches of the threads, and what many
// threads free in many arenas is of no use to others. What was freed goes back to the system after
// a second, from a thread of its own, so also while nobody calls.
extern "C" {
const char* malloc_conf = "background_thread:true,narenas:2,dirty_decay_ms:1000";
}

namespace laplaced {
namespace {

constexpr int kCannotStart = 1;
constexpr int kBadSettings = 2;
constexpr std::chrono::seconds kAfterDrain{5};  // for what cannot be called off

// Takes SIGTERM and SIGINT in a thread of its own. Create it before any other thread, which then
// inherits the blocked mask.
class StopSignals {
 public:
  StopSignals() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGTERM);
    sigaddset(&signals_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    // Lives as long as the process: sigwait cannot be called off.
    std::thread([this] { Loop(); }).detach();
  }

  // From now on the first signal lets Wait return instead of ending the process.
  void Arm() { armed_.store(true); }
  int Wait() { return first_.get_future().get(); }

 private:
  void Loop() {
    for (;;) {
      int signal = 0;
      if (sigwait(&signals_, &signal) != 0) continue;
      // Nothing on disk is ever half-written, so leaving at once is safe.
      if (!armed_.exchange(false)) std::_Exit(128 + signal);
      first_.set_value(signal);
    }
  }

  sigset_t signals_;
  std::atomic<bool> armed_{false};
  std::promise<int> first_;
};

// Ends the process when its time is over, whatever it waits for: a model that is being read from a
// disk that does not answer, say. Nothing on disk is ever half-written.
void EndIn(std::chrono::duration<double> time) {
  std::thread([time] {
    std::this_thread::sleep_for(time);
    LogWarning("stopped without waiting any longer for what could not be called off");
    std::_Exit(0);
  }).detach();
}

int Fail(int code, const absl::Status& status) {
  LogError(std::string(status.message()));
  return code;
}

// What the ranks beside the server do.
int TakePartInFits(const laplace::v1::ServerConfig& config, FitCrew& crew, StopSignals& signals) {
  const auto repository = Repository::OpenReadOnly(config.registry());
  if (!repository.ok()) return Fail(kCannotStart, repository.status());
  const DatasetStore datasets(repository->DatasetsFolder(), config.max_dataset_bytes());
  static std::atomic<bool> stop{false};
  signals.Arm();
  std::thread([&signals, time = std::chrono::duration<double>(config.drain_seconds())] {
    signals.Wait();
    stop.store(true);
    EndIn(time + kAfterDrain);
  }).detach();
  const absl::Status status = crew.Work(*repository, datasets, stop);
  return status.ok() ? 0 : Fail(kCannotStart, status);
}

int Serve(const laplace::v1::ServerConfig& config) {
  // Leaked, because its thread may use it until the process has gone.
  auto* signals = new StopSignals;
  LogLevel level = LogLevel::kInfo;
  ParseLogLevel(config.log_level(), &level);
  SetLogLevel(level);
  LogFormat format = LogFormat::kText;
  ParseLogFormat(config.log_format(), &format);
  SetLogFormat(format);

  const auto launch = LaunchOf([](const char* name) { return std::getenv(name); });
  if (!launch.ok()) return Fail(kBadSettings, launch.status());
  const int share = std::max(1, CpuQuotaThreads() / static_cast<int>(launch->local_size));
  const int threads = config.compute_threads() > 0 ? config.compute_threads() : share;
  const absl::Status torch = InitTorchRuntime(threads, config.allow_slow_blas());
  if (!torch.ok()) return Fail(kCannotStart, torch);

  std::unique_ptr<FitCrew> crew;  // used by the server until it has been destroyed
  if (launch->size > 1) {
    auto opened = FitCrew::Open(*launch, FitCrew::Timeouts());
    if (!opened.ok()) return Fail(kCannotStart, opened.status());
    crew = *std::move(opened);
    if (launch->rank != 0) return TakePartInFits(config, *crew, *signals);
  }

  ServerBackend backend;
  backend.make_model_host = MakeModelHost;
  backend.make_fit_service = MakeFitService;
  if (crew) {
    backend.make_fit_service = [&crew](const Repository& repository, const DatasetStore& datasets,
                                       ModelHost& host, Operations& operations) {
      return MakeCrewFitService(repository, datasets, host, operations, *crew);
    };
  }
  backend.on_compute_thread = InitTorchThread;
  auto server = Server::Start(config, backend);
  if (!server.ok()) return Fail(kCannotStart, server.status());

  signals->Arm();
  if (!config.address_file().empty()) {
    const absl::Status written =
        ReplaceFile(config.address_file(), {absl::StrCat((*server)->address(), "\n")});
    if (!written.ok()) return Fail(kCannotStart, written);
  }
  LogInfo(absl::StrCat("ready on ", (*server)->address(), " with ", threads,
                       " compute threads, registry ", config.registry()));

  const int signal = signals->Wait();
  LogInfo(absl::StrCat("signal ", signal, ": finishing calls in progress, at most ",
                       config.drain_seconds(), " s; a second signal stops at once"));
  EndIn(std::chrono::duration<double>(config.drain_delay_seconds() + config.drain_seconds()) +
        kAfterDrain);
  if (!(*server)->Stop()) {
    LogWarning("stopped without waiting for a fit that does not react; it is recorded as aborted");
    std::_Exit(0);  // destroying the server would wait for it
  }
  LogInfo("stopped");
  return 0;
}

int Main(int argc, char** argv) {
  auto command = ParseCommandLine(
      argc, argv, [](const std::string& name) { return std::getenv(name.c_str()); });
  if (!command.ok()) return Fail(kBadSettings, command.status());
  if (!command->serve) {
    std::fputs(command->output.c_str(), stdout);
    return 0;
  }
  // Whoever reads our log may go away; that is no reason to end.
  std::signal(SIGPIPE, SIG_IGN);
  // Executes this program again, before it has started any thread.
  ReexecWithPassiveOpenMp(argv);
  // Debian's Abseil looks for lock cycles on every lock, which costs six times the lock itself.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return Serve(command->config);
}

}  // namespace
}  // namespace laplaced

int main(int argc, char** argv) { return laplaced::Main(argc, argv); }
