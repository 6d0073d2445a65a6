#include "server/registry/dataset_store.h"

#include <stdio.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/atomic_file.h"
#include "formats/file_type.h"
#include "formats/npy.h"
#include "server/model/field_error.h"
#include "server/registry/record_json.h"

namespace laplaced {
namespace {

constexpr int64_t kFormatVersion = 1;
constexpr char kRecordFile[] = "dataset.json";
constexpr char kInputsFile[] = "inputs.npy";
constexpr char kTargetsFile[] = "targets.npy";
// With the dimension of rows this is what every NumPy reads.
constexpr size_t kMaxExampleDimensions = 31;

std::string Join(const std::string& folder, const char* name) {
  return absl::StrCat(folder, "/", name);
}

// dataset.json, with types by name.
struct StoredHeader {
  int64_t format_version = kFormatVersion;
  std::string id;
  std::string input_dtype;
  std::vector<int64_t> example_shape;
  std::string target_dtype;
  std::vector<int64_t> target_shape;
  int64_t n_rows = 0;
};

template <typename Visitor>
void VisitFields(StoredHeader& stored, Visitor& visit) {
  visit("format_version", stored.format_version);
  visit("id", stored.id);
  visit("input_dtype", stored.input_dtype);
  visit("example_shape", stored.example_shape);
  visit("target_dtype", stored.target_dtype);
  visit("target_shape", stored.target_shape);
  visit("n_rows", stored.n_rows);
}

std::string EncodeInfo(const DatasetInfo& info) {
  StoredHeader stored;
  stored.id = info.id;
  stored.input_dtype = DTypeName(info.header.input_dtype);
  stored.example_shape = info.header.example_shape;
  stored.target_dtype = DTypeName(info.header.target_dtype);
  stored.target_shape = info.header.target_shape;
  stored.n_rows = info.header.n_rows;
  FieldWriter writer;
  VisitFields(stored, writer);
  return SealJson(writer.object());
}

absl::StatusOr<DatasetInfo> ReadInfo(const std::string& path) {
  absl::StatusOr<Json> object = ReadSealedFile(path);
  if (!object.ok()) return object.status();
  StoredHeader stored;
  FieldReader reader(*object);
  VisitFields(stored, reader);
  if (!reader.status().ok()) {
    return absl::DataLossError(absl::StrCat(path, ": ", reader.status().message()));
  }
  absl::StatusOr<DType> input_dtype = DTypeFromName(stored.input_dtype);
  absl::StatusOr<DType> target_dtype = DTypeFromName(stored.target_dtype);
  if (stored.format_version != kFormatVersion || !input_dtype.ok() || !target_dtype.ok()) {
    return absl::DataLossError(absl::StrCat(path, ": unknown format_version or element type"));
  }
  DatasetInfo info;
  info.id = std::move(stored.id);
  info.header.input_dtype = *input_dtype;
  info.header.example_shape = std::move(stored.example_shape);
  info.header.target_dtype = *target_dtype;
  info.header.target_shape = std::move(stored.target_shape);
  info.header.n_rows = stored.n_rows;
  return info;
}

std::vector<int64_t> WithRows(int64_t rows, const std::vector<int64_t>& shape) {
  std::vector<int64_t> all = {rows};
  all.insert(all.end(), shape.begin(), shape.end());
  return all;
}

bool IsInputType(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kUint8;
}

bool IsTargetType(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kInt64;
}

// Bytes of all rows of one of the two arrays.
absl::StatusOr<int64_t> CheckShape(const char* field, DType dtype,
                                   const std::vector<int64_t>& shape, int64_t n_rows) {
  if (shape.size() > kMaxExampleDimensions) {
    return FieldError(
        field, absl::StrCat(shape.size(), " dimensions, expected at most ", kMaxExampleDimensions));
  }
  for (int64_t size : shape) {
    if (size < 1) {
      return FieldError(field, absl::StrCat("expected positive sizes, got ", ShapeString(shape)));
    }
  }
  absl::StatusOr<int64_t> bytes = NumBytes(dtype, WithRows(n_rows, shape));
  if (!bytes.ok()) return FieldError(field, bytes.status().message());
  return bytes;
}

// The bytes of all values. INVALID_ARGUMENT or RESOURCE_EXHAUSTED.
absl::StatusOr<int64_t> CheckHeader(const DatasetHeader& header, int64_t max_bytes) {
  if (header.n_rows < 1) {
    return FieldError("header.n_rows",
                      absl::StrCat("expected a positive number, got ", header.n_rows));
  }
  if (!IsInputType(header.input_dtype)) {
    return FieldError("header.input_dtype", absl::StrCat("expected float32, float64 or uint8, got ",
                                                         DTypeName(header.input_dtype)));
  }
  if (!IsTargetType(header.target_dtype)) {
    return FieldError(
        "header.target_dtype",
        absl::StrCat("expected int64, float32 or float64, got ", DTypeName(header.target_dtype)));
  }
  absl::StatusOr<int64_t> inputs =
      CheckShape("header.example_shape", header.input_dtype, header.example_shape, header.n_rows);
  if (!inputs.ok()) return inputs.status();
  absl::StatusOr<int64_t> targets =
      CheckShape("header.target_shape", header.target_dtype, header.target_shape, header.n_rows);
  if (!targets.ok()) return targets.status();
  if (*inputs > max_bytes || *targets > max_bytes - *inputs) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the data set has ", *inputs, " bytes of inputs and ", *targets,
                     " bytes of targets, more than the limit of ", max_bytes));
  }
  return *inputs + *targets;
}

