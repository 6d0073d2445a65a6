#include "server/rpc/upload_reactor.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/model/field_error.h"
#include "server/observe/log.h"
#include "server/rpc/record_codec.h"
#include "server/rpc/request_codec.h"
#include "server/rpc/status_mapping.h"
#include "server/rpc/tensor_codec.h"
#include "server/rpc/unary_job.h"

namespace laplaced {
namespace {

namespace v1 = laplace::v1;

constexpr char kUpload[] = "PosteriorService.UploadDataset";

// Says which chunk an error is about. The writer knows a chunk's parts as `inputs` and `targets`.
absl::Status InChunk(const absl::Status& status, int64_t chunk, int64_t first_row) {
  if (!absl::IsInvalidArgument(status)) return status;
  std::string field = FieldOf(status);
  if (!absl::StartsWith(field, "chunk")) {
    field = field.empty() ? "chunk" : absl::StrCat("chunk.", field);
  }
  const absl::Status renamed = RenameField(status, field);
  absl::Status result(renamed.code(), absl::StrCat(renamed.message(), " (in chunk ", chunk,
                                                   ", which begins with row ", first_row, ")"));
  result.SetPayload(kFieldPayloadUrl, absl::Cord(field));
  return result;
}

}  // namespace

UploadReactor* UploadReactor::Start(const DatasetStore& datasets, ComputeQueue& queue,
                                    grpc::CallbackServerContext* call,
                                    v1::UploadDatasetResponse* response) {
  auto* reactor = new UploadReactor(datasets, queue, call, response);
  reactor->StartRead(&reactor->message_);
  return reactor;
}

UploadReactor::UploadReactor(const DatasetStore& datasets, ComputeQueue& queue,
                             grpc::CallbackServerContext* call, v1::UploadDatasetResponse* response)
    : datasets_(datasets),
      queue_(queue),
      response_(response),
      context_(MakeComputeContext(*call)) {}

void UploadReactor::OnReadDone(bool ok) {
  if (ok) {
    RunStep([this] { return Consume(); }, [this] { StartRead(&message_); });
  } else {
    RunStep([this] { return Commit(); }, [this] { End(absl::OkStatus()); });
  }
}

void UploadReactor::OnCancel() { context_->cancelled.store(true, std::memory_order_relaxed); }

void UploadReactor::OnDone() { delete this; }

void UploadReactor::RunStep(std::function<absl::Status()> step, std::function<void()> then) {
  ComputeQueue::Job job;
  job.context = context_;
  job.run = [this, step = std::move(step), then = std::move(then)](double) {
    const absl::Status status = RunGuarded(step);
    if (status.ok()) {
      then();
    } else {
      End(status);
    }
  };
  job.drop = [this](const absl::Status& status) { End(status); };
  const absl::Status submitted = SubmitOrRefuse(queue_, std::move(job));
  if (!submitted.ok()) End(submitted);
}

void UploadReactor::End(const absl::Status& status) {
  // Removes the temporary files of what was not committed.
  writer_.reset();
  Finish(ToGrpcStatus(status, kUpload));
}

absl::Status UploadReactor::Consume() {
  switch (message_.part_case()) {
    case v1::UploadDatasetRequest::kHeader: {
      if (writer_) {
        return FieldError("header", absl::StrCat("expected only in the first message, got another ",
                                                 "after ", chunks_, " chunk(s)"));
      }
      const absl::StatusOr<DatasetHeader> header = ToDatasetHeader(message_.header());
      if (!header.ok()) return header.status();
      absl::StatusOr<std::unique_ptr<DatasetWriter>> writer = datasets_.NewWriter(*header);
      if (!writer.ok()) return WithField(writer.status(), "header");
      writer_ = *std::move(writer);
      return absl::OkStatus();
    }
    case v1::UploadDatasetRequest::kChunk:
      return Append(message_.chunk());
    default:
      return FieldError(
          "part", absl::StrCat("expected a header or a chunk, got neither in message ", "after ",
                               chunks_, " chunk(s)"));
  }
}

absl::Status UploadReactor::Append(const v1::DatasetChunk& chunk) {
  if (!writer_) {
    return FieldError("header", "expected in the first message of the stream, got a chunk");
  }
  const absl::StatusOr<ArrayView> inputs = ViewTensor(chunk.inputs(), "chunk.inputs");
  if (!inputs.ok()) return InChunk(inputs.status(), chunks_, rows_);
  const absl::StatusOr<ArrayView> targets = ViewTensor(chunk.targets(), "chunk.targets");
  if (!targets.ok()) return InChunk(targets.status(), chunks_, rows_);
  const absl::Status appended = writer_->Append(*inputs, *targets);
  if (!appended.ok()) return InChunk(appended, chunks_, rows_);
  ++chunks_;
  rows_ += inputs->shape.empty() ? 0 : inputs->shape[0];
  return absl::OkStatus();
}

absl::Status UploadReactor::Commit() {
  if (!writer_) {
    return FieldError("header", "expected in the first message of the stream, got an empty stream");
  }
  const absl::StatusOr<DatasetInfo> info = writer_->Commit();
  if (!info.ok()) return RenameField(info.status(), "header.n_rows");
  LogInfo(absl::StrCat("stored data set ", info->id, " with ", info->header.n_rows, " rows"));
  FillDataset(*info, response_->mutable_dataset());
  return absl::OkStatus();
}

}  // namespace laplaced
