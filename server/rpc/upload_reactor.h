// One UploadDataset stream: a header, then chunks of rows, then the answer with the data set's id.
//
// Messages come on gRPC's threads; everything that touches the disk runs as a job on `queue`.
// Either a read is in progress or a job, never both, so the members below need no lock: they are
// handed from one to the other. The first bad message ends the stream with its error, whatever the
// client still sends; data that was not committed is removed. Owned by gRPC: deletes itself in
// OnDone.
#pragma once

#include <grpcpp/grpcpp.h>
#include <laplace/v1/posterior.pb.h>

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "server/registry/dataset_store.h"
#include "server/serving/compute_queue.h"

namespace laplaced {

class UploadReactor final : public grpc::ServerReadReactor<laplace::v1::UploadDatasetRequest> {
 public:
  // For the service method to return. `datasets` and `queue` must outlive the stream.
  static UploadReactor* Start(const DatasetStore& datasets, ComputeQueue& queue,
                              grpc::CallbackServerContext* call,
                              laplace::v1::UploadDatasetResponse* response);

  void OnReadDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  UploadReactor(const DatasetStore& datasets, ComputeQueue& queue,
                grpc::CallbackServerContext* call, laplace::v1::UploadDatasetResponse* response);

  // The jobs' work. An error, or Commit's success, ends the stream.
  absl::Status Consume();
  absl::Status Append(const laplace::v1::DatasetChunk& chunk);
  absl::Status Commit();

  // Runs `step` on the queue; `then` follows if it succeeds and must be the last that touches the
  // reactor.
  void RunStep(std::function<absl::Status()> step, std::function<void()> then);
  void End(const absl::Status& status);

  const DatasetStore& datasets_;
  ComputeQueue& queue_;
  laplace::v1::UploadDatasetResponse* const response_;
  const std::shared_ptr<ComputeContext> context_;

  laplace::v1::UploadDatasetRequest message_;
  std::unique_ptr<DatasetWriter> writer_;  // null before the header
  int64_t chunks_ = 0;                     // appended
  int64_t rows_ = 0;                       // appended
};

}  // namespace laplaced
