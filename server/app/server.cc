#include "server/app/server.h"

#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/optional.h"
#include "server/app/config.h"
#include "server/app/model_health.h"
#include "server/app/model_keeper.h"
#include "server/app/model_selection.h"
#include "server/app/server_metrics.h"
#include "server/observe/call_metrics.h"
#include "server/observe/http_endpoint.h"
#include "server/observe/log.h"
#include "server/observe/metrics.h"
#include "server/observe/ood_metrics.h"
#include "server/observe/process_metrics.h"
#include "server/observe/serving_metrics.h"
#include "server/registry/operation_store.h"
#include "server/registry/registry_lock.h"
#include "server/rpc/call_guard.h"
#include "server/rpc/call_ledger.h"
#include "server/rpc/call_observer.h"
#include "server/rpc/client_text.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/model_service.h"
#include "server/rpc/operation_service.h"
#include "server/rpc/posterior_service.h"
#include "server/rpc/prediction_service.h"
#include "server/rpc/server_credentials.h"
#include "server/serving/batcher.h"
#include "server/serving/compute_queue.h"

namespace laplaced {
namespace {

using laplace::v1::ServerConfig;
using std::chrono::steady_clock;
using std::chrono::system_clock;

// Administration is rare; a longer queue would only hide that something is stuck.
constexpr int64_t kMaxWaitingAdminCalls = 64;
constexpr size_t kMostUnfinishedMessages = 16;
// Every upload has at most one step in the queue, so this bounds the uploads at the same time.
constexpr int64_t kMaxUploads = 64;

constexpr const char* kPredictionServices[] = {"laplace.v1.PredictionService",
                                               "inference.GRPCInferenceService"};

// The listening address with the port that was bound.
std::string BoundAddress(const std::string& listen, int port) {
  if (absl::StartsWith(listen, "unix:")) return listen;
  return absl::StrCat(listen.substr(0, listen.rfind(':') + 1), port);
}

bool IsLocal(const std::string& listen) {
  for (const char* local : {"unix:", "127.", "localhost:", "[::1]:"}) {
    if (absl::StartsWith(listen, local)) return true;
  }
  return false;
}

// Says what an address that others can reach does without.
void WarnIfPublic(const std::string& address, bool encrypted, bool asks) {
  if (IsLocal(address) || (encrypted && asks)) return;
  const char* lacks = encrypted ? "authentication"
                      : asks    ? "encryption"
                                : "encryption and authentication";
  LogWarning(
      absl::StrCat("listening on ", address, " without ", lacks, "; keep it on a trusted network"));
}

// What gRPC has to say is for those who debug it: what fails is reported by whoever called it. Its
// own setting, GRPC_VERBOSITY, lets only errors come this far.
void LogFromGrpc(gpr_log_func_args* args) {
  LogDebug(absl::StrCat("gRPC: ", args->message, " (", args->file, ":", args->line, ")"));
}

// Clients may look after idle connections every 10 seconds, and one whose client is gone without a
// word ends after 80.
void AddKeepAlive(grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  // Otherwise the third ping of an idle connection is never sent.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

TlsFiles TlsFilesOf(const ServerConfig& config) {
  return {config.tls_cert(), config.tls_key(), config.tls_client_ca()};
}

// Who may connect and call.
struct Access {
  std::shared_ptr<grpc::ServerCredentials> credentials;
  std::unique_ptr<CallGuard> guard;
};

absl::StatusOr<Access> OpenAccess(const ServerConfig& config) {
  Access access;
  auto credentials =
      MakeServerCredentials(TlsFilesOf(config), config.credentials_refresh_seconds());
  if (!credentials.ok()) return credentials.status();
  auto guard = CallGuard::Create(config.tokens(), config.credentials_refresh_seconds());
  if (!guard.ok()) return guard.status();
  return Access{*std::move(credentials), *std::move(guard)};
}

// What a server needs of its registry.
struct Registry {
  absl::optional<RegistryLock> lock;  // none if it only reads
  Repository repository;
  OperationStore operations;
};

absl::StatusOr<Registry> OpenRegistry(const ServerConfig& config) {
  const std::string& root = config.registry();
  const bool read_only = config.read_only();
  HideFolder(root);
  absl::optional<RegistryLock> lock;
  if (!read_only) {
    absl::StatusOr<RegistryLock> taken = RegistryLock::Take(root);
    if (!taken.ok()) return taken.status();
    lock = *std::move(taken);
  }
  absl::StatusOr<Repository> repository =
      !config.model_name().empty() ? Repository::OpenSingleModel(root, config.model_name())
      : read_only                  ? Repository::OpenReadOnly(root)
                                   : Repository::Open(root);
  if (!repository.ok()) return repository.status();
  const std::string folder = repository->OperationsFolder();
  std::vector<std::string> damaged;
  absl::StatusOr<OperationStore> operations = read_only
                                                  ? OperationStore::OpenReadOnly(folder, &damaged)
                                                  : OperationStore::Open(folder, &damaged);
  if (!operations.ok()) return operations.status();
  if (!damaged.empty()) {
    LogWarning(absl::StrCat("left out operation records that cannot be read",
                            read_only ? "" : " (damaged ones are renamed)", ": ",
                            absl::StrJoin(damaged, ", ")));
  }
  return Registry{std::move(lock), *std::move(repository), *std::move(operations)};
}

}  // namespace

// In the order of dependence: what stands later uses what stands before it.
struct Server::Parts {
  Parts(const ServerConfig& settings, Access access, Registry registry, ModelSelection selection,
        const ServerBackend& backend)
      : config(settings),
        credentials(std::move(access.credentials)),
        guard(std::move(access.guard)),
        lock(std::move(registry.lock)),
        repository(std::move(registry.repository)),
        datasets(repository.DatasetsFolder(), config.max_dataset_bytes(),
                 config.max_datasets_bytes()),
        operation_metrics(metrics),
        operations(std::move(registry.operations), config.max_concurrent_fits(),
                   [this](const OperationRecord& record, double seconds) {
                     operation_metrics.Ended(record, seconds);
                   }),
        host(backend.make_model_host(repository, HostOptions())),
        keeper(std::move(selection), repository, *host),
        fits(backend.make_fit_service(repository, datasets, *host, operations)),
        serving_metrics(metrics),
        call_metrics(metrics, ServedMethods()),
        ledger(call_metrics),
        batcher(BatchingOptions(settings), serving_metrics, backend.on_compute_thread),
        admin_queue(kMaxWaitingAdminCalls, backend.on_compute_thread),
        read_queue(kMaxWaitingAdminCalls, nullptr),
        upload_queue(kMaxUploads, nullptr),
        model_service(*host, admin_queue, read_queue, *guard),
        posterior_service({*host, *fits, datasets, operations, admin_queue, read_queue,
                           upload_queue, *guard, config.read_only()}),
        operation_service(operations, *guard),
        ood_metrics(metrics),
        prediction_service(
            {*host, batcher, ood_metrics, *guard, ledger, config.max_message_bytes()}),
        inference_service(
            {*host, batcher, ood_metrics, *guard, ledger, config.max_message_bytes()},
            [this] { return NotReady().empty(); }, LAPLACED_VERSION) {
    AddProcessMetrics(metrics);
    AddServerMetrics(operations, *host, LAPLACED_VERSION, metrics);
  }

