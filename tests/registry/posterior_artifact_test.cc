#include "server/registry/posterior_artifact.h"

#include <cstring>
#include <limits>
#include <thread>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "formats/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/registry/posterior_record_fields.h"
#include "server/registry/sealed_json.h"
#include "tests/support/hostile_bytes.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_folder.h"

namespace laplaced {
namespace {

using ::laplaced::test_support::IsOk;
using ::laplaced::test_support::NamesIn;
using ::laplaced::test_support::ReadFileBytes;
using ::laplaced::test_support::StatusIs;
using ::laplaced::test_support::TempFolder;
using ::laplaced::test_support::WriteFileBytes;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;

// All fields of a record by reference. A structured binding names every member, so this stops to
// compile when a member is added, and what follows covers every member without listing names.
template <typename Record>
auto Fields(Record& record) {
  using Plain = std::remove_const_t<Record>;
  if constexpr (std::is_same_v<Plain, PriorCandidateRecord>) {
    auto& [f1, f2, f3] = record;
    return std::tie(f1, f2, f3);
  } else if constexpr (std::is_same_v<Plain, ParameterBlockRecord>) {
    auto& [f1, f2, f3, f4, f5, f6, f7] = record;
    return std::tie(f1, f2, f3, f4, f5, f6, f7);
  } else if constexpr (std::is_same_v<Plain, OodThresholdRecord>) {
    auto& [f1, f2, f3, f4, f5, f6, f7] = record;
    return std::tie(f1, f2, f3, f4, f5, f6, f7);
  } else if constexpr (std::is_same_v<Plain, FeatureRecord>) {
    auto& [f1, f2, f3, f4, f5, f6] = record;
    return std::tie(f1, f2, f3, f4, f5, f6);
  } else {
    auto& [f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15, f16, f17, f18, f19,
           f20, f21, f22, f23, f24, f25, f26, f27, f28, f29, f30, f31, f32, f33, f34, f35, f36, f37,
           f38, f39, f40, f41, f42, f43, f44, f45, f46, f47, f48, f49, f50, f51, f52, f53, f54, f55,
           f56, f57, f58, f59, f60, f61, f62, f63, f64, f65, f66, f67, f68, f69, f70] = record;
    return std::tie(f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15, f16, f17, f18,
                    f19, f20, f21, f22, f23, f24, f25, f26, f27, f28, f29, f30, f31, f32, f33, f34,
                    f35, f36, f37, f38, f39, f40, f41, f42, f43, f44, f45, f46, f47, f48, f49, f50,
                    f51, f52, f53, f54, f55, f56, f57, f58, f59, f60, f61, f62, f63, f64, f65, f66,
                    f67, f68, f69, f70);
  }
}

constexpr size_t kFieldCount =
    std::tuple_size_v<decltype(Fields(std::declval<PosteriorRecord&>()))>;

// Gives every field another value than its default and than any other field.
class Filler {
 public:
  void operator()(std::string& value) { value = absl::StrCat("text ", ++count_); }
  void operator()(int64_t& value) { value = -1000000007LL * ++count_; }
  void operator()(uint64_t& value) { value = UINT64_MAX - static_cast<uint64_t>(++count_); }
  void operator()(double& value) { value = ++count_ / 7.0; }
  void operator()(bool& value) { value = !value; }
  void operator()(PriorCandidateRecord& value) { FillAll(value); }
  void operator()(OodThresholdRecord& value) { FillAll(value); }
  void operator()(ParameterBlockRecord& value) { FillAll(value); }
  void operator()(FeatureRecord& value) { FillAll(value); }
  template <typename T>
  void operator()(std::vector<T>& values) {
    values.resize(3);
    for (T& value : values) (*this)(value);
  }

 private:
  template <typename Record>
  void FillAll(Record& record) {
    std::apply([this](auto&... field) { ((*this)(field), ...); }, Fields(record));
  }

