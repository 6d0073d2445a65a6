// Data sets: their content id, and sending them in chunks when the server lacks them.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/client.h"
#include "client/cpp/client_impl.h"
#include "client/cpp/convert.h"
#include "formats/dataset_id.h"

namespace laplace::client {
namespace {

using ::laplaced::DatasetHeader;
using ::laplaced::DTypeName;
using ::laplaced::ElementSize;
using ::laplaced::ShapeString;

template <typename T>
void WidenInto(const Array& from, int64_t* to) {
  std::copy_n(from.data<T>(), from.rows(), to);
}

// Class labels of any integer type as int64.
Array AsLabels(const Array& targets) {
  Array labels;
  labels.dtype = DType::kInt64;
  labels.shape = targets.shape;
  labels.bytes.resize(targets.rows() * sizeof(int64_t));
  if (targets.dtype == DType::kUint8) WidenInto<uint8_t>(targets, labels.data<int64_t>());
  if (targets.dtype == DType::kInt32) WidenInto<int32_t>(targets, labels.data<int64_t>());
  return labels;
}

absl::Status CheckArray(const Array& array, const char* name) {
  const absl::StatusOr<int64_t> count = ::laplaced::NumElements(array.shape);
  if (!count.ok()) return count.status();
  const int64_t expected = *count * ElementSize(array.dtype);
  if (expected != static_cast<int64_t>(array.bytes.size())) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", DTypeName(array.dtype), " of shape ",
                                                   ShapeString(array.shape), " takes ", expected,
                                                   " bytes, got ", array.bytes.size()));
  }
  return absl::OkStatus();
}

// A data set that is known to be consistent. `targets` is what is sent: the caller's array or its
// widened copy.
struct CheckedData {
  DatasetHeader header;
  const Array* inputs = nullptr;
  const Array* targets = nullptr;
  Array labels;

  int64_t InputRowBytes() const { return inputs->bytes.size() / header.n_rows; }
  int64_t TargetRowBytes() const { return targets->bytes.size() / header.n_rows; }
};

absl::Status Check(const Array& inputs, const Array& targets, CheckedData& data) {
  if (absl::Status status = CheckArray(inputs, "inputs"); !status.ok()) return status;
  if (absl::Status status = CheckArray(targets, "targets"); !status.ok()) return status;
  if (inputs.rows() < 1) return absl::InvalidArgumentError("inputs: expected rows, got none");
  if (inputs.dtype == DType::kInt32 || inputs.dtype == DType::kInt64) {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs: expected float32, float64 or uint8, got ", DTypeName(inputs.dtype)));
  }
  if (targets.rows() != inputs.rows()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "targets: expected ", inputs.rows(), " rows, one for each input, got ", targets.rows()));
  }
  const bool regression = targets.dtype == DType::kFloat32 || targets.dtype == DType::kFloat64;
  if (!regression && targets.shape.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("targets: expected one class label for each input, got ",
                     DTypeName(targets.dtype), " of shape ", ShapeString(targets.shape)));
  }
  data.inputs = &inputs;
  data.targets = &targets;
  if (!regression && targets.dtype != DType::kInt64) {
    data.labels = AsLabels(targets);
    data.targets = &data.labels;
  }
  data.header.input_dtype = inputs.dtype;
  data.header.example_shape.assign(inputs.shape.begin() + 1, inputs.shape.end());
  data.header.target_dtype = data.targets->dtype;
  data.header.target_shape.assign(targets.shape.begin() + 1, targets.shape.end());
  data.header.n_rows = inputs.rows();
  return absl::OkStatus();
}

std::string IdOf(const CheckedData& data) {
  ::laplaced::DatasetHasher hasher(data.header);
  hasher.Update(data.inputs->bytes.data(), data.inputs->bytes.size(), data.targets->bytes.data(),
                data.targets->bytes.size());
  return hasher.Finish();
}