  ModelHostOptions HostOptions() {
    ModelHostOptions options;
    options.max_batch_size = config.max_batch_size();
    options.max_model_bytes = config.max_model_bytes();
    options.on_change = [this](const std::string& name) { model_health.Update(name); };
    return options;
  }

  static BatcherOptions BatchingOptions(const ServerConfig& settings) {
    BatcherOptions options;
    options.max_waiting = settings.max_queue();
    options.max_batch_rows = settings.max_batch_rows();
    options.max_batch_delay_seconds = settings.max_batch_delay_ms() / 1000;
    options.max_queue_delay_seconds = settings.max_queue_delay_ms() / 1000;
    return options;
  }

  // Why calls cannot be made; empty while they can. One model that must answer and does not is a
  // reason too.
  std::string NotReady() const;
  absl::Status ListenHttp();
  absl::Status Listen();
  void Announce();
  void StopCalls(steady_clock::time_point deadline);
  // False if the work of an operation still runs at `operations_deadline`.
  bool Stop(steady_clock::time_point calls_deadline, steady_clock::time_point operations_deadline);

  const ServerConfig config;
  const std::shared_ptr<grpc::ServerCredentials> credentials;
  const std::unique_ptr<CallGuard> guard;
  const absl::optional<RegistryLock> lock;
  const Repository repository;
  const DatasetStore datasets;
  Metrics metrics;
  OperationMetrics operation_metrics;
  Operations operations;
  ModelHealth model_health;
  const std::unique_ptr<ModelHost> host;
  ModelKeeper keeper;
  const std::unique_ptr<FitService> fits;
  ServingMetrics serving_metrics;
  CallMetrics call_metrics;
  CallLedger ledger;
  Batcher batcher;
  ComputeQueue admin_queue;
  ComputeQueue read_queue;
  ComputeQueue upload_queue;
  ModelService model_service;
  PosteriorService posterior_service;
  OperationService operation_service;
  OodMetrics ood_metrics;
  PredictionService prediction_service;
  InferenceService inference_service;
  // Why no call can be made; null while they can. Texts are literals.
  std::atomic<const char*> not_ready{"starting, models are being loaded"};
  std::unique_ptr<HttpEndpoint> http;
  std::unique_ptr<grpc::Server> server;
  std::string address;
  std::string http_address;
  std::mutex stop_mutex;
};

std::string Server::Parts::NotReady() const {
  if (const char* reason = not_ready) return reason;
  const std::string& name = config.model_name();
  if (name.empty()) return "";
  const auto model = host->PinToAnswer(name, 0);
  if (!model.ok()) return absl::StrCat("the model ", name, " is not loaded; the log says why");
  if ((*model)->posterior_id().empty()) {
    return absl::StrCat("the model ", name, " has no active posterior");
  }
  return "";
}

absl::Status Server::Parts::ListenHttp() {
  if (config.http_listen() == kNoHttp) return absl::OkStatus();
  HttpHandlers handlers;
  handlers.metrics = [this] { return metrics.Text(); };
  handlers.not_ready = [this] { return NotReady(); };
  auto opened = HttpEndpoint::Create(config.http_listen(), std::move(handlers));
  if (!opened.ok()) {
    return absl::Status(opened.status().code(),
                        absl::StrCat("http_listen: ", opened.status().message(),
                                     " Give another one, or off for none"));
  }
  http = *std::move(opened);
  http_address = http->address();
  LogInfo(absl::StrCat("metrics and probes on http://", http_address));
  WarnIfPublic(http_address, false, false);
  return absl::OkStatus();
}

absl::Status Server::Parts::Listen() {
  gpr_set_log_function(LogFromGrpc);
  grpc::EnableDefaultHealthCheckService(true);
  if (config.reflection()) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  // Otherwise a second server shares the port silently and each gets half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  AddKeepAlive(builder);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, config.max_concurrent_streams());
  builder.SetMaxReceiveMessageSize(static_cast<int>(config.max_message_bytes()));
  // Bytes that have arrived and are no whole message yet, of all connections. Beyond this gRPC ends
  // calls by chance, because a client may begin messages and never end them.
  grpc::ResourceQuota buffers("connections");
  buffers.Resize(kMostUnfinishedMessages * static_cast<size_t>(config.max_message_bytes()));
  builder.SetResourceQuota(buffers);
  int port = 0;
  builder.AddListeningPort(config.listen(), credentials, &port);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> watchers;
  watchers.push_back(MakeCallObserver(ledger));
  builder.experimental().SetInterceptorCreators(std::move(watchers));
  builder.RegisterService(&model_service);
  builder.RegisterService(&posterior_service);
  builder.RegisterService(&operation_service);
  builder.RegisterService(&prediction_service);
  builder.RegisterService(&inference_service);
  server = builder.BuildAndStart();
  if (!server || port == 0) {
    return absl::UnavailableError(absl::StrCat(
        "listen: cannot listen on '", config.listen(),
        "'; is the port taken by another program, or the address not this machine's?"));
  }
  address = BoundAddress(config.listen(), port);
  for (const char* service : kPredictionServices) {
    server->GetHealthCheckService()->SetServingStatus(service, true);
  }
  model_health.Begin(*host, *server->GetHealthCheckService());
  not_ready = nullptr;
  WarnIfPublic(address, !config.tls_cert().empty(),
               !config.tls_client_ca().empty() || !config.tokens().empty());
  return absl::OkStatus();
}

// Tells whoever asks that other servers are the better choice; calls are still taken.
void Server::Parts::Announce() {
  not_ready = "draining, the server is about to stop";
  if (server) server->GetHealthCheckService()->Shutdown();
}

// Takes no new calls from now on; returns when there are none any more.
void Server::Parts::StopCalls(steady_clock::time_point deadline) {
  Announce();
  const auto patience = deadline - steady_clock::now();
  const system_clock::time_point last =
      system_clock::now() + std::chrono::duration_cast<system_clock::duration>(patience);
  const std::future<void> stopped =
      std::async(std::launch::async, [this, last] { server->Shutdown(last); });
  ledger.WaitUntilIdle(deadline);
  // Closes connections, which Shutdown waits for too. Again, because a client may be back before
  // Shutdown has closed the port.
  constexpr std::chrono::milliseconds kAgain{20};
  do {
    grpc_server_cancel_all_calls(server->c_server());
  } while (stopped.wait_for(kAgain) != std::future_status::ready);
}

bool Server::Parts::Stop(steady_clock::time_point calls_deadline,
                         steady_clock::time_point operations_deadline) {
  std::lock_guard<std::mutex> stopping(stop_mutex);
  // Operations end in parallel with the calls, because a WatchOperation ends only with its
  // operation.
  bool operations_ended = false;
  std::thread operations_stop([&] { operations_ended = operations.Shutdown(operations_deadline); });
  if (server) StopCalls(calls_deadline);
  model_health.End();
  operations_stop.join();
  keeper.Stop();
  batcher.Shutdown(steady_clock::time_point::min());
  for (ComputeQueue* queue : {&admin_queue, &read_queue, &upload_queue}) {
    queue->Shutdown(steady_clock::time_point::min());
  }
  server.reset();
  http.reset();
  return operations_ended;
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config,
                                                      const ServerBackend& backend) {
  const absl::Status valid = ValidateConfig(config);
  if (!valid.ok()) return valid;
  absl::StatusOr<Access> access = OpenAccess(config);
  if (!access.ok()) return access.status();
  absl::StatusOr<Registry> registry = OpenRegistry(config);
  if (!registry.ok()) return registry.status();
  // It would tell whoever waits for it that this server is ready.
  if (!config.address_file().empty()) unlink(config.address_file().c_str());
  const absl::StatusOr<ModelSelection> selection = ParseModelSelection(config.load());
  if (!selection.ok()) return selection.status();

  std::unique_ptr<Server> server(new Server(std::make_unique<Parts>(
      config, *std::move(access), *std::move(registry), *selection, backend)));
  Parts& parts = *server->parts_;
  absl::Status status = parts.ListenHttp();
  if (status.ok()) status = parts.keeper.LoadSelected();
  if (status.ok()) status = parts.Listen();
  if (!status.ok()) return status;
  if (config.registry_poll_seconds() > 0) {
    parts.keeper.Watch(config.registry_poll_seconds(), backend.on_compute_thread);
  }
  return server;
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() {
  // Work that does not react uses the host and the stores, so they go after it.
  parts_->Stop(steady_clock::now(), steady_clock::time_point::max());
}

const std::string& Server::address() const { return parts_->address; }

const std::string& Server::http_address() const { return parts_->http_address; }

int64_t Server::waiting_requests() const { return parts_->batcher.waiting(); }

bool Server::Stop() {
  if (const double delay = parts_->config.drain_delay_seconds(); delay > 0) {
    parts_->Announce();
    std::this_thread::sleep_for(std::chrono::duration<double>(delay));
  }
  const auto patience = std::chrono::duration<double>(parts_->config.drain_seconds());
  const steady_clock::time_point deadline =
      steady_clock::now() + std::chrono::duration_cast<steady_clock::duration>(patience);
  return parts_->Stop(deadline, deadline);
}

}  // namespace laplaced