  int64_t count_ = 0;
};

PosteriorRecord FilledRecord() {
  PosteriorRecord record;
  Filler fill;
  std::apply([&fill](auto&... field) { (fill(field), ...); }, Fields(record));
  return record;
}

bool Same(double a, double b) { return std::memcmp(&a, &b, sizeof a) == 0; }
bool Same(int64_t a, int64_t b) { return a == b; }
bool Same(uint64_t a, uint64_t b) { return a == b; }
bool Same(bool a, bool b) { return a == b; }
bool Same(const std::string& a, const std::string& b) { return a == b; }
bool Same(const PriorCandidateRecord& a, const PriorCandidateRecord& b);
bool Same(const ParameterBlockRecord& a, const ParameterBlockRecord& b);
bool Same(const OodThresholdRecord& a, const OodThresholdRecord& b);
bool Same(const FeatureRecord& a, const FeatureRecord& b);
template <typename T>
bool Same(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const T& x, const T& y) { return Same(x, y); });
}
template <typename Tuple, size_t... kIndex>
bool SameTuples(const Tuple& a, const Tuple& b, std::index_sequence<kIndex...>) {
  return (Same(std::get<kIndex>(a), std::get<kIndex>(b)) && ...);
}
template <typename Record>
bool SameFields(const Record& a, const Record& b) {
  using Tuple = decltype(Fields(a));
  return SameTuples<Tuple>(Fields(a), Fields(b),
                           std::make_index_sequence<std::tuple_size_v<Tuple>>());
}
bool Same(const PriorCandidateRecord& a, const PriorCandidateRecord& b) { return SameFields(a, b); }
bool Same(const ParameterBlockRecord& a, const ParameterBlockRecord& b) { return SameFields(a, b); }
bool Same(const OodThresholdRecord& a, const OodThresholdRecord& b) { return SameFields(a, b); }
bool Same(const FeatureRecord& a, const FeatureRecord& b) { return SameFields(a, b); }

template <size_t... kIndex>
std::vector<size_t> DifferingFields(const PosteriorRecord& a, const PosteriorRecord& b,
                                    std::index_sequence<kIndex...>) {
  std::vector<size_t> differing;
  const auto check = [&differing](size_t index, bool same) {
    if (!same) differing.push_back(index);
  };
  (check(kIndex, Same(std::get<kIndex>(Fields(a)), std::get<kIndex>(Fields(b)))), ...);
  return differing;
}

// Positions, in the order of declaration, of the fields in which two records differ.
std::vector<size_t> DifferingFields(const PosteriorRecord& a, const PosteriorRecord& b) {
  return DifferingFields(a, b, std::make_index_sequence<kFieldCount>());
}

const float kVectors[] = {1, 2, 3, 4, 5, 6};

std::vector<NamedArrayView> Tensors() {
  return {{"directions", {DType::kFloat32, {3, 2}, kVectors}}};
}

std::string RecordPath(const std::string& folder) { return folder + "/posterior.json"; }
std::string TensorsPath(const std::string& folder) { return folder + "/tensors.safetensors"; }

class PosteriorArtifactTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(WritePosteriorArtifact(folder_, FilledRecord(), Tensors()), IsOk());
  }

  TempFolder root_;
  const std::string folder_ = root_.File("posteriors/p-1");
};

TEST_F(PosteriorArtifactTest, RoundTripsEveryFieldAndTensor) {
  const PosteriorRecord written = FilledRecord();
  ASSERT_EQ(DifferingFields(written, PosteriorRecord()).size(), kFieldCount)
      << "the test must fill every field";
  absl::StatusOr<PosteriorArtifact> artifact = ReadPosteriorArtifact(folder_);
  ASSERT_THAT(artifact, IsOk());
  EXPECT_THAT(DifferingFields(artifact->record, written), ElementsAre());
  absl::StatusOr<ArrayView> directions = artifact->tensors.Get("directions");
  ASSERT_THAT(directions, IsOk());
  EXPECT_THAT(directions->shape, ElementsAre(3, 2));
  EXPECT_EQ(std::memcmp(directions->data, kVectors, sizeof kVectors), 0);
}

TEST_F(PosteriorArtifactTest, RecordAloneNeedsNoTensors) {
  std::filesystem::remove(TensorsPath(folder_));
  absl::StatusOr<PosteriorRecord> record = ReadPosteriorRecord(folder_);
  ASSERT_THAT(record, IsOk());
  EXPECT_THAT(DifferingFields(*record, FilledRecord()), ElementsAre());
}