// Bytes of the data sets that are complete; what is being written stands in hidden folders.
int64_t StoredBytes(const std::string& root) {
  int64_t bytes = 0;
  std::error_code error;
  auto entry = std::filesystem::directory_iterator(root, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    if (!IsDatasetId(entry->path().filename().string())) continue;
    for (const char* file : {kInputsFile, kTargetsFile}) {
      std::error_code unreadable;
      const std::uintmax_t size = std::filesystem::file_size(entry->path() / file, unreadable);
      if (!unreadable) bytes += static_cast<int64_t>(size);
    }
  }
  return bytes;
}

template <typename T>
int64_t FirstNonFinite(const char* bytes, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, bytes + i * static_cast<int64_t>(sizeof value), sizeof value);
    if (!std::isfinite(value)) return i;
  }
  return count;
}

// One of the two arrays of a data set, its file in the making.
struct Column {
  const char* field;
  DType dtype;
  std::vector<int64_t> row_shape;
  int64_t row_elements;
  std::string path;
  UniqueFd fd;

  absl::Status Create(int64_t n_rows) {
    absl::StatusOr<std::string> header = SerializeNpyHeader(dtype, WithRows(n_rows, row_shape));
    if (!header.ok()) return header.status();
    absl::StatusOr<UniqueFd> created = CreateNewFile(path);
    if (!created.ok()) return created.status();
    fd = *std::move(created);
    return WriteAll(fd.get(), *header, path);
  }

  absl::Status CheckChunk(const ArrayView& chunk) const {
    if (chunk.dtype != dtype) {
      return FieldError(field, absl::StrCat("expected ", DTypeName(dtype), " as announced, got ",
                                            DTypeName(chunk.dtype)));
    }
    if (chunk.shape.empty() || chunk.shape[0] < 0 ||
        chunk.shape != WithRows(chunk.shape[0], row_shape)) {
      return FieldError(
          field, absl::StrCat("expected rows of shape ", ShapeString(row_shape),
                              " as announced, got a chunk of shape ", ShapeString(chunk.shape)));
    }
    return absl::OkStatus();
  }

  absl::Status CheckFinite(const ArrayView& chunk, int64_t first_row) const {
    const int64_t count = chunk.shape[0] * row_elements;
    const char* bytes = static_cast<const char*>(chunk.data);
    const int64_t bad = dtype == DType::kFloat32   ? FirstNonFinite<float>(bytes, count)
                        : dtype == DType::kFloat64 ? FirstNonFinite<double>(bytes, count)
                                                   : count;
    if (bad == count) return absl::OkStatus();
    return FieldError(field, absl::StrCat("row ", first_row + bad / row_elements,
                                          " has a value that is not finite, at position ",
                                          bad % row_elements, " of the row"));
  }

  int64_t row_bytes() const { return row_elements * ElementSize(dtype); }
};

bool Matches(const std::string& path, DType dtype, const std::vector<int64_t>& shape,
             absl::Status* status) {
  absl::StatusOr<NpyHeader> header = ReadNpyHeader(path);
  if (absl::IsNotFound(header.status()) || absl::IsInvalidArgument(header.status())) {
    *status = absl::DataLossError(header.status().message());
  } else if (!header.ok()) {
    *status = header.status();  // of the disk, and perhaps not for long
  } else if (header->dtype != dtype || header->shape != shape) {
    *status = absl::DataLossError(absl::StrCat(path, ": ", DTypeName(header->dtype), " ",
                                               ShapeString(header->shape), ", expected ",
                                               DTypeName(dtype), " ", ShapeString(shape)));
  }
  return status->ok();
}

// Makes room for and moves in a finished folder whose place is taken by a damaged one.
absl::Status ReplaceFolder(const std::string& from, const std::string& to) {
  const std::string aside = TemporaryPath(ParentFolder(to));
  if (absl::Status status = RenameFolder(to, aside); !status.ok()) return status;
  if (absl::Status status = RenameFolder(from, to); !status.ok()) {
    RenameFolder(aside, to).IgnoreError();
    return status;
  }
  RemoveAll(aside).IgnoreError();  // what stays of it, Open removes
  return absl::OkStatus();
}

}  // namespace

