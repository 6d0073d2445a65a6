#include "formats/dataset_id.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/sha256.h"

namespace laplaced {
namespace {

constexpr char kPrefix[] = "sha256-";

}  // namespace

bool IsDatasetId(absl::string_view id) {
  if (!absl::ConsumePrefix(&id, kPrefix) || id.size() != 64) return false;
  return id.find_first_not_of("0123456789abcdef") == absl::string_view::npos;
}

struct DatasetHasher::State {
  std::string header_text;
  Sha256 inputs;
  Sha256 targets;
};

DatasetHasher::DatasetHasher(const DatasetHeader& header) : state_(std::make_unique<State>()) {
  state_->header_text =
      absl::StrCat("laplaced-dataset-1\n", DTypeName(header.input_dtype), " ",
                   ShapeString(header.example_shape), "\n", DTypeName(header.target_dtype), " ",
                   ShapeString(header.target_shape), "\n", header.n_rows, "\n");
}

DatasetHasher::~DatasetHasher() = default;

void DatasetHasher::Update(const void* inputs, size_t input_bytes, const void* targets,
                           size_t target_bytes) {
  state_->inputs.Update(inputs, input_bytes);
  state_->targets.Update(targets, target_bytes);
}

std::string DatasetHasher::Finish() {
  Sha256 sha;
  sha.Update(state_->header_text);
  sha.Update(state_->inputs.Finish());
  sha.Update(state_->targets.Finish());
  return absl::StrCat(kPrefix, absl::BytesToHexString(sha.Finish()));
}

}  // namespace laplaced