TEST_F(PosteriorArtifactTest, HoldsEveryFieldUnderItsOwnNameAndTheFileTable) {
  const Json object = Json::parse(ReadFileBytes(RecordPath(folder_)), nullptr, false);
  ASSERT_TRUE(object.is_object());
  EXPECT_EQ(object.size(), kFieldCount + 3);
  EXPECT_EQ(object["format_version"], 3);
  for (const char* name : {"id",
                           "model",
                           "version",
                           "requested_rank",
                           "direction_batch_size",
                           "curvature_batch_size",
                           "debiasing",
                           "residual_kind",
                           "structure",
                           "curvature",
                           "parameters",
                           "kfac_eigenvalues",
                           "prior_method",
                           "temperature",
                           "noise_method",
                           "target_relative_standard_error",
                           "variance_correction",
                           "memory_limit_bytes",
                           "fisher_samples",
                           "seed",
                           "lanczos_tolerance",
                           "max_products",
                           "target_id_rate",
                           "max_validation_examples",
                           "n_data",
                           "n_parameters",
                           "rank",
                           "prior_precision",
                           "ood_prior_precision",
                           "sigma_noise",
                           "biased_eigenvalues",
                           "eigenvalues",
                           "standard_errors",
                           "lanczos_residuals",
                           "residual",
                           "trace",
                           "trace_standard_error",
                           "log_marginal_likelihood",
                           "effective_parameters",
                           "mean_train_loss",
                           "parameter_norm_squared",
                           "blocks",
                           "residual_share",
                           "curvature_count",
                           "clipped_directions",
                           "parent_posterior_id",
                           "updated_examples",
                           "updated_dataset_ids",
                           "prior_candidates",
                           "validation_nll_map",
                           "ood_thresholds",
                           "default_ood_score",
                           "mc_samples",
                           "train_dataset_id",
                           "validation_dataset_id",
                           "checkpoint_sha256",
                           "manifest_fingerprint",
                           "code_version",
                           "create_time",
                           "fit_seconds",
                           "curvature_products",
                           "lanczos_seconds",
                           "curvature_seconds",
                           "validation_seconds",
                           "peak_memory_bytes",
                           "warnings"}) {
    EXPECT_TRUE(object.contains(name)) << name;
  }
  const Json& entry = object["files"]["tensors.safetensors"];
  EXPECT_EQ(entry["bytes"], std::filesystem::file_size(TensorsPath(folder_)));
  EXPECT_EQ(entry["sha256"], *Sha256File(TensorsPath(folder_)));
}

TEST_F(PosteriorArtifactTest, RefusesEveryBitFlipInTheTensors) {
  const std::string path = TensorsPath(folder_);
  const std::string good = ReadFileBytes(path);
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string flipped = good;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    WriteFileBytes(path, flipped);
    ASSERT_THAT(ReadPosteriorArtifact(folder_),
                StatusIs(kDataLoss, HasSubstr("tensors.safetensors")))
        << bit;
  }
}

TEST_F(PosteriorArtifactTest, RefusesABitFlipInAnyByteOfTheRecord) {
  const std::string path = RecordPath(folder_);
  const std::string good = ReadFileBytes(path);
  for (size_t byte = 0; byte < good.size(); ++byte) {
    std::string flipped = good;
    flipped[byte] = static_cast<char>(flipped[byte] ^ (1 << byte % 8));
    WriteFileBytes(path, flipped);
    ASSERT_THAT(ReadPosteriorArtifact(folder_), StatusIs(kDataLoss, HasSubstr("posterior.json")))
        << byte;
    ASSERT_THAT(ReadPosteriorRecord(folder_), StatusIs(kDataLoss)) << byte;
  }
}

TEST_F(PosteriorArtifactTest, RefusesEveryTruncation) {
  for (const std::string& path : {TensorsPath(folder_), RecordPath(folder_)}) {
    const std::string good = ReadFileBytes(path);
    for (size_t size = 0; size < good.size(); ++size) {
      WriteFileBytes(path, good.substr(0, size));
      ASSERT_THAT(ReadPosteriorArtifact(folder_), StatusIs(kDataLoss, HasSubstr(path))) << size;
    }
    WriteFileBytes(path, good);
  }
}

TEST_F(PosteriorArtifactTest, RefusesTensorsThatWereExchanged) {
  const std::string other = root_.File("posteriors/p-2");
  ASSERT_THAT(WritePosteriorArtifact(other, FilledRecord(),
                                     {{"directions", {DType::kFloat32, {2, 2}, kVectors}}}),
              IsOk());
  WriteFileBytes(TensorsPath(folder_), ReadFileBytes(TensorsPath(other)));
  EXPECT_THAT(ReadPosteriorArtifact(folder_), StatusIs(kDataLoss, HasSubstr("bytes, expected")));
}

