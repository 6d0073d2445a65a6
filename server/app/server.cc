#include "server/app/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/app/config.h"
#include "server/app/model_selection.h"
#include "server/observe/log.h"
#include "server/registry/operation_store.h"
#include "server/rpc/model_service.h"
#include "server/rpc/operation_service.h"
#include "server/rpc/posterior_service.h"
#include "server/rpc/prediction_service.h"
#include "server/serving/compute_queue.h"

namespace laplaced {
namespace {

using laplace::v1::ServerConfig;
using std::chrono::steady_clock;
using std::chrono::system_clock;

// Administration is rare; a longer queue would only hide that something is stuck.
constexpr int64_t kMaxWaitingAdminCalls = 64;
// Every upload has at most one step in the queue, so this bounds the uploads at the same time.
constexpr int64_t kMaxUploads = 64;

constexpr char kPredictionServiceName[] = "laplace.v1.PredictionService";

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

absl::StatusOr<OperationStore> OpenOperationStore(const Repository& repository) {
  std::vector<std::string> damaged;
  absl::StatusOr<OperationStore> store =
      OperationStore::Open(repository.OperationsFolder(), &damaged);
  if (store.ok() && !damaged.empty()) {
    LogWarning(
        absl::StrCat("set aside unreadable operation records: ", absl::StrJoin(damaged, ", ")));
  }
  return store;
}

}  // namespace

// In the order of dependence: what stands later uses what stands before it.
struct Server::Parts {
  Parts(const ServerConfig& settings, Repository opened, OperationStore store,
        const ServerBackend& backend)
      : config(settings),
        repository(std::move(opened)),
        datasets(repository.DatasetsFolder(), config.max_dataset_bytes()),
        operations(std::move(store), config.max_concurrent_fits()),
        host(backend.make_model_host(repository, HostOptions(settings))),
        fits(backend.make_fit_service(repository, datasets, *host, operations)),
        compute_queue(config.max_queue(), backend.on_compute_thread),
        admin_queue(kMaxWaitingAdminCalls, backend.on_compute_thread),
        upload_queue(kMaxUploads, nullptr),
        model_service(*host, admin_queue),
        posterior_service({*host, *fits, datasets, operations, admin_queue, upload_queue}),
        operation_service(operations),
        prediction_service(*host, compute_queue, config.max_message_bytes()) {}

  static ModelHostOptions HostOptions(const ServerConfig& settings) {
    ModelHostOptions options;
    options.max_batch_size = settings.max_batch_size();
    return options;
  }

  absl::Status Listen();
  void Stop(system_clock::duration patience);

  const ServerConfig config;
  const Repository repository;
  const DatasetStore datasets;
  Operations operations;
  const std::unique_ptr<ModelHost> host;
  const std::unique_ptr<FitService> fits;
  ComputeQueue compute_queue;
  ComputeQueue admin_queue;
  ComputeQueue upload_queue;
  ModelService model_service;
  PosteriorService posterior_service;
  OperationService operation_service;
  PredictionService prediction_service;
  std::unique_ptr<grpc::Server> server;
  std::string address;
  std::mutex stop_mutex;
};

absl::Status Server::Parts::Listen() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  // Otherwise a second server shares the port silently and each gets half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetMaxReceiveMessageSize(static_cast<int>(config.max_message_bytes()));
  int port = 0;
  builder.AddListeningPort(config.listen(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&model_service);
  builder.RegisterService(&posterior_service);
  builder.RegisterService(&operation_service);
  builder.RegisterService(&prediction_service);
  server = builder.BuildAndStart();
  if (!server || port == 0) {
    return absl::UnavailableError(absl::StrCat(
        "listen: cannot listen on '", config.listen(),
        "'; is the port taken by another program, or the address not this machine's?"));
  }
  address = BoundAddress(config.listen(), port);
  server->GetHealthCheckService()->SetServingStatus(kPredictionServiceName, true);
  if (!IsLocal(config.listen())) {
    LogWarning(
        absl::StrCat("listening on ", address,
                     " without encryption and authentication; keep it on a trusted network"));
  }
  return absl::OkStatus();
}

void Server::Parts::Stop(system_clock::duration patience) {
  std::lock_guard<std::mutex> lock(stop_mutex);
  // Operations end in parallel with the calls, because a WatchOperation ends only with its
  // operation.
  std::thread operations_stop([this] { operations.Shutdown(); });
  if (server) {
    server->GetHealthCheckService()->Shutdown();
    server->Shutdown(system_clock::now() + patience);
  }
  operations_stop.join();
  for (ComputeQueue* queue : {&compute_queue, &admin_queue, &upload_queue}) {
    queue->Shutdown(steady_clock::time_point::min());
  }
  server.reset();
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config,
                                                      const ServerBackend& backend) {
  const absl::Status valid = ValidateConfig(config);
  if (!valid.ok()) return valid;
  absl::StatusOr<Repository> repository = Repository::Open(config.registry());
  if (!repository.ok()) return repository.status();
  absl::StatusOr<OperationStore> store = OpenOperationStore(*repository);
  if (!store.ok()) return store.status();
  const absl::StatusOr<ModelSelection> selection = ParseModelSelection(config.load());
  if (!selection.ok()) return selection.status();

  std::unique_ptr<Server> server(new Server(
      std::make_unique<Parts>(config, *std::move(repository), *std::move(store), backend)));
  Parts& parts = *server->parts_;
  absl::Status status = LoadSelectedModels(*selection, parts.repository, *parts.host);
  if (status.ok()) status = parts.Listen();
  if (!status.ok()) return status;
  return server;
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() { parts_->Stop(system_clock::duration::zero()); }

const std::string& Server::address() const { return parts_->address; }

int64_t Server::waiting_requests() const { return parts_->compute_queue.waiting(); }

void Server::Stop() {
  const auto patience = std::chrono::duration<double>(parts_->config.drain_seconds());
  parts_->Stop(std::chrono::duration_cast<system_clock::duration>(patience));
}

}  // namespace laplaced
