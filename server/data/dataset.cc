#include "server/data/dataset.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <map>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/array.h"
#include "formats/array_file.h"
#include "formats/file_handle.h"
#include "formats/npy.h"
#include "server/linalg/mix_bits.h"
#include "server/linalg/ranks.h"
#include "server/model/input_transform.h"
#include "server/model/torch_status.h"

namespace laplaced {
namespace {

absl::StatusOr<at::Tensor> ReadTensor(const std::string& path) {
  absl::StatusOr<std::map<std::string, Array>> arrays = ReadArrayFile(path);
  if (!arrays.ok()) return arrays.status();
  if (arrays->size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected one array, got ", arrays->size()));
  }
  const Array& array = arrays->begin()->second;
  return CatchTorch(path, [&]() -> absl::StatusOr<at::Tensor> {
    return AliasArray({array.dtype, array.shape, array.bytes.data()}).clone();
  });
}

// Rows `share` of an array [N, ...] in a .npy file, and N.
struct Rows {
  at::Tensor values;
  int64_t total = 0;
};

absl::StatusOr<Rows> ReadRows(const std::string& path, int64_t rank, int64_t size) {
  absl::StatusOr<NpyHeader> header = ReadNpyHeader(path);
  if (!header.ok()) return header.status();
  absl::StatusOr<OpenedFile> file = OpenRegularFile(path);
  if (!file.ok()) return file.status();
  if (header->shape.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected rows, got a single number"));
  }
  Rows rows;
  rows.total = header->shape[0];
  const Share share = ShareOf(rows.total, rank, size);
  absl::StatusOr<int64_t> all = NumBytes(header->dtype, header->shape);
  if (!all.ok()) return all.status();
  const int64_t row_bytes = rows.total > 0 ? *all / rows.total : 0;
  header->shape[0] = share.size();
  return CatchTorch(path, [&]() -> absl::StatusOr<Rows> {
    rows.values = at::empty(header->shape, ScalarTypeOf(header->dtype));
    if (lseek(file->fd.get(), header->data_offset + share.begin * row_bytes, SEEK_SET) < 0) {
      return absl::ErrnoToStatus(errno, path);
    }
    LAPLACED_RETURN_IF_ERROR(ReadExactly(file->fd.get(), static_cast<char*>(rows.values.data_ptr()),
                                         static_cast<size_t>(share.size() * row_bytes), path));
    return rows;
  });
}

absl::Status CheckRows(int64_t inputs, int64_t targets) {
  if (inputs > 0 && targets == inputs) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("expected as many targets as inputs and at least one, got ", inputs,
                   " inputs and ", targets, " targets"));
}

void WidenLabels(Dataset& dataset) {
  if (at::isIntegralType(dataset.targets.scalar_type(), /*includeBool=*/true)) {
    dataset.targets = dataset.targets.to(at::kLong);
  }
}

}  // namespace

at::Tensor InputHashes(const Dataset& data) {
  const at::Tensor rows = data.inputs.contiguous();
  const size_t bytes = rows.size(0) > 0 ? rows.nbytes() / static_cast<size_t>(rows.size(0)) : 0;
  const char* begin = static_cast<const char*>(rows.data_ptr());
  const size_t type = MixBits(static_cast<uint64_t>(rows.scalar_type()));
  const at::Tensor hashes = at::empty({rows.size(0)}, at::kLong);
  auto* out = hashes.data_ptr<int64_t>();
  for (int64_t n = 0; n < rows.size(0); ++n) {
    const std::string_view row(begin + static_cast<size_t>(n) * bytes, bytes);
    out[n] = static_cast<int64_t>(std::hash<std::string_view>()(row) ^ type);
  }
  return hashes;
}

int64_t SharedHashes(const at::Tensor& a, const at::Tensor& b) {
  const auto* known = a.data_ptr<int64_t>();
  const auto* asked = b.data_ptr<int64_t>();
  const std::unordered_set<int64_t> set(known, known + a.numel());
  return std::count_if(asked, asked + b.numel(), [&](int64_t hash) { return set.count(hash) > 0; });
}

Dataset Dataset::Select(const at::Tensor& rows) const {
  return {inputs.index_select(0, rows), targets.index_select(0, rows)};
}

Dataset Dataset::Slice(int64_t begin, int64_t end) const {
  return {inputs.narrow(0, begin, end - begin), targets.narrow(0, begin, end - begin)};
}

Dataset Dataset::PartOf(const Ranks& ranks) const {
  const Share share = ShareOf(size(), ranks);
  Dataset part = Slice(share.begin, share.end);
  part.first = share.begin;
  part.whole = size();
  return part;
}

at::Tensor Dataset::Here(const at::Tensor& rows) const {
  if (size() == total()) return rows;
  return rows.masked_select((rows >= first).logical_and(rows < first + size())) - first;
}

absl::StatusOr<Dataset> ReadDataset(const std::string& inputs_path,
                                    const std::string& targets_path) {
  absl::StatusOr<at::Tensor> inputs = ReadTensor(inputs_path);
  if (!inputs.ok()) return inputs.status();
  absl::StatusOr<at::Tensor> targets = ReadTensor(targets_path);
  if (!targets.ok()) return targets.status();
  LAPLACED_RETURN_IF_ERROR(CheckRows(inputs->dim() > 0 ? inputs->size(0) : 0,
                                     targets->dim() > 0 ? targets->size(0) : 0));
  Dataset dataset{*std::move(inputs), *std::move(targets)};
  WidenLabels(dataset);
  return dataset;
}

absl::StatusOr<Dataset> ReadDatasetShare(const std::string& inputs_path,
                                         const std::string& targets_path, int64_t rank,
                                         int64_t size) {
  LAPLACED_ASSIGN_OR_RETURN(Rows inputs, ReadRows(inputs_path, rank, size));
  LAPLACED_ASSIGN_OR_RETURN(Rows targets, ReadRows(targets_path, rank, size));
  LAPLACED_RETURN_IF_ERROR(CheckRows(inputs.total, targets.total));
  Dataset dataset{std::move(inputs.values), std::move(targets.values)};
  dataset.first = ShareOf(inputs.total, rank, size).begin;
  dataset.whole = inputs.total;
  WidenLabels(dataset);
  return dataset;
}

}  // namespace laplaced