TEST_F(PosteriorArtifactTest, TellsMissingFromIncomplete) {
  EXPECT_THAT(ReadPosteriorArtifact(root_.File("none")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(ReadPosteriorRecord(root_.File("none")), StatusIs(absl::StatusCode::kNotFound));
  std::filesystem::remove(TensorsPath(folder_));
  EXPECT_THAT(ReadPosteriorArtifact(folder_),
              StatusIs(kDataLoss, HasSubstr("tensors.safetensors")));
  std::filesystem::remove(RecordPath(folder_));
  EXPECT_THAT(ReadPosteriorArtifact(folder_), StatusIs(kDataLoss, HasSubstr("posterior.json")));
}

// The record with one change, sealed again as another program would.
void Rewrite(const std::string& folder, const std::function<void(Json&)>& change) {
  Json object = *ReadSealedFile(RecordPath(folder));
  change(object);
  WriteFileBytes(RecordPath(folder), SealJson(object));
}

TEST_F(PosteriorArtifactTest, RefusesANewerFormatByName) {
  Rewrite(folder_, [](Json& object) { object["format_version"] = 4; });
  EXPECT_THAT(ReadPosteriorArtifact(folder_),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("format_version 4")));
  Rewrite(folder_, [](Json& object) { object["format_version"] = 0; });
  EXPECT_THAT(ReadPosteriorArtifact(folder_), StatusIs(kDataLoss));
}

TEST_F(PosteriorArtifactTest, RefusesARecordWithoutAFieldOrWithAnotherType) {
  const std::string good = ReadFileBytes(RecordPath(folder_));
  const Json fields = *ReadSealedFile(RecordPath(folder_));
  for (const auto& field : fields.items()) {
    WriteFileBytes(RecordPath(folder_), good);
    Rewrite(folder_, [&field](Json& object) { object.erase(field.key()); });
    EXPECT_THAT(ReadPosteriorRecord(folder_), StatusIs(kDataLoss, HasSubstr(field.key())));
    WriteFileBytes(RecordPath(folder_), good);
    Rewrite(folder_, [&field](Json& object) { object[field.key()] = nullptr; });
    EXPECT_THAT(ReadPosteriorRecord(folder_), StatusIs(kDataLoss, HasSubstr(field.key())));
  }
}

TEST_F(PosteriorArtifactTest, GivesFieldsThatAnOlderFormatLacksTheirDefaults) {
  Rewrite(folder_, [](Json& object) {
    object["format_version"] = 2;
    for (const char* name : {"structure", "temperature", "blocks", "updated_examples"}) {
      object.erase(name);
    }
    for (Json& candidate : object["prior_candidates"]) candidate.erase("log_marginal_likelihood");
  });
  const absl::StatusOr<PosteriorRecord> record = ReadPosteriorRecord(folder_);
  ASSERT_THAT(record, IsOk());
  PosteriorRecord expected = FilledRecord();
  const PosteriorRecord defaults;
  expected.structure = defaults.structure;
  expected.temperature = defaults.temperature;
  expected.blocks = defaults.blocks;
  expected.updated_examples = defaults.updated_examples;
  for (PriorCandidateRecord& candidate : expected.prior_candidates) {
    candidate.log_marginal_likelihood = 0;
  }
  EXPECT_THAT(DifferingFields(*record, expected), ElementsAre());
  for (const char* name : {"files", "format_version"}) {
    SCOPED_TRACE(name);
    Rewrite(folder_, [name](Json& object) { object.erase(name); });
    EXPECT_THAT(ReadPosteriorRecord(folder_), StatusIs(kDataLoss, HasSubstr(name)));
  }
}

// An artifact as release 0.1 wrote it.
class ReleasedArtifactTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string posteriors =
        LAPLACED_SOURCE_DIR "/tests/data/registry_v1/models/mlp/1/posteriors";
    std::filesystem::copy(posteriors, root_.path(), std::filesystem::copy_options::recursive);
  }

  TempFolder root_;
  const std::string folder_ = root_.File("p-20261123t180047.232z-859c30");
};

