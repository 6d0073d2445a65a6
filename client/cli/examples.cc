#include "client/cli/examples.h"

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/npz.h"
#include "formats/row_reader.h"

namespace laplace::cli {
namespace {

using client::Array;
using client::DType;
using ::laplaced::DTypeName;
using ::laplaced::ElementSize;
using ::laplaced::NumElements;
using ::laplaced::RowReader;
using ::laplaced::ShapeString;

using Keys = std::initializer_list<const char*>;

constexpr Keys kInputKeys = {"x", "inputs"};
constexpr Keys kTargetKeys = {"y", "targets", "labels"};

// The array of a file that is called one of `keys`, or the only one; no other is read.
absl::StatusOr<std::unique_ptr<RowReader>> OpenArray(const std::string& path, Keys keys) {
  ::laplaced::RowReaderOptions options;
  options.keys.assign(keys.begin(), keys.end());
  options.arrays_only = true;
  options.max_batch_bytes = ::laplaced::kDefaultMaxArrayBytes;
  return ::laplaced::OpenRows(path, options);
}

// Whether a file of inputs holds targets as well.
absl::StatusOr<bool> HoldsTargets(const std::string& path) {
  if (!absl::EndsWith(path, ".npz")) return false;
  const absl::StatusOr<std::vector<std::string>> keys = ::laplaced::NpzKeys(path);
  if (!keys.ok()) return keys.status();
  // An only array is the inputs, whatever its name.
  return keys->size() > 1 && std::find_first_of(keys->begin(), keys->end(), kTargetKeys.begin(),
                                                kTargetKeys.end()) != keys->end();
}

absl::StatusOr<Array> ReadRows(const RowRange& range, const std::string& path, RowReader& reader) {
  const int64_t rows = reader.rows();
  if (rows == 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": holds no rows (its array has shape ",
                                                   ShapeString(reader.shape()),
                                                   "), expected at least one"));
  }
  const int64_t end = range.end < 0 ? rows : range.end;
  if (range.begin >= end || end > rows) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": rows ", range.begin, ":", end, " are not among its ", rows, " rows"));
  }
  absl::StatusOr<int64_t> skipped = reader.Skip(range.begin);
  if (!skipped.ok()) return skipped.status();
  absl::StatusOr<Array> wanted = reader.Next(end - range.begin);
  if (!wanted.ok()) return wanted;
  // To the end, where damage shows.
  skipped = reader.Skip(rows - end);
  if (!skipped.ok()) return skipped.status();
  return wanted;
}

template <typename T>
std::vector<int64_t> AsInt64(const Array& array) {
  return std::vector<int64_t>(array.data<T>(), array.data<T>() + array.rows());
}

// Labels that are there (1) or not (0) as float32.
template <typename T>
absl::Status ToZerosAndOnes(Array& labels) {
  Array floats;
  floats.dtype = DType::kFloat32;
  floats.shape = labels.shape;
  const int64_t count = labels.rows() * labels.shape[1];
  floats.bytes.resize(count * sizeof(float));
  for (int64_t i = 0; i < count; ++i) {
    const T value = labels.data<T>()[i];
    if (value != 0 && value != 1) {
      return absl::InvalidArgumentError(absl::StrCat("labels: row ", i / labels.shape[1],
                                                     ", label ", i % labels.shape[1], " is ", value,
                                                     ", expected 0 (not there) or 1 (there)"));
    }
    floats.data<float>()[i] = static_cast<float>(value);
  }
  labels = std::move(floats);
  return absl::OkStatus();
}

using Sizes = std::vector<int64_t>;

// Dimensions of size 1 hold no order, so that adding or dropping them moves no element.
Sizes WithoutOnes(Sizes shape) {
  shape.erase(std::remove(shape.begin(), shape.end(), 1), shape.end());
  return shape;
}

// `shape` without its first dimension, the batch.
Sizes ExampleShape(const Sizes& shape) {
  return shape.empty() ? shape : Sizes(shape.begin() + 1, shape.end());
}

