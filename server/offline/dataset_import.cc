#include "server/offline/dataset_import.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/row_reader.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

constexpr int64_t kBatchBytes = 8 << 20;

std::vector<int64_t> WithoutOnes(std::vector<int64_t> shape) {
  shape.erase(std::remove(shape.begin(), shape.end(), 1), shape.end());
  return shape;
}

std::vector<int64_t> RowShape(const RowReader& reader) {
  if (reader.shape().empty()) return {};
  return {reader.shape().begin() + 1, reader.shape().end()};
}

absl::Status CheckType(const std::string& path, const RowReader& inputs) {
  if (!inputs.boolean()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": examples are bool, expected floats or uint8: save them as float32 zeros and ones"));
}

absl::Status ShapeAsModel(const std::string& path, const Manifest& manifest, RowReader& inputs) {
  const std::vector<int64_t> row = RowShape(inputs);
  if (row == manifest.input_shape) return absl::OkStatus();
  if (WithoutOnes(row) != WithoutOnes(manifest.input_shape)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": examples have shape ", ShapeString(row),
                                                   ", expected ", ShapeString(manifest.input_shape),
                                                   " (the model's input)"));
  }
  std::vector<int64_t> shape = manifest.input_shape;
  shape.insert(shape.begin(), inputs.rows());
  return inputs.Reshape(shape);
}

template <typename T>
void Widen(Array& array) {
  std::string bytes(static_cast<size_t>(NumElements(array.shape).value()) * sizeof(int64_t), '\0');
  auto* out = reinterpret_cast<int64_t*>(bytes.data());
  const size_t n = bytes.size() / sizeof(int64_t);
  std::copy(array.data<T>(), array.data<T>() + n, out);
  array.bytes = std::move(bytes);
  array.dtype = DType::kInt64;
}

void WidenLabels(Array& targets) {
  if (targets.dtype == DType::kUint8) Widen<uint8_t>(targets);
  if (targets.dtype == DType::kInt32) Widen<int32_t>(targets);
}

absl::StatusOr<std::unique_ptr<RowReader>> OpenKnown(const std::string& path,
                                                     std::vector<std::string> keys) {
  RowReaderOptions options;
  options.keys = std::move(keys);
  LAPLACED_ASSIGN_OR_RETURN(std::unique_ptr<RowReader> reader, OpenRows(path, options));
  if (reader->text() || reader->rows() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected .npy, .npz or IDX, whose number of rows is known"));
  }
  return reader;
}

}  // namespace

absl::StatusOr<std::string> ImportDataset(const DataFiles& files, const Manifest& manifest,
                                          const DatasetStore& store,
                                          const ImportProgressFn& progress) {
  const std::string& targets_path = files.targets.empty() ? files.inputs : files.targets;
  LAPLACED_ASSIGN_OR_RETURN(auto inputs, OpenKnown(files.inputs, {"x", "inputs"}));
  LAPLACED_ASSIGN_OR_RETURN(auto targets, OpenKnown(targets_path, {"y", "targets", "labels"}));
  LAPLACED_RETURN_IF_ERROR(CheckType(files.inputs, *inputs));
  LAPLACED_RETURN_IF_ERROR(ShapeAsModel(files.inputs, manifest, *inputs));
  if (targets->rows() != inputs->rows()) {
    return absl::InvalidArgumentError(absl::StrCat(targets_path, ": has ", targets->rows(),
                                                   " rows, expected ", inputs->rows(),
                                                   ", as many as ", files.inputs));
  }
  const int64_t end = files.end < 0 ? inputs->rows() : files.end;
  if (files.begin >= end || end > inputs->rows()) {
    return absl::InvalidArgumentError(absl::StrCat(files.inputs, ": rows ", files.begin, ":", end,
                                                   " are not among its ", inputs->rows(), " rows"));
  }
  LAPLACED_ASSIGN_OR_RETURN(const int64_t row_bytes, NumBytes(inputs->dtype(), RowShape(*inputs)));
  const int64_t step = std::max<int64_t>(1, kBatchBytes / std::max<int64_t>(1, row_bytes));
  const int64_t total = end - files.begin;
  for (int64_t row = 0; row < files.begin;) {
    if (progress) LAPLACED_RETURN_IF_ERROR(progress(0, total));
    const int64_t count = std::min(step, files.begin - row);
    LAPLACED_RETURN_IF_ERROR(inputs->Skip(count).status());
    LAPLACED_RETURN_IF_ERROR(targets->Skip(count).status());
    row += count;
  }

  const bool labels = targets->dtype() != DType::kFloat32 && targets->dtype() != DType::kFloat64;
  const DatasetHeader header{inputs->dtype(), manifest.input_shape,
                             labels ? DType::kInt64 : targets->dtype(), RowShape(*targets), total};
  LAPLACED_ASSIGN_OR_RETURN(const auto writer, store.NewWriter(header));
  for (int64_t row = files.begin; row < end;) {
    if (progress) LAPLACED_RETURN_IF_ERROR(progress(row - files.begin, total));
    const int64_t count = std::min(step, end - row);
    LAPLACED_ASSIGN_OR_RETURN(const Array x, inputs->Next(count));
    LAPLACED_ASSIGN_OR_RETURN(Array y, targets->Next(count));
    WidenLabels(y);
    LAPLACED_RETURN_IF_ERROR(
        writer->Append({x.dtype, x.shape, x.bytes.data()}, {y.dtype, y.shape, y.bytes.data()}));
    row += count;
  }
  LAPLACED_ASSIGN_OR_RETURN(const DatasetInfo info, writer->Commit());
  return info.id;
}

}  // namespace laplaced