TEST_F(ReleasedArtifactTest, IsRead) {
  const absl::StatusOr<PosteriorArtifact> artifact = ReadPosteriorArtifact(folder_);
  ASSERT_THAT(artifact, IsOk());
  const PosteriorRecord& record = artifact->record;
  EXPECT_EQ(record.id, "p-20261123t180047.232z-859c30");
  EXPECT_EQ(record.debiasing, "two_batch");
  EXPECT_EQ(record.residual_kind, "isotropic");
  EXPECT_EQ(record.eigenvalues.size(), 8u);
  EXPECT_EQ(record.eigenvalues[0], 0.6785730012655139);
  EXPECT_EQ(record.prior_precision, 300000.0);
  EXPECT_EQ(record.prior_candidates[0].validation_nll, 0.31492676110342765);
  EXPECT_EQ(record.prior_candidates[0].log_marginal_likelihood, 0);
  // What it could not say.
  EXPECT_EQ(record.structure, "low_rank");
  EXPECT_EQ(record.curvature, "ggn");
  EXPECT_EQ(record.temperature, 1);
  EXPECT_EQ(record.prior_method, "");
  EXPECT_TRUE(record.blocks.empty());
  EXPECT_EQ(record.peak_memory_bytes, 0);
  EXPECT_THAT(ReadPosteriorRecord(folder_), IsOk());
}

TEST_F(ReleasedArtifactTest, IsRefusedWhenItIsDamaged) {
  const std::string record = ReadFileBytes(RecordPath(folder_));
  const std::string changed = absl::StrReplaceAll(
      record, {{"\"debiasing\": \"two_batch\"", "\"debiasing\": \"two_catch\""}});
  ASSERT_NE(changed, record);
  WriteFileBytes(RecordPath(folder_), changed);
  EXPECT_THAT(ReadPosteriorRecord(folder_), StatusIs(kDataLoss, HasSubstr("checksum")));
  WriteFileBytes(RecordPath(folder_), record);
  std::string tensors = ReadFileBytes(TensorsPath(folder_));
  tensors.back() = static_cast<char>(tensors.back() ^ 1);
  WriteFileBytes(TensorsPath(folder_), tensors);
  EXPECT_THAT(ReadPosteriorArtifact(folder_), StatusIs(kDataLoss, HasSubstr("checksum")));
}

TEST_F(PosteriorArtifactTest, NeverReplacesAFolder) {
  const std::string record_before = ReadFileBytes(RecordPath(folder_));
  const std::string tensors_before = ReadFileBytes(TensorsPath(folder_));
  PosteriorRecord other = FilledRecord();
  other.id = "another";
  EXPECT_THAT(WritePosteriorArtifact(folder_, other, {}),
              StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_EQ(ReadFileBytes(RecordPath(folder_)), record_before);
  EXPECT_EQ(ReadFileBytes(TensorsPath(folder_)), tensors_before);
  EXPECT_THAT(NamesIn(root_.File("posteriors")), ElementsAre("p-1"));
  std::filesystem::create_directory(root_.File("posteriors/empty"));
  EXPECT_THAT(WritePosteriorArtifact(root_.File("posteriors/empty"), other, {}),
              StatusIs(absl::StatusCode::kAlreadyExists));
}

TEST_F(PosteriorArtifactTest, OfConcurrentWritersOneWins) {
  const std::string folder = root_.File("posteriors/p-3");
  std::vector<absl::Status> statuses(4);
  std::vector<std::thread> threads;
  for (absl::Status& status : statuses) {
    threads.emplace_back(
        [&status, &folder] { status = WritePosteriorArtifact(folder, FilledRecord(), Tensors()); });
  }
  for (std::thread& thread : threads) thread.join();
  int won = 0;
  for (const absl::Status& status : statuses) {
    won += status.ok() ? 1 : 0;
    EXPECT_TRUE(status.ok() || absl::IsAlreadyExists(status)) << status;
  }
  EXPECT_EQ(won, 1);
  EXPECT_THAT(ReadPosteriorArtifact(folder), IsOk());
  EXPECT_THAT(NamesIn(root_.File("posteriors")), ElementsAre("p-1", "p-3"));
}

TEST_F(PosteriorArtifactTest, FailedWriteLeavesNothingBehind) {
  PosteriorRecord record = FilledRecord();
  record.ood_thresholds[1].rate_lower = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(WritePosteriorArtifact(root_.File("posteriors/p-4"), record, Tensors()),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("ood_thresholds[1].rate_lower")));
  EXPECT_FALSE(WritePosteriorArtifact(root_.File("posteriors/p-5"), FilledRecord(),
                                      {{"", {DType::kFloat32, {1}, kVectors}}})
                   .ok());
  EXPECT_THAT(NamesIn(root_.File("posteriors")), ElementsAre("p-1"));
}

}  // namespace
}  // namespace laplaced
