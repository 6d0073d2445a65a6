// laplace.v1.PosteriorService over FitService, ModelHost and DatasetStore.
//
// Every call may read or write files, so work runs on queues: uploads on their own, so that a model
// that loads for seconds does not hold them up, everything else on the one for administration. A
// read-only service answers whatever would write with FAILED_PRECONDITION. Thread-safe. All
// references must outlive the gRPC server.
#pragma once

#include <laplace/v1/posterior.grpc.pb.h>

#include "server/registry/dataset_store.h"
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
    ComputeQueue& upload_queue;
    bool read_only = false;
  };
  explicit PosteriorService(const Parts& parts);

  grpc::ServerUnaryReactor* FitPosterior(grpc::CallbackServerContext* call,
                                         const laplace::v1::FitPosteriorRequest* request,
                                         laplace::v1::FitPosteriorResponse* response) override;
  grpc::ServerUnaryReactor* ListPosteriors(grpc::CallbackServerContext* call,
                                           const laplace::v1::ListPosteriorsRequest* request,
                                           laplace::v1::ListPosteriorsResponse* response) override;
  grpc::ServerUnaryReactor* GetPosterior(grpc::CallbackServerContext* call,
                                         const laplace::v1::GetPosteriorRequest* request,
                                         laplace::v1::GetPosteriorResponse* response) override;
  grpc::ServerUnaryReactor* ActivatePosterior(
      grpc::CallbackServerContext* call, const laplace::v1::ActivatePosteriorRequest* request,
      laplace::v1::ActivatePosteriorResponse* response) override;
  grpc::ServerReadReactor<laplace::v1::UploadDatasetRequest>* UploadDataset(
      grpc::CallbackServerContext* call, laplace::v1::UploadDatasetResponse* response) override;
  grpc::ServerUnaryReactor* GetDataset(grpc::CallbackServerContext* call,
                                       const laplace::v1::GetDatasetRequest* request,
                                       laplace::v1::GetDatasetResponse* response) override;

 private:
  std::string ActiveId(const std::string& model, int64_t version) const;
  // When a fit that is refused for lack of room may be tried again.
  double SecondsUntilFitEnds() const;

  const Parts parts_;
};

}  // namespace laplaced