// Bytes that writers have announced and not yet given up or stored.
struct DatasetStore::Pending {
  std::mutex mutex;
  int64_t bytes = 0;
};

class DatasetStore::Share {
 public:
  // REQUIRES: pending->mutex held.
  Share(std::shared_ptr<Pending> pending, int64_t bytes)
      : pending_(std::move(pending)), bytes_(bytes) {
    pending_->bytes += bytes_;
  }
  ~Share() {
    std::lock_guard<std::mutex> lock(pending_->mutex);
    pending_->bytes -= bytes_;
  }

 private:
  const std::shared_ptr<Pending> pending_;
  const int64_t bytes_;
};

struct DatasetWriter::State {
  ~State() {
    inputs.fd.Reset();
    targets.fd.Reset();
    RemoveAll(temporary).IgnoreError();
  }

  absl::Status Write(const ArrayView& input_rows, const ArrayView& target_rows);
  absl::Status Finish(const DatasetInfo& info);

  DatasetStore store;
  std::unique_ptr<DatasetStore::Share> share;
  std::string folder;     // of all data sets
  std::string temporary;  // of this one
  DatasetHeader header;
  DatasetHasher hasher;
  Column inputs;
  Column targets;
  int64_t rows = 0;
  int64_t unsynced = 0;  // bytes
  bool usable = true;
};

absl::Status DatasetWriter::State::Write(const ArrayView& input_rows,
                                         const ArrayView& target_rows) {
  const int64_t n = input_rows.shape[0];
  const absl::string_view input_bytes(static_cast<const char*>(input_rows.data),
                                      static_cast<size_t>(n * inputs.row_bytes()));
  const absl::string_view target_bytes(static_cast<const char*>(target_rows.data),
                                       static_cast<size_t>(n * targets.row_bytes()));
  absl::Status status = WriteAll(inputs.fd.get(), input_bytes, inputs.path);
  if (status.ok()) status = WriteAll(targets.fd.get(), target_bytes, targets.path);
  if (!status.ok()) return status;
  hasher.Update(input_bytes.data(), input_bytes.size(), target_bytes.data(), target_bytes.size());
  rows += n;
  // Now and then, so that the last sync, during which nobody hears of this, is short.
  constexpr int64_t kMostUnsynced = int64_t{256} << 20;
  unsynced += static_cast<int64_t>(input_bytes.size() + target_bytes.size());
  if (unsynced < kMostUnsynced) return absl::OkStatus();
  unsynced = 0;
  status = SyncFile(inputs.fd.get(), inputs.path);
  return status.ok() ? SyncFile(targets.fd.get(), targets.path) : status;
}

absl::Status DatasetWriter::State::Finish(const DatasetInfo& info) {
  absl::StatusOr<DatasetFiles> present = store.Find(info.id);
  if (present.ok()) return absl::OkStatus();
  if (!absl::IsNotFound(present.status()) && !absl::IsDataLoss(present.status())) {
    return present.status();
  }
  for (const Column* column : {&inputs, &targets}) {
    absl::Status status = SyncFile(column->fd.get(), column->path);
    if (!status.ok()) return status;
  }
  absl::Status status = WriteNewFile(Join(temporary, kRecordFile), {EncodeInfo(info)});
  if (!status.ok()) return status;
  status = SyncFolder(temporary);
  if (!status.ok()) return status;
  const std::string target = absl::StrCat(folder, "/", info.id);
  if (absl::IsDataLoss(present.status())) {
    status = ReplaceFolder(temporary, target);
  } else {
    status = RenameFolder(temporary, target);
  }
  // Somebody else may have committed the same data in the meantime.
  if (absl::IsAlreadyExists(status) && store.Find(info.id).ok()) return absl::OkStatus();
  return status;
}

DatasetWriter::DatasetWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
DatasetWriter::~DatasetWriter() = default;

absl::Status DatasetWriter::Append(const ArrayView& inputs, const ArrayView& targets) {
  State& state = *state_;
  if (!state.usable) {
    return absl::FailedPreconditionError("the data set is committed, or writing it failed before");
  }
  absl::Status status = state.inputs.CheckChunk(inputs);
  if (status.ok()) status = state.targets.CheckChunk(targets);
  if (!status.ok()) return status;
  if (targets.shape[0] != inputs.shape[0]) {
    return FieldError("targets", absl::StrCat("expected ", inputs.shape[0],
                                              " rows as in the inputs, got ", targets.shape[0]));
  }
  const int64_t missing = state.header.n_rows - state.rows;
  if (inputs.shape[0] > missing) {
    return FieldError(
        "inputs", absl::StrCat("expected ", state.header.n_rows, " rows in all as announced, got ",
                               inputs.shape[0] - missing, " more"));
  }
  status = state.inputs.CheckFinite(inputs, state.rows);
  if (status.ok()) status = state.targets.CheckFinite(targets, state.rows);
  if (!status.ok()) return status;
  status = state.Write(inputs, targets);
  state.usable = status.ok();
  return status;
}

