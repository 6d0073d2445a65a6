// laplace.v1.PosteriorService over FitService, ModelHost and DatasetStore.
//
// Every call may read or write files, so work runs on queues: uploads on their own, so that a model
// that loads for seconds does not hold them up, everything else on the one for administration. A
// read-only service answers whatever would write with FAILED_PRECONDITION. Thread-safe. All
// references must outlive the gRPC server.
#pragma once

#include <laplace/v1/posterior.grpc.pb.h>

#include <functional>
#include <string>

#include "server/registry/dataset_store.h"
#include "server/rpc/call_guard.h"
#include "server/serving/compute_queue.h"
#include "server/serving/fit_service.h"
#include "server/serving/model_host.h"
#include "server/serving/operations.h"

namespace laplaced {

class PosteriorService final : public laplace::v1::PosteriorService::CallbackService {
 public:
  struct Parts {
    ModelHost& host;
    FitService& fits;
    const DatasetStore& datasets;
    const Operations& operations;
    ComputeQueue& admin_queue;
    ComputeQueue& read_queue;  // for calls that change nothing, which no slow change may hold up
    ComputeQueue& upload_queue;
    const CallGuard& guard;
    bool read_only = false;
  };
  explicit PosteriorService(const Parts& parts);

  grpc::ServerUnaryReactor* FitPosterior(grpc::CallbackServerContext* call,
                                         const laplace::v1::FitPosteriorRequest* request,
                                         laplace::v1::FitPosteriorResponse* response) override;
  grpc::ServerUnaryReactor* UpdatePosterior(
      grpc::CallbackServerContext* call, const laplace::v1::UpdatePosteriorRequest* request,
      laplace::v1::UpdatePosteriorResponse* response) override;
  grpc::ServerUnaryReactor* CalibrateOod(grpc::CallbackServerContext* call,
                                         const laplace::v1::CalibrateOodRequest* request,
                                         laplace::v1::CalibrateOodResponse* response) override;
  grpc::ServerUnaryReactor* NewtonStep(grpc::CallbackServerContext* call,
                                       const laplace::v1::NewtonStepRequest* request,
                                       laplace::v1::NewtonStepResponse* response) override;
  grpc::ServerUnaryReactor* ListPosteriors(grpc::CallbackServerContext* call,
                                           const laplace::v1::ListPosteriorsRequest* request,
                                           laplace::v1::ListPosteriorsResponse* response) override;
  grpc::ServerUnaryReactor* GetPosterior(grpc::CallbackServerContext* call,
                                         const laplace::v1::GetPosteriorRequest* request,
                                         laplace::v1::GetPosteriorResponse* response) override;
  grpc::ServerUnaryReactor* ActivatePosterior(
      grpc::CallbackServerContext* call, const laplace::v1::ActivatePosteriorRequest* request,
      laplace::v1::ActivatePosteriorResponse* response) override;
  grpc::ServerUnaryReactor* DeletePosterior(
      grpc::CallbackServerContext* call, const laplace::v1::DeletePosteriorRequest* request,
      laplace::v1::DeletePosteriorResponse* response) override;
  grpc::ServerReadReactor<laplace::v1::UploadDatasetRequest>* UploadDataset(
      grpc::CallbackServerContext* call, laplace::v1::UploadDatasetResponse* response) override;
  grpc::ServerUnaryReactor* GetDataset(grpc::CallbackServerContext* call,
                                       const laplace::v1::GetDatasetRequest* request,
                                       laplace::v1::GetDatasetResponse* response) override;

 private:
  // Calls `start` on the queue and fills `operation`, which belongs to the response.
  grpc::ServerUnaryReactor* StartOperation(
      grpc::CallbackServerContext* call, const char* method,
      std::function<absl::StatusOr<OperationSnapshot>(const ComputeContext&)> start,
      laplace::v1::Operation* operation);
  std::string ActiveId(const std::string& model, int64_t version) const;
  // When a fit or another operation that is refused for lack of room may be tried again.
  double SecondsUntilFitEnds() const;

  const Parts parts_;
};

}  // namespace laplaced
