#include "server/data/dataset.h"

#include <algorithm>
#include <functional>
#include <map>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/array.h"
#include "formats/array_file.h"
#include "server/model/input_transform.h"

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
  return AliasArray({array.dtype, array.shape, array.bytes.data()}).clone();
}

// One hash per row of the inputs.
std::vector<size_t> RowHashes(const at::Tensor& inputs) {
  const at::Tensor rows = inputs.contiguous();
  const size_t bytes = rows.size(0) > 0 ? rows.nbytes() / static_cast<size_t>(rows.size(0)) : 0;
  const char* data = static_cast<const char*>(rows.data_ptr());
  std::vector<size_t> hashes;
  for (int64_t n = 0; n < rows.size(0); ++n) {
    hashes.push_back(std::hash<std::string_view>()({data + static_cast<size_t>(n) * bytes, bytes}));
  }
  return hashes;
}

}  // namespace

int64_t SharedExamples(const Dataset& a, const Dataset& b) {
  if (a.inputs.scalar_type() != b.inputs.scalar_type()) return 0;
  const std::vector<size_t> known = RowHashes(a.inputs), asked = RowHashes(b.inputs);
  const std::unordered_set<size_t> set(known.begin(), known.end());
  return std::count_if(asked.begin(), asked.end(),
                       [&](size_t hash) { return set.count(hash) > 0; });
}

Dataset Dataset::Select(const at::Tensor& rows) const {
  return {inputs.index_select(0, rows), targets.index_select(0, rows)};
}

Dataset Dataset::Slice(int64_t begin, int64_t end) const {
  return {inputs.narrow(0, begin, end - begin), targets.narrow(0, begin, end - begin)};
}

absl::StatusOr<Dataset> ReadDataset(const std::string& inputs_path,
                                    const std::string& targets_path) {
  absl::StatusOr<at::Tensor> inputs = ReadTensor(inputs_path);
  if (!inputs.ok()) return inputs.status();
  absl::StatusOr<at::Tensor> targets = ReadTensor(targets_path);
  if (!targets.ok()) return targets.status();
  const int64_t rows = inputs->dim() > 0 ? inputs->size(0) : 0;
  if (rows == 0 || targets->dim() == 0 || targets->size(0) != rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected as many targets as inputs and at least one, got ", rows,
                     " inputs and ", targets->dim() > 0 ? targets->size(0) : 0, " targets"));
  }
  Dataset dataset{*std::move(inputs), *std::move(targets)};
  if (at::isIntegralType(dataset.targets.scalar_type(), /*includeBool=*/true)) {
    dataset.targets = dataset.targets.to(at::kLong);
  }
  return dataset;
}

}  // namespace laplaced