void SetRows(const Array& array, int64_t begin, int64_t count, int64_t row_bytes,
             v1::Tensor& tensor) {
  tensor.set_dtype(ToProto(array.dtype));
  tensor.clear_shape();
  tensor.add_shape(count);
  for (size_t i = 1; i < array.shape.size(); ++i) tensor.add_shape(array.shape[i]);
  tensor.set_raw_values(array.bytes.data() + begin * row_bytes, count * row_bytes);
}

v1::UploadDatasetRequest HeaderMessage(const DatasetHeader& header) {
  v1::UploadDatasetRequest request;
  v1::DatasetHeader& message = *request.mutable_header();
  message.set_input_dtype(ToProto(header.input_dtype));
  message.mutable_example_shape()->Add(header.example_shape.begin(), header.example_shape.end());
  message.set_target_dtype(ToProto(header.target_dtype));
  message.mutable_target_shape()->Add(header.target_shape.begin(), header.target_shape.end());
  message.set_n_rows(header.n_rows);
  return request;
}

grpc::Status Upload(v1::PosteriorService::Stub& stub, grpc::ClientContext& context,
                    const CheckedData& data, int64_t chunk_bytes, const UploadProgress& progress,
                    v1::UploadDatasetResponse& response) {
  const auto stream = stub.UploadDataset(&context, &response);
  bool open = stream->Write(HeaderMessage(data.header));
  const int64_t input_row = data.InputRowBytes();
  const int64_t target_row = data.TargetRowBytes();
  const int64_t step =
      std::max<int64_t>(1, chunk_bytes / std::max<int64_t>(1, input_row + target_row));
  v1::UploadDatasetRequest request;
  for (int64_t row = 0; open && row < data.header.n_rows; row += step) {
    const int64_t count = std::min(step, data.header.n_rows - row);
    SetRows(*data.inputs, row, count, input_row, *request.mutable_chunk()->mutable_inputs());
    SetRows(*data.targets, row, count, target_row, *request.mutable_chunk()->mutable_targets());
    open = stream->Write(request);
    if (open && progress) progress(row + count, data.header.n_rows);
  }
  // A stream that the server closed early says why in Finish.
  stream->WritesDone();
  return stream->Finish();
}

}  // namespace

absl::StatusOr<std::string> Client::DatasetId(const Array& inputs, const Array& targets) {
  CheckedData data;
  if (absl::Status status = Check(inputs, targets, data); !status.ok()) return status;
  return IdOf(data);
}

absl::StatusOr<Dataset> Client::EnsureDataset(const Array& inputs, const Array& targets,
                                              const UploadProgress& progress) const {
  CheckedData data;
  if (absl::Status status = Check(inputs, targets, data); !status.ok()) return status;
  const std::string id = IdOf(data);

  v1::GetDatasetRequest request;
  request.set_id(id);
  const auto present = impl_->Call(*impl_->posteriors, &v1::PosteriorService::Stub::GetDataset,
                                   request, impl_->options.timeout);
  if (present.ok()) return FromProto(present->dataset());
  // The same upload repairs a damaged one.
  if (!absl::IsNotFound(present.status()) && !absl::IsDataLoss(present.status())) {
    return present.status();
  }

  v1::UploadDatasetResponse response;
  const absl::Status status =
      CallWithRetry(impl_->options.retry, {impl_->target, impl_->options.upload_timeout},
                    [&](grpc::ClientContext& context) {
                      response.Clear();
                      AddToken(impl_->options, context);
                      return Upload(*impl_->posteriors, context, data,
                                    impl_->options.upload_chunk_bytes, progress, response);
                    });
  if (!status.ok()) return status;
  Dataset dataset = FromProto(response.dataset());
  if (dataset.id != id) {
    return absl::InternalError(absl::StrCat("the server stored data set ", dataset.id,
                                            " where these rows are ", id,
                                            "; client and server disagree about the content id"));
  }
  return dataset;
}

}  // namespace laplace::client