// Whether `shape` is `full` with none, some or all of its dimensions of size 1 left out.
bool LeavesOutOnes(const Sizes& shape, const Sizes& full) {
  size_t matched = 0;
  for (int64_t size : full) {
    if (matched < shape.size() && shape[matched] == size) {
      ++matched;
    } else if (size != 1) {
      return false;
    }
  }
  return matched == shape.size();
}

// What may help where `shape` was refused; starts with "; " unless empty.
std::string ShapeHint(const Sizes& shape, const Sizes& expected) {
  const size_t rank = shape.size();
  if (expected.size() == 3 && (rank == 3 || rank == 4)) {
    const Sizes channels_first = {shape[rank - 1], shape[rank - 3], shape[rank - 2]};
    if (channels_first == expected) {
      return absl::StrCat("; the model wants channels first: ",
                          rank == 4 ? "transpose(0, 3, 1, 2)" : "transpose(2, 0, 1)");
    }
  }
  const absl::StatusOr<int64_t> elements = NumElements(expected);
  const auto as_many = [&elements](const Sizes& sizes) {
    const absl::StatusOr<int64_t> count = NumElements(sizes);
    return count.ok() && elements.ok() && *count == *elements;
  };
  if (as_many(ExampleShape(shape)) || as_many(shape)) {
    return "; the number of elements fits, but their order is not guessed: reshape the array";
  }
  return "";
}

}  // namespace

absl::StatusOr<RowRange> ParseRowRange(const std::string& text) {
  RowRange range;
  const size_t colon = text.find(':');
  if (colon != std::string::npos) {
    const std::string begin = text.substr(0, colon);
    const std::string end = text.substr(colon + 1);
    const bool begin_ok =
        begin.empty() || (absl::SimpleAtoi(begin, &range.begin) && range.begin >= 0);
    const bool end_ok =
        end.empty() || (absl::SimpleAtoi(end, &range.end) && range.end > range.begin);
    if (begin_ok && end_ok) return range;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("expected rows BEGIN:END with BEGIN before END, such as 0:50000, got ", text));
}

absl::StatusOr<Examples> ReadExamples(const ExampleFiles& files) {
  std::string inputs_path = files.inputs;
  std::string targets_path = files.targets;
  const size_t comma = inputs_path.find(',');
  if (comma != std::string::npos && targets_path.empty()) {
    targets_path = inputs_path.substr(comma + 1);
    inputs_path.resize(comma);
  }
  absl::StatusOr<std::unique_ptr<RowReader>> inputs = OpenArray(inputs_path, kInputKeys);
  if (!inputs.ok()) return inputs.status();
  if (targets_path.empty() && !files.inputs_only) {
    const absl::StatusOr<bool> both = HoldsTargets(inputs_path);
    if (!both.ok()) return both.status();
    if (*both) targets_path = inputs_path;
  }
  std::unique_ptr<RowReader> targets;
  if (!targets_path.empty()) {
    absl::StatusOr<std::unique_ptr<RowReader>> opened = OpenArray(targets_path, kTargetKeys);
    if (!opened.ok()) return opened.status();
    targets = *std::move(opened);
  }
  if (targets && targets->rows() != (*inputs)->rows()) {
    return absl::InvalidArgumentError(absl::StrCat(targets_path, ": ", targets->rows(),
                                                   " targets for ", (*inputs)->rows(),
                                                   " inputs of ", inputs_path));
  }
  Examples examples;
  absl::StatusOr<Array> rows = ReadRows(files.rows, inputs_path, **inputs);
  if (!rows.ok()) return rows.status();
  examples.inputs = *std::move(rows);
  if (targets) {
    rows = ReadRows(files.rows, targets_path, *targets);
    if (!rows.ok()) return rows.status();
    examples.targets = *std::move(rows);
  }
  return examples;
}

Array SliceRows(const Array& array, int64_t begin, int64_t count) {
  Array slice;
  slice.dtype = array.dtype;
  slice.boolean = array.boolean;
  slice.shape = array.shape;
  slice.shape[0] = count;
  const int64_t row_bytes = array.rows() ? array.bytes.size() / array.rows() : 0;
  slice.bytes = array.bytes.substr(begin * row_bytes, count * row_bytes);
  return slice;
}

