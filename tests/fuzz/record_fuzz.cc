// Records of the registry: a posterior's, an operation's, a data set's. They are sealed with a
// checksum, which nobody who means harm would get wrong, so the input is sealed here; the first
// byte chooses the record, and whether the input is taken as it is instead.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "formats/sha256.h"
#include "server/registry/dataset_store.h"
#include "server/registry/operation_store.h"
#include "server/registry/posterior_artifact.h"
#include "server/registry/posterior_record_fields.h"
#include "server/registry/record_json.h"
#include "server/registry/sealed_json.h"
#include "tests/fuzz/heap_bound.h"
#include "tests/fuzz/target.h"

namespace laplaced::fuzz {
namespace {

constexpr size_t kMaxBytes = 16 << 10;
constexpr char kDatasetId[] =
    "sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

// As SealJson does it, of any text in place of an object without its closing brace.
std::string Sealed(absl::string_view body) {
  return absl::StrCat(body, ",\n  \"record_sha256\": \"", Sha256Hex(body), "\"\n}\n");
}

std::string Folder(const std::string& name) {
  const std::string path = absl::StrCat(ScratchFolder(), "/", name);
  std::filesystem::create_directories(path);
  return path;
}

void ReadPosterior(const std::string& text) {
  static const std::string folder = Folder("posterior");
  WriteScratch("posterior/posterior.json", text);
  const HeapBound bound(text.size(), 64, 64 << 10);
  const auto allowed = {absl::StatusCode::kDataLoss, absl::StatusCode::kFailedPrecondition};
  RequireStatus(ReadPosteriorRecord(folder).status(), allowed);
  RequireStatus(ReadPosteriorArtifact(folder).status(),
                {absl::StatusCode::kDataLoss, absl::StatusCode::kFailedPrecondition});
}

void ReadOperation(const std::string& text) {
  static const std::string folder = Folder("operations");
  WriteScratch("operations/op-1.json", text);
  const HeapBound bound(text.size(), 64, 64 << 10);
  std::vector<std::string> damaged;
  const auto store = OperationStore::OpenReadOnly(folder, &damaged);
  Require(store.ok(), "one damaged record keeps the others from being read");
  Require(store->recovered().size() + damaged.size() <= 1, "one file, several records");
}

void ReadDataset(const std::string& text) {
  static const std::string folder = Folder(absl::StrCat("datasets/", kDatasetId));
  WriteScratch(absl::StrCat("datasets/", kDatasetId, "/dataset.json"), text);
  const HeapBound bound(text.size(), 64, 64 << 10);
  const DatasetStore store(absl::StrCat(ScratchFolder(), "/datasets"), 1 << 20);
  RequireStatus(store.Find(kDatasetId).status(), {absl::StatusCode::kDataLoss});
}

void Run(absl::string_view input) {
  if (input.empty()) return;
  const auto choice = static_cast<unsigned char>(input[0]);
  input.remove_prefix(1);
  const std::string text = choice / 3 % 2 == 0 ? Sealed(input) : std::string(input);
  if (choice % 3 == 0) ReadPosterior(text);
  if (choice % 3 == 1) ReadOperation(text);
  if (choice % 3 == 2) ReadDataset(text);
}

// The body of an object's sealed text.
std::string Body(const Json& object) {
  const std::string text = SealJson(object);
  return text.substr(0, text.size() - (Sealed("").size()));
}

std::vector<std::string> Seeds() {
  PosteriorRecord record;
  record.eigenvalues = {3, 2, 1};
  record.prior_candidates.resize(1);
  record.blocks.resize(1);
  record.ood_thresholds.resize(1);
  record.warnings = {"a warning"};
  FieldWriter posterior;
  posterior("format_version", int64_t{3});
  VisitFields(record, posterior);
  Json with_files = posterior.object();
  with_files["files"] = {{"tensors.safetensors", {{"bytes", 1760}, {"sha256", "0123"}}}};
  const Json operation = {{"format_version", 1},
                          {"state", "failed"},
                          {"id", "op-1"},
                          {"description", "fit"},
                          {"posterior_id", ""},
                          {"error_code", 10},
                          {"error_message", "gone"},
                          {"start_time", "2026-01-02T03:04:05.678Z"},
                          {"end_time", ""}};
  const Json dataset = {{"format_version", 1},
                        {"id", kDatasetId},
                        {"input_dtype", "float32"},
                        {"example_shape", {1, 28, 28}},
                        {"target_dtype", "int64"},
                        {"target_shape", Json::array()},
                        {"n_rows", 3}};
  return {std::string(1, '\0') + Body(with_files),
          "\1" + Body(operation),
          "\2" + Body(dataset),
          "\3" + SealJson(with_files),
          "\4" + SealJson(operation),
          "\5" + SealJson(dataset)};
}

LAPLACED_FUZZ_TARGET(record, kMaxBytes, Run, Seeds);

}  // namespace
}  // namespace laplaced::fuzz