absl::StatusOr<DatasetInfo> DatasetWriter::Commit() {
  State& state = *state_;
  if (!state.usable) {
    return absl::FailedPreconditionError("the data set is committed, or writing it failed before");
  }
  if (state.rows != state.header.n_rows) {
    return FieldError("inputs", absl::StrCat("expected ", state.header.n_rows,
                                             " rows as announced, got ", state.rows));
  }
  state.usable = false;
  DatasetInfo info;
  info.header = state.header;
  info.id = state.hasher.Finish();
  absl::Status status = state.Finish(info);
  RemoveAll(state.temporary).IgnoreError();
  if (!status.ok()) return status;
  return info;
}

DatasetStore::DatasetStore(std::string folder, int64_t max_dataset_bytes, int64_t max_total_bytes)
    : folder_(std::move(folder)),
      max_dataset_bytes_(max_dataset_bytes),
      max_total_bytes_(max_total_bytes),
      pending_(std::make_shared<Pending>()) {}

absl::StatusOr<std::unique_ptr<DatasetStore::Share>> DatasetStore::Reserve(int64_t bytes) const {
  std::lock_guard<std::mutex> lock(pending_->mutex);
  if (max_total_bytes_ > 0) {
    const int64_t stored = StoredBytes(folder_);
    if (bytes > max_total_bytes_ - stored - pending_->bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the data set has ", bytes, " bytes, and of the server's limit of ", max_total_bytes_,
          " for all data sets (max_datasets_bytes) ", stored, " are stored and ", pending_->bytes,
          " on their way: remove data sets that are not needed from the registry's folder "
          "datasets, "
          "or raise the limit"));
    }
  }
  return std::make_unique<Share>(pending_, bytes);
}

absl::StatusOr<std::unique_ptr<DatasetWriter>> DatasetStore::NewWriter(
    const DatasetHeader& header) const {
  const absl::StatusOr<int64_t> bytes = CheckHeader(header, max_dataset_bytes_);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<std::unique_ptr<Share>> share = Reserve(*bytes);
  if (!share.ok()) return share.status();
  const std::string temporary = TemporaryPath(folder_);
  if (absl::Status status = MakeFolders(temporary); !status.ok()) return status;
  const auto column = [&](const char* field, DType dtype, const std::vector<int64_t>& shape,
                          const char* file) {
    return Column{field, dtype, shape, *NumElements(shape), Join(temporary, file), UniqueFd()};
  };
  std::unique_ptr<DatasetWriter::State> state(new DatasetWriter::State{
      *this, *std::move(share), folder_, temporary, header, DatasetHasher(header),
      column("inputs", header.input_dtype, header.example_shape, kInputsFile),
      column("targets", header.target_dtype, header.target_shape, kTargetsFile)});
  for (Column* file : {&state->inputs, &state->targets}) {
    if (absl::Status status = file->Create(header.n_rows); !status.ok()) return status;
  }
  return std::unique_ptr<DatasetWriter>(new DatasetWriter(std::move(state)));
}

absl::StatusOr<DatasetFiles> DatasetStore::Find(const std::string& id) const {
  if (!IsDatasetId(id)) {
    return FieldError("dataset_id",
                      absl::StrCat("expected sha256- and 64 lower-case hexadecimal digits, got '",
                                   absl::CHexEscape(id.substr(0, 100)), "'"));
  }
  const std::string folder = absl::StrCat(folder_, "/", id);
  const auto type = FileTypeOf(folder);
  if (!type.ok()) return type.status();
  if (*type == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat("there is no data set '", id, "'"));
  }
  const std::string record_path = Join(folder, kRecordFile);
  absl::StatusOr<DatasetInfo> info = ReadInfo(record_path);
  if (absl::IsNotFound(info.status())) return absl::DataLossError(info.status().message());
  if (!info.ok()) return info.status();
  if (info->id != id) return absl::DataLossError(absl::StrCat(record_path, ": another id"));
  DatasetFiles files{*std::move(info), Join(folder, kInputsFile), Join(folder, kTargetsFile)};
  const DatasetHeader& header = files.info.header;
  absl::Status status;
  if (!Matches(files.inputs_path, header.input_dtype, WithRows(header.n_rows, header.example_shape),
               &status) ||
      !Matches(files.targets_path, header.target_dtype,
               WithRows(header.n_rows, header.target_shape), &status)) {
    return status;
  }
  return files;
}

}  // namespace laplaced