absl::Status ShapeForModel(const client::Model& model, const std::string& name, Array& inputs) {
  const bool batch = !inputs.shape.empty() &&
                     WithoutOnes(ExampleShape(inputs.shape)) == WithoutOnes(model.input_shape);
  const bool one_example =
      !inputs.shape.empty() && !batch && LeavesOutOnes(inputs.shape, model.input_shape);
  if (!batch && !one_example) {
    std::vector<std::string> expected = {"N"};
    for (int64_t size : model.input_shape) expected.push_back(absl::StrCat(size));
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": model ", model.name, " takes examples of shape ", ShapeString(model.input_shape),
        ": expected an array of shape [", absl::StrJoin(expected, ", "), "], got ",
        ShapeString(inputs.shape), ShapeHint(inputs.shape, model.input_shape)));
  }
  const int64_t rows = batch ? inputs.rows() : 1;
  inputs.shape = model.input_shape;
  inputs.shape.insert(inputs.shape.begin(), rows);

  if (inputs.boolean) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": holds bool, but model ", model.name,
                                                   " takes ", DTypeName(model.input_dtype),
                                                   ": save it as float32 zeros and ones"));
  }
  if (inputs.dtype == DType::kUint8 && !model.accepts_uint8) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": holds uint8, but model ", model.name, " takes ", DTypeName(model.input_dtype),
        " and its manifest does not say how pixels become inputs (uint8_scale)"));
  }
  if (inputs.dtype == DType::kInt32 || inputs.dtype == DType::kInt64) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": holds ", DTypeName(inputs.dtype),
                                                   ", but model ", model.name, " takes ",
                                                   DTypeName(model.input_dtype)));
  }
  return absl::OkStatus();
}

absl::Status ShapeTargetsForModel(const client::Model& model, Array& targets) {
  if (model.likelihood == client::Likelihood::kGaussian && targets.shape.size() == 1) {
    targets.shape.push_back(1);
  }
  if (model.likelihood != client::Likelihood::kBernoulli) return absl::OkStatus();
  const int64_t labels = model.n_outputs;
  if (targets.shape != Sizes{targets.rows(), labels} &&
      !(labels == 1 && targets.shape.size() == 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "labels: model ", model.name, " has ", labels,
        " labels, each of them there or not: ", "expected an array of 0s and 1s of shape [N, ",
        labels, "], got ", DTypeName(targets.dtype), " of shape ", ShapeString(targets.shape)));
  }
  targets.shape = {targets.rows(), labels};
  switch (targets.dtype) {
    case DType::kFloat32:
      return ToZerosAndOnes<float>(targets);
    case DType::kFloat64:
      return ToZerosAndOnes<double>(targets);
    case DType::kUint8:
      return ToZerosAndOnes<uint8_t>(targets);
    case DType::kInt32:
      return ToZerosAndOnes<int32_t>(targets);
    case DType::kInt64:
      return ToZerosAndOnes<int64_t>(targets);
  }
  return absl::InternalError("unknown element type");
}

absl::StatusOr<std::vector<int64_t>> ClassLabels(const Array& targets, int64_t n_classes) {
  std::vector<int64_t> labels;
  if (targets.shape.size() == 1 && targets.dtype == DType::kUint8) {
    labels = AsInt64<uint8_t>(targets);
  } else if (targets.shape.size() == 1 && targets.dtype == DType::kInt32) {
    labels = AsInt64<int32_t>(targets);
  } else if (targets.shape.size() == 1 && targets.dtype == DType::kInt64) {
    labels = AsInt64<int64_t>(targets);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("labels: expected one integer for each input, got ", DTypeName(targets.dtype),
                     " of shape ", ShapeString(targets.shape)));
  }
  for (size_t row = 0; row < labels.size(); ++row) {
    if (labels[row] < 0 || labels[row] >= n_classes) {
      return absl::InvalidArgumentError(absl::StrCat("labels: row ", row, " is ", labels[row],
                                                     ", expected a class from 0 to ",
                                                     n_classes - 1));
    }
  }
  return labels;
}

}  // namespace laplace::cli
